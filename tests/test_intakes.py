"""Batches between their creation and their lines: gateways that die, that meet, that can't reach what they need."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.producer import intake as lines_in
from batchmill.service import intake_task
from batchmill.service.access.queued import check_queue, queued_lines
from batchmill.service.identity import Identity
from batchmill.service.problems import ApiError
from batchmill.storage.blobs import StorageError
from batchmill.store import batches, intakes, service_keys
from batchmill.store.errors import StoreError
from batchmill.store.handed import Handed
from batchmill.store.intakes import Asked, Fault, Holder, Intake, IntakeState
from batchmill.store.model import BatchState
from batchmill.store.staging import Staging, new_batch_id

from .batch_api_helpers import create, finish, get, jsonl, line, upload, when
from .service_helpers import in_process, service_of
from .store_helpers import all_results
from .waiting import wait_until

DAYS = 3
UPSTREAM = "http://127.0.0.1:1/v1"


async def made(redis: Redis, name: intakes.Name | None = None, **fields: Any) -> str:
    """Create an intake; return its id."""
    batch_id = new_batch_id()
    seconds, _ = await redis.execute_command("TIME")
    asked = Asked(
        handed=fields.pop("handed", Handed(input_file_id="file-1", created_at=int(seconds))),
        expires_at=int(seconds) + 86_400,
        project="default",
        **fields,
    )
    known = await intakes.create(redis, UPSTREAM, batch_id, asked, retention_days=DAYS, name=name)
    return known.batch_id if known else batch_id


async def holder_of(redis: Redis, batch_id: str, run: str) -> Holder:
    return Holder(redis, UPSTREAM, await look(redis, batch_id), run, retention_days=DAYS)


async def look(redis: Redis, batch_id: str) -> Intake:
    found = await intakes.find(redis, batch_id)
    assert found is not None
    return found


async def end_lease(redis: Redis, batch_id: str) -> None:
    """Let its holder have been silent for as long as a lease."""
    await redis.execute_command("ZADD", service_keys.intakes(UPSTREAM), "XX", 1, batch_id)


async def cancel(redis: Redis, batch_id: str) -> IntakeState | None:
    return await intakes.cancel(redis, UPSTREAM, await look(redis, batch_id), retention_days=DAYS)


async def test_an_intake_is_held_by_one(redis: Redis) -> None:
    batch_id = await made(redis)
    assert await intakes.take(redis, UPSTREAM, "one") == batch_id
    assert await intakes.take(redis, UPSTREAM, "two") is None
    assert await intakes.hold(redis, UPSTREAM, batch_id, "one")
    await end_lease(redis, batch_id)
    assert await intakes.take(redis, UPSTREAM, "two") == batch_id
    assert not await intakes.hold(redis, UPSTREAM, batch_id, "one")
    assert (await look(redis, batch_id)).tries == 2


async def test_who_lost_an_intake_changes_nothing(redis: Redis) -> None:
    batch_id = await made(redis)
    assert await intakes.take(redis, UPSTREAM, "one")
    late = await holder_of(redis, batch_id, "one")
    await end_lease(redis, batch_id)
    assert await intakes.take(redis, UPSTREAM, "two")
    assert await late.begin_release() is None
    assert await late.fail((Fault("invalid_request", "No."),)) is None
    assert await late.give_back("No.", 0) is None
    assert (await look(redis, batch_id)).state is IntakeState.VALIDATING


@pytest.mark.parametrize("releasing", [False, True])
async def test_cancelled_before_and_while_its_lines_are_let_go(redis: Redis, releasing: bool) -> None:
    batch_id = await made(redis)
    assert await intakes.take(redis, UPSTREAM, "one")
    holder = await holder_of(redis, batch_id, "one")
    if not releasing:
        assert await cancel(redis, batch_id) is IntakeState.CANCELLED
        assert await holder.begin_release() is IntakeState.CANCELLED
        assert await holder.fail(()) is IntakeState.CANCELLED
        assert await intakes.take(redis, UPSTREAM, "two") is None
        return
    assert await holder.begin_release() is IntakeState.RELEASING
    assert await cancel(redis, batch_id) is IntakeState.CANCELLING
    assert await cancel(redis, batch_id) is IntakeState.CANCELLING
    assert await holder.let_go() is IntakeState.CANCELLING
    assert (await look(redis, batch_id)).cancelling_at is not None
    assert await holder.cancelled() is None
    assert await intakes.find(redis, batch_id) is None


async def test_a_batch_that_can_t_run_and_is_cancelled_is_cancelled(redis: Redis) -> None:
    batch_id = await made(redis)
    assert await intakes.take(redis, UPSTREAM, "one")
    holder = await holder_of(redis, batch_id, "one")
    await holder.begin_release()
    await cancel(redis, batch_id)
    assert await holder.fail((Fault("invalid_request", "No."),)) is IntakeState.CANCELLED
    found = await look(redis, batch_id)
    assert (found.faults, found.cancelled_at is not None) == ((), True)


async def test_what_is_given_back_is_taken_again(redis: Redis) -> None:
    batch_id = await made(redis)
    assert await intakes.take(redis, UPSTREAM, "one")
    await (await holder_of(redis, batch_id, "one")).give_back("the storage is away", 60_000)
    assert await intakes.take(redis, UPSTREAM, "two") is None
    assert (await look(redis, batch_id)).trouble == "the storage is away"
    await end_lease(redis, batch_id)
    assert await intakes.take(redis, UPSTREAM, "two") == batch_id


async def kill_at(monkeypatch: pytest.MonkeyPatch, place: str) -> asyncio.Event:
    """Let the next gateway stop for ever at a place, as one that was killed; say when it is there."""
    there = asyncio.Event()

    async def stuck(*_: Any, **__: Any) -> Any:
        there.set()
        await asyncio.Event().wait()

    if place == "fetched":
        monkeypatch.setattr(intake_task, "_submit", stuck)
    elif place == "staged":
        monkeypatch.setattr(Staging, "release", stuck)
    elif place == "released":
        monkeypatch.setattr(intake_task, "_finish", stuck)
    return there


@pytest.mark.parametrize("place", ["fetched", "staged", "released"])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_gateway_that_dies_is_followed_by_another_and_no_line_is_there_twice(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, place: str, cancelled: bool
) -> None:
    async with in_process(redis, settings, tasks=False) as client:
        batch = await create(client, await upload(client, jsonl(line(number) for number in range(70))))
        with monkeypatch.context() as patched:
            there = await kill_at(patched, place)
            dying = asyncio.create_task(intake_task.take_intakes(service_of(redis, settings)))
            await there.wait()
            if cancelled:
                await client.post(f"/v1/batches/{batch['id']}/cancel")
            patched.setattr(Holder, "give_back", lambda *_: asyncio.sleep(0))  # the dead say nothing
            patched.setattr(Staging, "discard", lambda *_: asyncio.sleep(0))
            dying.cancel()
            await asyncio.gather(dying, return_exceptions=True)
        await end_lease(redis, batch["id"])
    async with in_process(redis, settings) as client:
        if cancelled:
            done = await when(client, batch["id"])
            assert done["status"] == "cancelled"
            assert done["x_counts"]["cancelled"] == (0 if place == "fetched" else 70)
        else:
            found = await when(client, batch["id"], "in_progress")
            assert found["request_counts"]["total"] == 70
            await finish(redis, batch["id"])
            done = await when(client, batch["id"], "completed")
            assert done["request_counts"] == {"total": 70, "completed": 70, "failed": 0}
        listed = (await client.get("/v1/batches")).json()["data"]
        assert [one["id"] for one in listed] == [batch["id"]]
    if not (cancelled and place == "fetched"):
        assert await intakes.find(redis, batch["id"]) is None
        custom_ids = [result.custom_id for result in await all_results(redis, batch["id"])]
        assert len(custom_ids) == len(set(custom_ids)) == 70


async def test_a_gateway_that_stops_gives_back_what_it_held(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_process(redis, settings, tasks=False) as client:
        batch = await create(client, await upload(client, jsonl([line(0)])))
        with monkeypatch.context() as patched:
            there = await kill_at(patched, "fetched")
            stopping = asyncio.create_task(intake_task.take_intakes(service_of(redis, settings)))
            await there.wait()
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
    async with in_process(redis, settings) as client:  # no lease need run out
        await when(client, batch["id"], "in_progress")


async def test_many_gateways_take_in_many_batches_once(redis: Redis, settings: Settings) -> None:
    async with in_process(redis, settings, tasks=False) as client:
        file_id = await upload(client, jsonl(line(number) for number in range(3)))
        made = [(await create(client, file_id))["id"] for _ in range(12)]
        tasks = [asyncio.create_task(intake_task.take_intakes(service_of(redis, settings))) for _ in range(3)]
        for batch_id in made:
            found = await when(client, batch_id, "in_progress")
            assert found["request_counts"]["total"] == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await redis.execute_command("EXISTS", service_keys.intakes(UPSTREAM)) == 0


async def test_an_outage_of_the_storage_is_waited_for(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_task, "_LATER_MS", 50)
    away = True

    async def fetch(self: Any, name: str, target: Path) -> None:
        if away:
            raise StorageError("the bucket with the secret name is away")
        await real(self, name, target)

    async with in_process(redis, settings, tasks=False) as client:
        batch = await create(client, await upload(client, jsonl([line(0)])))
    service = service_of(redis, settings)
    real = type(service.blobs).fetch
    monkeypatch.setattr(type(service.blobs), "fetch", fetch)
    async with in_process(redis, settings) as client:

        async def told() -> bool:
            return (await get(client, batch["id"]))["x_blocked_on"] is not None

        await wait_until(told)
        found = await get(client, batch["id"])
        assert (found["status"], found["x_blocked_on"]) == ("validating", "the storage of files can't be reached")
        away = False
        await when(client, batch["id"], "in_progress")


async def test_a_defect_fails_the_batch_in_the_end(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_task, "_LATER_MS", 0)
    monkeypatch.setattr(intake_task, "_MOST_TRIES", 3)

    async def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(lines_in, "submit", broken)
    async with in_process(redis, settings) as client:
        batch = await create(client, await upload(client, jsonl([line(0)])))
        failed = await when(client, batch["id"])
    assert failed["errors"]["data"][0]["code"] == "server_error"
    assert "secret" not in str(failed)


async def test_a_window_that_is_over_before_anybody_looked(redis: Redis, settings: Settings) -> None:
    async with in_process(redis, settings, tasks=False) as client:
        batch = await create(client, await upload(client, jsonl([line(0)])))
    name = service_keys.intake(batch["id"])
    asked = msgspec.json.decode(await redis.execute_command("HGET", name, "asked"), type=Asked)
    over = msgspec.structs.replace(asked, expires_at=asked.handed.created_at - 1)
    await redis.execute_command("HSET", name, "asked", msgspec.json.encode(over))
    async with in_process(redis, settings) as client:
        done = await when(client, batch["id"])
        reply = await client.post(f"/v1/batches/{batch['id']}/cancel")
    assert (done["status"], done["expired_at"] is not None) == ("expired", True)
    assert reply.status_code == 409


@pytest.mark.parametrize("first", ["failed", "let go"])
async def test_what_failed_is_never_let_go_and_what_was_let_go_never_fails(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """A gateway is so slow that another one takes over and finds that the lines can't run; it may die at once, too."""
    service = service_of(redis, settings)
    async with in_process(redis, settings, tasks=False) as client:
        batch = await create(client, await upload(client, jsonl([line(0)])))
    batch_id = batch["id"]
    assert await intakes.take(redis, service.upstream, "slow") == batch_id
    slow = await holder_of(redis, batch_id, "slow")
    release = Staging.release

    async def late(*arguments: Any) -> str:
        let_go = await release(*arguments) if first == "let go" else ""
        await end_lease(redis, batch_id)
        assert await intakes.take(redis, service.upstream, "other") == batch_id
        now = await (await holder_of(redis, batch_id, "other")).fail((Fault("invalid_request", "No."),))
        assert now is (IntakeState.RELEASING if let_go else IntakeState.FAILED)
        return let_go or await release(*arguments)

    monkeypatch.setattr(Staging, "release", late)
    if first == "failed":
        with pytest.raises(StoreError):
            await intake_task._take_in(service, await look(redis, batch_id), slow)
        assert not await batches.exists(redis, batch_id)
        assert (await look(redis, batch_id)).state is IntakeState.FAILED
        return
    await intake_task._take_in(service, await look(redis, batch_id), slow)
    await end_lease(redis, batch_id)
    assert await intakes.take(redis, service.upstream, "next") == batch_id
    next_one = await holder_of(redis, batch_id, "next")
    await intake_task._take_in(service, await look(redis, batch_id), next_one)
    assert await intakes.find(redis, batch_id) is None
    assert (await batches.status(redis, batch_id)).state is BatchState.IN_PROGRESS


async def test_what_cannot_be_read_keeps_no_other_waiting(redis: Redis, settings: Settings) -> None:
    """A newer gateway wrote it, say."""
    async with in_process(redis, settings, tasks=False) as client:
        file_id = await upload(client, jsonl([line(0)]))
        strange, good = [(await create(client, file_id))["id"] for _ in range(2)]
        await redis.execute_command("HSET", service_keys.intake(strange), "state", "resting")
        service = service_of(redis, settings)
        taking = asyncio.create_task(intake_task.take_intakes(service))
        try:
            await when(client, good, "in_progress")
            assert not taking.done()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)


async def test_lines_that_are_being_looked_at_count_as_queued_for_whoever_comes_later(
    redis: Redis, settings: Settings
) -> None:
    mine = Identity(project="default", scopes=frozenset(), key_id="mine", max_queued_lines=10)
    service = service_of(redis, settings)
    handed = Handed(input_file_id="file-1", created_at=1, key_id="mine")
    first, second = [await made(redis, handed=handed) for _ in range(2)]
    assert await queued_lines(redis, UPSTREAM, "mine") == 0  # nobody has counted them
    for batch_id, lines in ((first, 7), (second, 3)):
        assert await intakes.hold(redis, UPSTREAM, batch_id, "run")
        holder = await holder_of(redis, batch_id, "run")
        assert await holder.note_lines("mine", lines) is IntakeState.VALIDATING
    assert await queued_lines(redis, UPSTREAM, "mine") == 10
    assert await queued_lines(redis, UPSTREAM, "mine", before=second) == 7
    assert await queued_lines(redis, UPSTREAM, "mine", before=first) == 0
    assert await queued_lines(redis, UPSTREAM, "another") == 0
    with pytest.raises(ApiError, match="10 are"):
        await check_queue(service, mine, 1)
    await cancel(redis, first)
    await check_queue(service, mine, 7)
