"""A line has one result for ever: the first that was recorded. Counters say what the stream holds, exactly."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, ResponseError  # noqa: A004 - redis's own name

from batchmill.openrouter.outcomes import Usage
from batchmill.store import batches, keys, records
from batchmill.store.model import Attempt, BatchState, LineState
from batchmill.store.records import BATCH_GONE, Entry, Recording, follow, read, record

from .store_helpers import (
    RETENTION,
    UPSTREAM,
    all_results,
    batch_of,
    claim,
    complete,
    costly,
    put,
    result,
)

BIG = 2**49 + 1


async def gather(entries: AsyncIterator[Entry]) -> list[Entry]:
    return [entry async for entry in entries]


async def test_the_first_writer_wins(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    assert await put(redis, batch_id, result(0, finish_reason="first")) == 1
    before = await batches.status(redis, batch_id)
    assert await put(redis, batch_id, result(0, LineState.FAILED, finish_reason="second")) == 0
    assert await batches.status(redis, batch_id) == before
    assert [found.finish_reason for found in await all_results(redis, batch_id)] == ["first"]


async def test_a_line_that_comes_twice_in_one_flush_counts_once(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    assert await put(redis, batch_id, result(1), result(1, LineState.FAILED)) == 1
    status = await batches.status(redis, batch_id)
    assert (status.succeeded, status.failed) == (1, 0)


async def test_counters_are_exact(redis: Redis) -> None:
    """Costs far beyond 32 bits, tokens, and lines whose cost nobody told."""
    batch_id = await batch_of(redis, 6)
    await put(redis, batch_id, costly(0, BIG, 10, 20, 3, 4), costly(1, 1, 1, 1, 0, 0))
    await put(redis, batch_id, costly(2, BIG), costly(3, None, 5), result(4, LineState.FAILED, cost=7))
    status = await batches.status(redis, batch_id)

    assert status.cost == 2 * BIG + 8
    assert status.uncosted == 1
    assert status.usage == Usage(16, 21, 3, 4)
    assert (status.succeeded, status.failed, status.pending, status.running) == (4, 1, 1, 0)


async def test_numbers_that_would_break_the_counters_are_cut(redis: Redis) -> None:
    """An upstream may send anything; a counter that overflows in the middle of the script would part the books."""
    batch_id = await batch_of(redis, 3)
    mad = [costly(index, 10**30, 10**30, -5, 2**63, 0) for index in range(3)]
    assert await put(redis, batch_id, *mad) == 3
    status = await batches.status(redis, batch_id)
    assert (status.state, status.succeeded) == (BatchState.COMPLETED, 3)
    assert status.usage.completion_tokens == 0
    assert len(await all_results(redis, batch_id)) == 3


async def test_a_result_comes_back_as_it_was(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    given = result(
        1,
        LineState.FAILED,
        status_code=500,
        response=b'{"error": {}}',
        error_code="provider_error",
        error_message="ä",
        usage=Usage(1, 2),
        cost=3,
        request=b"{}",
        attempts=(Attempt("provider_error", 500, 12), Attempt("ok", 200, 9, "m", "p", "gen-1", 3)),
    )
    await put(redis, batch_id, given)
    assert await all_results(redis, batch_id) == [given]


async def test_a_repetition_after_a_lost_reply_changes_nothing(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    recordings = [Recording(batch_id, (costly(0, BIG, 1), costly(1, BIG, 1)), 1)]
    assert await record(redis, recordings, "worker", RETENTION) == [2]
    before = await batches.status(redis, batch_id)
    assert before.state is BatchState.COMPLETED
    assert await record(redis, recordings, "worker", RETENTION) == [0]
    assert await batches.status(redis, batch_id) == before
    entries = await read(redis, batch_id)
    assert [entry.result is None for entry in entries] == [False, False, True]


async def test_the_last_result_completes_the_batch(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    await put(redis, batch_id, result(0))
    assert await batches.live(redis) == [batch_id]
    assert await redis.ttl(keys.results(batch_id)) > RETENTION - 60
    await redis.expire(keys.results(batch_id), 1000)
    await redis.expire(keys.done(batch_id), 1000)
    await put(redis, batch_id, result(1, LineState.FAILED))

    status = await batches.status(redis, batch_id)
    assert (status.state, status.completed_at is not None) == (BatchState.COMPLETED, True)
    assert await batches.live(redis) == []
    for name in (keys.batch(batch_id), keys.done(batch_id), keys.results(batch_id)):
        assert await redis.ttl(name) > RETENTION - 60, "what is kept is kept from the end on"


async def test_a_cancelled_batch_ends_as_cancelled(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    await put(redis, batch_id, result(0))
    assert await batches.mark_stopping(redis, batch_id, BatchState.CANCELLING) is BatchState.CANCELLING
    await put(redis, batch_id, result(1, LineState.CANCELLED))
    status = await batches.status(redis, batch_id)
    assert (status.state, status.succeeded, status.cancelled) == (BatchState.CANCELLED, 1, 1)
    assert (status.cancelled_at is not None, status.completed_at) == (True, None)


async def test_results_of_a_batch_that_is_gone_have_no_home(redis: Redis) -> None:
    assert await put(redis, "batch_gone", result(0), in_air=3) == BATCH_GONE
    assert await redis.keys("*") == []


async def test_many_batches_in_one_flush(redis: Redis) -> None:
    first = await batch_of(redis, 1, content="1")
    second = await batch_of(redis, 2, content="2")
    await redis.script_flush()  # a pipeline must not fail because the server forgot its scripts
    recordings = [
        Recording(first, (result(0),)),
        Recording("batch_gone", (result(0),)),
        Recording(second, (result(0), result(1))),
    ]
    assert await record(redis, recordings, "worker", RETENTION) == [1, BATCH_GONE, 2]
    assert await record(redis, [], "worker", RETENTION) == []


async def test_an_error_of_one_batch_is_raised_after_the_others_are_recorded(redis: Redis) -> None:
    good = await batch_of(redis, 1, content="good")
    bad = await batch_of(redis, 1, content="bad")
    await redis.set(keys.done(bad), "x", ex=60)
    await redis.delete(keys.results(bad))
    await redis.set(keys.results(bad), "not a stream", ex=60)
    with pytest.raises(ResponseError):
        await record(redis, [Recording(bad, (result(7),)), Recording(good, (result(0),))], "worker", RETENTION)
    assert (await batches.status(redis, good)).state is BatchState.COMPLETED


async def test_what_is_in_the_air_is_known_by_worker(redis: Redis) -> None:
    batch_id = await batch_of(redis, 10)
    now, _ = await redis.execute_command("TIME")
    for worker, seen in (("one", now), ("two", now), ("dead", now - 60)):
        await redis.zadd(keys.workers(UPSTREAM), {worker: int(seen) * 1000})
    await redis.expire(keys.workers(UPSTREAM), 60)
    await put(redis, batch_id, worker="one", in_air=2)
    await put(redis, batch_id, worker="dead", in_air=4)
    await put(redis, batch_id, result(0), worker="two", in_air=3)
    assert (await batches.status(redis, batch_id)).running == 5

    await put(redis, batch_id, result(1), result(2), worker="one", in_air=0)
    status = await batches.status(redis, batch_id)
    assert (status.running, status.pending, status.done) == (3, 4, 3)
    assert await redis.ttl(keys.air(batch_id)) > 0


async def test_reading_goes_on_from_the_cursor(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_PAGE", 2)
    batch_id = await batch_of(redis, 5)
    await put(redis, batch_id, *(result(index) for index in range(5)))
    page = await read(redis, batch_id)
    assert [entry.result and entry.result.index for entry in page] == [0, 1]
    rest = await gather(follow(redis, batch_id, page[-1].cursor))
    assert [entry.result and entry.result.index for entry in rest] == [2, 3, 4, None]
    assert await read(redis, batch_id, rest[-1].cursor) == []


async def test_who_does_not_wait_gets_what_is_there(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    assert await gather(follow(redis, batch_id, wait=False)) == []
    await put(redis, batch_id, result(1))
    assert len(await gather(follow(redis, batch_id, wait=False))) == 1


async def test_who_follows_gets_results_as_they_land_until_the_end(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    landed: asyncio.Queue[Entry] = asyncio.Queue()

    async def follower() -> None:
        async for entry in follow(redis, batch_id):
            landed.put_nowait(entry)

    task = asyncio.create_task(follower())
    for index in range(2):
        await put(redis, batch_id, result(index))
        entry = await landed.get()
        assert entry.result is not None
        assert entry.result.index == index
    assert (await landed.get()).result is None
    await task


async def test_following_a_batch_that_expires_ends(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_BLOCK_MS", 10)
    batch_id = await batch_of(redis, 1)
    task = asyncio.create_task(gather(follow(redis, batch_id)))
    await redis.delete(keys.batch(batch_id))
    assert await task == []


async def test_following_goes_on_over_an_outage(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = await batch_of(redis, 1)
    await complete(redis, await claim(redis))
    whole = records.read
    outages = iter([ConnectionError("away"), OSError("away")])

    async def flaky(*arguments: object, **options: object) -> list[Entry]:
        if error := next(outages, None):
            raise error
        return await whole(*arguments, **options)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(records, "read", flaky)
    assert len(await gather(follow(redis, batch_id))) == 2
    outages = iter([ConnectionError("away")])
    with pytest.raises(ConnectionError):
        await gather(follow(redis, batch_id, wait=False))


async def test_failed_lines_of_a_shard_are_counted_by_their_state(redis: Redis) -> None:
    batch_id = await batch_of(redis, 4)
    await put(redis, batch_id, *(result(index, state) for index, state in enumerate(LineState)))
    status = await batches.status(redis, batch_id)
    assert (status.succeeded, status.failed, status.cancelled, status.expired) == (1, 1, 1, 1)
    assert await batches.load(redis, f"{batch_id}.0.4", 0, 3) is not None
