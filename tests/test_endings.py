"""How batches end before their time: cancelled, expired, both, in every order, and with lines that land meanwhile."""

import asyncio
import random
from typing import Any

import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.config.strategy import Strategy
from batchmill.producer import Producer
from batchmill.store import batches, endings, keys, lanes, service_keys
from batchmill.store.handed import Handed, window_seconds
from batchmill.store.lanes import Ending
from batchmill.store.model import BatchState, LineState, Route, Terms
from batchmill.store.staging import Staging

from .store_helpers import (
    DAYS,
    MODEL,
    UPSTREAM,
    all_results,
    claim,
    complete,
    facts,
    leased,
    line,
    put,
    queued,
    result,
)

LATE = 1_000_000_000
"""Long ago."""


PLAIN = Terms()


async def batch(redis: Redis, *sizes: int, expires_at: int | None = LATE, terms: Terms = PLAIN, **said: Any) -> str:
    """Enqueue a batch with shards of these sizes, whose time is over unless told otherwise."""
    staging = Staging(redis, UPSTREAM, retention_days=DAYS)
    first = 0
    for size in sizes:
        await staging.add(MODEL, [line(index) for index in range(first, first + size)], terms)
        first += size
    return await staging.release(facts(first, staging.batch_id, expires_at=expires_at, **said))


async def sweep(redis: Redis) -> list[str]:
    return await endings.sweep(redis, retention_days=DAYS)


async def look_again(redis: Redis) -> list[str]:
    """Sweep as somebody does after the lease of who began."""
    for member in await redis.zrange(service_keys.deadlines(), 0, -1):
        await redis.zadd(service_keys.deadlines(), {member: LATE})
    return await sweep(redis)


async def test_a_batch_whose_time_is_over_expires_without_any_worker(redis: Redis) -> None:
    batch_id = await batch(redis, 2, 1)
    assert await sweep(redis) == [batch_id]
    status = await batches.status(redis, batch_id)
    assert (status.state, status.expired, status.pending, status.expires_at) == (BatchState.EXPIRED, 3, 0, LATE)
    assert status.expired_at
    assert status.finalizing_at
    assert status.completed_at is None
    for found in await all_results(redis, batch_id):
        assert (found.state, found.error_code) == (LineState.EXPIRED, "batch_expired")
        assert found.error_message == "This request could not be executed before the completion window expired."
        assert found.request == b'{"messages":[]}'
    assert (await queued(redis), await leased(redis)) == ([], [])
    assert await sweep(redis) == []
    assert await batches.live(redis) == []


async def test_a_batch_in_time_or_without_a_window_is_left_alone(redis: Redis) -> None:
    await batch(redis, 1, expires_at=None)
    in_time = await batch(redis, 1, expires_at=4_000_000_000)
    assert await sweep(redis) == []
    assert await look_again(redis) == [in_time], "whose entry is wrong"
    assert (await batches.status(redis, in_time)).state is BatchState.IN_PROGRESS


async def test_lines_in_the_air_are_kept_as_they_come(redis: Redis) -> None:
    batch_id = await batch(redis, 1, 1)
    (held,) = await claim(redis, room=1)
    await sweep(redis)
    status = await batches.status(redis, batch_id)
    assert (status.state, status.expired, status.done) == (BatchState.EXPIRING, 1, 1)
    work = await batches.load(redis, held.reference, 0, 0)
    assert work is not None
    assert work.unsent is LineState.EXPIRED
    assert await batches.stopped_among(redis, [batch_id]) == {batch_id: LineState.EXPIRED}
    await complete(redis, [held])
    status = await batches.status(redis, batch_id)
    assert (status.state, status.expired, status.succeeded) == (BatchState.EXPIRED, 1, 1)


async def test_a_batch_all_of_whose_lines_came_in_the_end_is_completed(redis: Redis) -> None:
    batch_id = await batch(redis, 2)
    held = await claim(redis)
    await sweep(redis)
    assert (await batches.status(redis, batch_id)).state is BatchState.EXPIRING
    await complete(redis, held)
    status = await batches.status(redis, batch_id)
    assert status.state is BatchState.COMPLETED
    assert status.completed_at
    assert status.finalizing_at
    assert status.expired_at is None


async def test_workers_hear_of_it(redis: Redis) -> None:
    batch_id = await batch(redis, 1)
    await claim(redis)
    async with redis.pubsub() as subscription:
        await subscription.subscribe(keys.wake(UPSTREAM))
        await subscription.get_message(timeout=5)
        await sweep(redis)
        message = await subscription.get_message(timeout=5)
        assert message is not None
        assert message["data"] == f"!{batch_id}|expired".encode()
        await endings.cancel(redis, batch_id, retention_days=DAYS)
        message = await subscription.get_message(timeout=5)
    assert message is not None
    assert message["data"] == f"!{batch_id}".encode()


async def test_who_dies_in_the_middle_is_followed(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """For cancelling, too: nobody need be there but who sweeps."""
    late, cancelled = await batch(redis, 1, 1), await batch(redis, 1, expires_at=None)

    async def die(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(endings, "_record", die)
        with pytest.raises(ConnectionError):
            await sweep(redis)
        with pytest.raises(ConnectionError):
            await endings.cancel(redis, cancelled, retention_days=DAYS)
    assert (await batches.status(redis, late)).state is BatchState.EXPIRING
    assert await sweep(redis) == [], "whoever began has some time for it"
    for reference in await leased(redis):
        await redis.zadd(keys.leases(UPSTREAM, MODEL), {reference: 1})
    await lanes.renew(redis, UPSTREAM, {MODEL: []}, lease=1.0)
    assert sorted(await look_again(redis)) == sorted([late, cancelled])
    assert (await batches.status(redis, late)).state is BatchState.EXPIRED
    assert (await batches.status(redis, cancelled)).state is BatchState.CANCELLED
    assert not await redis.exists(service_keys.deadlines())


async def test_an_expiring_batch_can_be_cancelled_but_no_cancelled_one_expires(redis: Redis) -> None:
    batch_id = await batch(redis, 1)
    (held,) = await claim(redis)
    await sweep(redis)
    assert await endings.cancel(redis, batch_id, retention_days=DAYS) is BatchState.CANCELLING
    assert await look_again(redis) == [batch_id]
    status = await batches.status(redis, batch_id)
    assert status.state is BatchState.CANCELLING
    work = await batches.load(redis, held.reference, 0, 0)
    assert work is not None
    assert work.unsent is LineState.CANCELLED
    await complete(redis, [held])
    assert (await batches.status(redis, batch_id)).state is BatchState.CANCELLED


async def test_the_same_lines_can_be_handed_in_again_once_they_expired(redis: Redis) -> None:
    batch_id = await batch(redis, 1)
    await sweep(redis)
    assert await batches.by_content(redis, batch_id) is None


async def test_a_batch_that_is_gone_leaves_the_deadlines(redis: Redis) -> None:
    batch_id = await batch(redis, 1)
    await redis.delete(keys.batch(batch_id))
    assert await sweep(redis) == [batch_id]
    assert not await redis.exists(service_keys.deadlines())


async def test_an_expired_line_that_was_routed_is_handed_back_as_it_came(redis: Redis) -> None:
    terms = Terms(route=Route("auto", Strategy.COST, (), members=b'"model":"auto"'))
    batch_id = await batch(redis, 1, terms=terms)
    await sweep(redis)
    (found,) = await all_results(redis, batch_id)
    assert found.request is not None
    assert b'"model":"auto"' in found.request


@pytest.mark.parametrize(
    ("order", "end"),
    [
        ("cancel expire land", BatchState.CANCELLED),
        ("cancel land expire", BatchState.CANCELLED),
        ("expire cancel land", BatchState.CANCELLED),
        ("expire land cancel", BatchState.EXPIRED),
        ("land cancel expire", BatchState.CANCELLED),
        ("land expire cancel", BatchState.EXPIRED),
    ],
)
async def test_terminal_is_for_ever(redis: Redis, order: str, end: BatchState) -> None:
    """Whatever comes first, what comes after a terminal state changes nothing, and each line has one result."""
    batch_id = await batch(redis, 1, 1)
    (held,) = await claim(redis, room=1)
    for step in order.split():
        before = (await batches.status(redis, batch_id)).state
        if step == "cancel":
            await endings.cancel(redis, batch_id, retention_days=DAYS)
        elif step == "expire":
            await look_again(redis)
        else:
            await complete(redis, [held])
        status = await batches.status(redis, batch_id)
        assert not before.terminal or status.state is before
        assert status.succeeded + status.cancelled + status.expired + status.pending == 2
    assert status.state is end
    assert status.succeeded == 1
    assert len(await all_results(redis, batch_id)) == 2
    assert not await redis.exists(service_keys.deadlines())


@pytest.mark.parametrize("seed", range(12))
async def test_all_at_once(redis: Redis, seed: int) -> None:
    """Cancelled, swept by two and worked on at the same time: counts add up, every line has one result, one end."""
    chance = random.Random(seed)
    batch_id = await batch(redis, *[chance.randrange(1, 4) for _ in range(6)])
    total = (await batches.status(redis, batch_id)).total

    async def work() -> None:
        while held := await claim(redis, room=2):
            for one in held:
                for reference, first, last in [(one.reference, 0, total - 1)]:
                    found = await batches.load(redis, reference, first, last)
                    for left in found.lines if found else ():
                        await asyncio.sleep(0)
                        await put(redis, batch_id, result(left.index))
                await lanes.finish(redis, one, Ending.DONE)

    steps = [work(), work(), sweep(redis), sweep(redis), endings.cancel(redis, batch_id, retention_days=DAYS)]
    chance.shuffle(steps)
    await asyncio.gather(*steps[: chance.randrange(3, 6)])
    for rest in steps:
        rest.close()
    await look_again(redis)
    status = await batches.status(redis, batch_id)
    assert status.state.terminal
    found = await all_results(redis, batch_id)
    assert sorted(one.index for one in found) == list(range(total))
    for state, count in ((LineState.SUCCEEDED, status.succeeded), (LineState.EXPIRED, status.expired)):
        assert sum(one.state is state for one in found) == count
    assert status.succeeded + status.expired + status.cancelled == total == status.done


async def test_what_came_over_http_waits_for_its_files(redis: Redis) -> None:
    handed = Handed(input_file_id="file-1", created_at=LATE, metadata={"a": "b"})
    batch_id = await batch(redis, 1, handed=handed)
    await batch(redis, 1, expires_at=LATE)
    await sweep(redis)
    assert await redis.zrange(service_keys.to_finalize(), 0, -1) == [batch_id.encode()]
    status = await batches.status(redis, batch_id)
    assert (status.handed, status.created_at, status.files_at) == (handed, LATE, None)


async def test_expired_lines_are_tried_again_with_the_failed_ones(redis: Redis, settings: Settings) -> None:
    producer = Producer(redis, settings)
    lines = [{"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": str(n)}]} for n in range(2)]
    first = await producer.submit(lines, window="1h")
    status = await first.status()
    assert status.expires_at
    assert 3500 < status.expires_at - status.created_at <= 3600
    await redis.execute_command("HSET", keys.batch(first.id), "expires_at", LATE)
    await look_again(redis)
    assert (await first.status()).state is BatchState.EXPIRED
    again = await first.retry()
    assert (await again.status()).models == {MODEL: 2}
    assert (await again.status()).expires_at is None


@pytest.mark.parametrize(("text", "seconds"), [("1h", 3600), ("24h", 86_400), ("720h", 2_592_000), ("30d", 2_592_000)])
def test_completion_windows(text: str, seconds: int) -> None:
    assert window_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0h", "721h", "31d", "1", "h", "1.5h", "-1h", " 1h", "1h ", "1w", "٣h", "99999h"])
def test_what_is_no_completion_window(text: str) -> None:
    with pytest.raises(ValueError, match="a completion window is"):
        window_seconds(text)
