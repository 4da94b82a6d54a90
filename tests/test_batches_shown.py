"""What is shown of batches, and to whom: projects, batches of the command line, windows that end, money, and pace."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.openrouter.outcomes import Usage
from batchmill.producer import Producer
from batchmill.service.compat.batch_objects import Money, eta, of_batch, shown_status
from batchmill.store import api_keys, keys, service_keys
from batchmill.store.api_keys import Wanted
from batchmill.store.handed import Handed
from batchmill.store.model import BatchState, BatchStatus

from .batch_api_helpers import ask, create, finish, get, jsonl, line, submit, upload, when
from .service_helpers import in_process

NOW = 1_800_000_000


@pytest.fixture
async def client(redis: Redis, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with its tasks."""
    async with in_process(redis, settings) as client:
        yield client


async def key_of(redis: Redis, settings: Settings, project: str | None, **fields: Any) -> dict[str, str]:
    """Return the headers of a new key."""
    wanted = Wanted(name=f"key-{project}", project=project, **fields)
    made = await api_keys.create(redis, settings.upstream_name, wanted, "test")
    return {"authorization": f"Bearer {made.text}"}


async def test_a_project_sees_its_own_batches_and_no_trace_of_others(redis: Redis, settings: Settings) -> None:
    blue, red = await key_of(redis, settings, "blue"), await key_of(redis, settings, "red")
    async with (
        in_process(redis, settings, headers=blue) as mine,
        in_process(redis, settings, headers=red, tasks=False) as theirs,
        in_process(redis, settings, headers=await key_of(redis, settings, None), tasks=False) as operators,
    ):
        running = await submit(mine, [line(0)])
        file_id = await upload(mine, jsonl([line(0)]))
        failed = await submit(mine, [b"{}"])
        assert {running["x_project"], failed["x_project"]} == {"blue"}
        for batch_id in (running["id"], failed["id"]):
            unknown = (await theirs.get("/v1/batches/batch_none")).json()
            expected = {"error": unknown["error"] | {"message": f"No batch found with id '{batch_id}'."}}
            for way in ("", "/errors"):
                reply = await theirs.get(f"/v1/batches/{batch_id}{way}")
                assert (reply.status_code, reply.json()) == (404, expected)
            for way in ("/cancel", "/retry"):
                reply = await theirs.post(f"/v1/batches/{batch_id}{way}")
                assert (reply.status_code, reply.json()) == (404, expected)
        assert (await theirs.get("/v1/batches")).json()["data"] == []
        assert (await theirs.get("/v1/batches", params={"after": failed["id"]})).json()["data"] == []
        stolen = await create(theirs, file_id)
        assert (await when(theirs, stolen["id"]))["errors"]["data"][0]["param"] == "file_id"
        seen = [batch["id"] for batch in (await operators.get("/v1/batches")).json()["data"]]
        assert seen == [stolen["id"], failed["id"], running["id"]]
        borrowed = await create(operators, file_id)
        assert (await when(operators, borrowed["id"], "in_progress"))["x_project"] == "default"


async def test_scopes_are_asked_for(redis: Redis, settings: Settings) -> None:
    headers = await key_of(redis, settings, "blue", scopes=("read",))
    async with in_process(redis, settings, headers=headers, tasks=False) as reader:
        assert (await reader.get("/v1/batches")).status_code == 200
        assert (await ask(reader, input_file_id="file-1")).status_code == 403
        assert (await reader.post("/v1/batches/batch_1/cancel")).status_code == 403


async def test_lines_over_what_a_key_may_have_waiting(redis: Redis, settings: Settings) -> None:
    headers = await key_of(redis, settings, "blue", max_queued_lines=3)
    async with in_process(redis, settings, headers=headers) as client:
        failed = await submit(client, [line(number) for number in range(4)])
        assert failed["errors"]["data"][0]["code"] == "too_many_queued_lines"
        await submit(client, [line(number) for number in range(3)])
        reply = await ask(client, input_file_id=failed["input_file_id"])
        assert reply.status_code == 429
        assert reply.json()["error"]["type"] == "rate_limit_error"


async def test_lines_that_are_tried_again_wait_like_any(redis: Redis, settings: Settings) -> None:
    headers = await key_of(redis, settings, "blue", max_queued_lines=3)
    async with in_process(redis, settings, headers=headers) as client:
        first = await submit(client, [line(number) for number in range(3)])
        await finish(redis, first["id"], fail=(0, 1))
        await when(client, first["id"])
        second = await submit(client, [line(number) for number in range(2)])
        again = f"/v1/batches/{first['id']}/retry"
        assert (await client.post(again)).status_code == 429
        await finish(redis, second["id"])
        made = (await client.post(again)).json()["id"]
        third = await submit(client, [line(0)])
        assert third["status"] == "in_progress"
        assert (await client.post(again)).json()["id"] == made


async def test_a_batch_of_the_command_line_is_there_too(
    client: httpx.AsyncClient, redis: Redis, settings: Settings
) -> None:
    batch = await Producer(redis, settings).submit([line(0)], tags={"team": "blue"})
    found = await get(client, batch.id)
    assert (found["status"], found["input_file_id"], found["metadata"]) == ("in_progress", "", None)
    assert (found["expires_at"], found["x_tags"]) == (None, {"team": "blue"})
    assert [one["id"] for one in (await client.get("/v1/batches")).json()["data"]] == [batch.id]
    await finish(redis, batch.id)
    done = await get(client, batch.id)
    assert (done["status"], done["output_file_id"]) == ("completed", done["x_output_file_id"])


async def test_a_window_that_ends(client: httpx.AsyncClient, redis: Redis) -> None:
    batch = await submit(client, [line(0), line(1)], completion_window="1h")
    await redis.execute_command("HSET", keys.batch(batch["id"]), "expires_at", 1)
    await redis.execute_command("ZADD", service_keys.deadlines(), "XX", 1, batch["id"])
    done = await when(client, batch["id"], "expired")
    assert done["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    assert done["x_counts"]["expired"] == 2
    assert done["finalizing_at"] <= done["expired_at"]
    assert (done["completed_at"], done["output_file_id"]) == (None, None)
    errors = await client.get(f"/v1/files/{done['error_file_id']}/content")
    assert {msgspec.json.decode(one)["error"]["code"] for one in errors.content.splitlines()} == {"batch_expired"}
    assert (await client.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 409


async def test_a_list_may_hold_what_is_gone(client: httpx.AsyncClient, redis: Redis) -> None:
    made = [(await create(client, "file-none"))["id"] for _ in range(4)]
    for gone in made[1:3]:
        await when(client, gone)
        await redis.execute_command("DEL", service_keys.intake(gone))
    page = (await client.get("/v1/batches", params={"limit": 1})).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([made[3]], True)
    page = (await client.get("/v1/batches", params={"limit": 1, "after": made[3]})).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([made[0]], False)


def batch_of(state: BatchState, **fields: Any) -> BatchStatus:
    return msgspec.structs.replace(
        BatchStatus(
            id="batch_1",
            state=state,
            total=10,
            running=0,
            succeeded=0,
            failed=0,
            cancelled=0,
            expired=0,
            created_at=NOW,
            in_progress_at=NOW,
            handed=Handed(created_at=NOW - 5),
        ),
        **fields,
    )


@pytest.mark.parametrize(
    ("state", "written", "shown"),
    [
        (BatchState.IN_PROGRESS, None, "in_progress"),
        (BatchState.CANCELLING, None, "cancelling"),
        (BatchState.EXPIRING, None, "finalizing"),
        (BatchState.COMPLETED, None, "finalizing"),
        (BatchState.EXPIRED, None, "finalizing"),
        (BatchState.CANCELLED, None, "cancelling"),
        (BatchState.COMPLETED, NOW, "completed"),
        (BatchState.EXPIRED, NOW, "expired"),
        (BatchState.CANCELLED, NOW, "cancelled"),
    ],
)
def test_only_the_eight_words_are_shown(state: BatchState, written: int | None, shown: str) -> None:
    assert shown_status(batch_of(state, files_at=written)) == shown
    over = batch_of(state, files_at=written, handed=None)
    assert shown_status(over) == ("finalizing" if state is BatchState.EXPIRING else state.value)


def test_an_end_is_shown_when_the_files_are_there() -> None:
    over = batch_of(BatchState.COMPLETED, succeeded=9, failed=1, completed_at=NOW + 60)
    waiting = of_batch(over, Money(), NOW + 61)
    assert (waiting.completed_at, waiting.finalizing_at, waiting.output_file_id) == (None, NOW + 60, None)
    done = of_batch(msgspec.structs.replace(over, files_at=NOW + 62), Money(), NOW + 63)
    assert (done.created_at, done.completed_at, done.finalizing_at) == (NOW - 5, NOW + 62, NOW + 60)
    assert (done.output_file_id, done.error_file_id) == (done.x_output_file_id, done.x_error_file_id)


def test_usage_has_all_its_keys() -> None:
    shown = of_batch(batch_of(BatchState.IN_PROGRESS, usage=Usage(5, 7, 3, 2)), Money(), NOW)
    assert msgspec.to_builtins(shown.usage) == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 3},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }


@pytest.mark.parametrize(
    ("fields", "after", "expected"),
    [
        ({"succeeded": 4, "failed": 1}, 50, NOW + 100),
        ({"succeeded": 5, "running": 5}, 50, NOW + 100),
        ({}, 50, None),  # nobody knows a pace
        ({"succeeded": 5, "cached": 5}, 50, None),  # answers that were there say nothing of one
        ({"succeeded": 5, "blocked_on": "budget all"}, 50, None),
        ({"succeeded": 9, "state": BatchState.CANCELLING}, 50, None),
    ],
)
def test_when_the_last_line_is_likely_to_be_done(fields: dict[str, Any], after: int, expected: int | None) -> None:
    assert eta(batch_of(fields.pop("state", BatchState.IN_PROGRESS), **fields), NOW + after) == expected
