"""A batch comes into being as a whole or not at all, whoever dies or repeats himself in the middle."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError  # noqa: A004 - redis's own name

from batchmill.store import batch_index, batches, keys, lanes, staging
from batchmill.store.errors import StoreError
from batchmill.store.lanes import Ending
from batchmill.store.model import BatchState, LineState
from batchmill.store.records import record
from batchmill.store.staging import requeue_lost, shard_size

from .store_helpers import (
    DAYS,
    MODEL,
    RETENTION,
    UPSTREAM,
    all_results,
    batch_of,
    claim,
    complete,
    facts,
    put,
    queued,
    result,
    staged,
)


async def names(redis: Redis) -> set[bytes]:
    return set(await redis.keys("*"))


@pytest.mark.parametrize(("lines", "size"), [(1, 1), (64, 1), (65, 2), (640, 10), (4096, 64), (1_000_000, 64)])
def test_small_batches_spread_and_large_ones_stay_cheap(lines: int, size: int) -> None:
    assert shard_size(lines) == size


async def test_what_is_staged_is_invisible_and_goes_by_itself(redis: Redis) -> None:
    handover = await staged(redis, 2, 1)
    await handover._flush()

    found = await names(redis)
    assert len(found) == 4
    for name in found:
        assert 0 < await redis.ttl(name) <= 3600
    assert not await batches.exists(redis, handover.batch_id)
    assert await batch_index.newest(redis, 10) == []


async def test_a_released_batch_is_there_as_a_whole(redis: Redis) -> None:
    handover = await staged(redis, 2, 1)
    batch_id = await handover.release(facts(3, source="prompts.jsonl", retry_of="batch_old"))

    status = await batches.status(redis, batch_id)
    assert (status.id, status.state, status.total, status.pending) == (batch_id, BatchState.IN_PROGRESS, 3, 3)
    assert (status.source, status.retry_of, status.upstream) == ("prompts.jsonl", "batch_old", UPSTREAM)
    assert status.models == {MODEL: 3}
    assert abs(status.created_at - time.time()) < 3600
    assert await queued(redis) == [f"{batch_id}.0.2", f"{batch_id}.1.1"]
    assert await batches.live(redis) == [batch_id]
    for name in (keys.batch(batch_id), keys.shard(f"{batch_id}.0.2"), keys.open_shards(batch_id)):
        assert RETENTION - 60 < await redis.ttl(name) <= RETENTION
    assert await redis.smembers(keys.lanes(UPSTREAM)) == {MODEL.encode()}  # type: ignore[misc]  # redis-py's stubs


async def test_a_batch_needs_a_line_that_can_run(redis: Redis) -> None:
    handover = await staged(redis)
    with pytest.raises(ValueError, match="a line that can run"):
        await handover.release(facts(1), [result(0, LineState.FAILED)])


async def test_discarding_leaves_nothing(redis: Redis) -> None:
    handover = await staged(redis, *[1] * 450)
    await handover._flush()
    await handover.discard()
    assert await names(redis) == set()


async def test_the_same_content_is_one_batch(redis: Redis) -> None:
    first = await batch_of(redis, 1, content="same")
    before = await names(redis)
    second = await staged(redis, 1)
    assert await second.release(facts(1, "same"), [result(1, LineState.FAILED)]) == first
    assert await names(redis) == before

    await batches.forget_content(redis, "same")
    assert await batches.by_content(redis, "same") is None
    assert await batch_of(redis, 1, content="same") != first


async def test_lines_that_never_can_run_have_failed_from_the_first_moment(redis: Redis) -> None:
    handover = await staged(redis, 2)
    refused = [result(index, LineState.FAILED) for index in range(2, 502)]
    batch_id = await handover.release(facts(502), refused)

    status = await batches.status(redis, batch_id)
    assert (status.state, status.failed, status.pending) == (BatchState.IN_PROGRESS, 500, 2)
    for name in (keys.done(batch_id), keys.results(batch_id)):
        assert await redis.ttl(name) > RETENTION - 60
    await complete(redis, await claim(redis))
    status = await batches.status(redis, batch_id)
    assert (status.state, status.failed, status.succeeded) == (BatchState.COMPLETED, 500, 2)
    assert sorted(found.index for found in await all_results(redis, batch_id)) == list(range(502))


class Cut:
    """A script whose server dies: before it ran, or after, when only the reply is lost."""

    def __init__(self, script: Callable[..., Awaitable[Any]], *, runs: bool) -> None:
        self.script = script
        self.runs = runs

    async def __call__(self, *arguments: Any) -> Any:
        if self.runs:
            await self.script(*arguments)
        raise ConnectionError("cut")


@pytest.mark.parametrize("runs", [False, True], ids=["call lost", "reply lost"])
async def test_giving_up_in_the_middle_of_a_release_is_all_or_nothing(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    """Whoever gives up discards; but a batch that exists by then keeps its lines, and refused ones their results."""
    handover = await staged(redis, 2)
    monkeypatch.setattr(staging, "_release", Cut(staging._release, runs=runs))
    with pytest.raises(ConnectionError):
        await handover.release(facts(3), [result(2, LineState.FAILED)])
    await handover.discard()

    if not runs:
        assert await names(redis) == set()
        return
    assert await requeue_lost(redis, UPSTREAM, handover.batch_id, retention_days=DAYS) == await queued(redis)
    await complete(redis, await claim(redis))
    assert (await batches.status(redis, handover.batch_id)).state is BatchState.COMPLETED


async def test_a_release_that_arrives_after_the_discard_finds_nothing(redis: Redis) -> None:
    handover = await staged(redis, 2)
    await handover._flush()
    shards = list(handover._shards)
    await handover.discard()
    handover._shards = shards
    with pytest.raises(StoreError, match="hand the lines in again"):
        await handover.release(facts(2))
    assert await names(redis) == set()


@pytest.mark.parametrize("gone", ["shard", "refused"])
async def test_a_batch_that_took_too_long_to_stage_is_not_let_go(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    handover = await staged(redis, 1, 1)
    await handover._flush()
    if gone == "shard":
        await redis.delete(keys.shard(handover._shards[0].reference))
    else:
        monkeypatch.setattr("batchmill.store.staging.record", Cut(record, runs=False))
        with pytest.raises(ConnectionError):
            await handover._stage_refused(3, [result(2, LineState.FAILED)])
        monkeypatch.setattr(handover, "_stage_refused", _nothing)
    with pytest.raises(StoreError, match="expired"):
        await handover.release(facts(3), [result(2, LineState.FAILED)])
    assert await names(redis) == set()


async def _nothing(*_arguments: object) -> None:
    """Stand in for a step whose work is gone."""


async def test_a_repeated_release_does_not_revive_a_batch(redis: Redis) -> None:
    """The reply was lost, the batch ran to its end, and only then the client's repetition arrives."""
    handover = await staged(redis, 1)
    batch_id = await handover.release(facts(1))
    await complete(redis, await claim(redis))
    before = await batches.status(redis, batch_id)

    assert await handover._let_go(facts(1), 0) == ""
    assert await batches.status(redis, batch_id) == before
    assert await batches.live(redis) == []


async def test_a_repeated_release_does_not_undo_a_cancellation(redis: Redis) -> None:
    handover = await staged(redis, 1)
    batch_id = await handover.release(facts(1))
    await batches.mark_stopping(redis, batch_id, BatchState.CANCELLING)
    assert await handover._let_go(facts(1), 0) == ""
    assert (await batches.status(redis, batch_id)).state is BatchState.CANCELLING
    assert await batches.by_content(redis, "content") is None


async def test_queueing_again_leaves_claimed_and_finished_shards_alone(redis: Redis) -> None:
    """Maintenance queued the shards while the producer was at it, and a worker was quick: nothing may run twice."""
    handover = await staged(redis, 1, 1, 1)
    batch_id = await handover.release(facts(3))
    running, finished = await claim(redis, room=2)
    await complete(redis, [finished])

    await staging._queue_shards(redis, UPSTREAM, batch_id, handover._shards, RETENTION)
    assert await queued(redis) == [f"{batch_id}.2.1"]
    assert not await redis.exists(keys.job(finished.reference))
    assert await lanes.finish(redis, running, Ending.DONE)


async def test_only_lost_shards_are_queued(redis: Redis) -> None:
    batch_id = await batch_of(redis, 1, 1, 1, 1)
    leased, finished, lost = await claim(redis, room=3)
    await complete(redis, [finished])
    assert await lanes.finish(redis, lost, Ending.LET_GO)
    await redis.delete(keys.job(lost.reference), keys.lanes(UPSTREAM))

    assert await requeue_lost(redis, UPSTREAM, batch_id, retention_days=DAYS) == [lost.reference]
    assert await requeue_lost(redis, UPSTREAM, batch_id, retention_days=DAYS) == []
    assert sorted(await queued(redis)) == sorted([lost.reference, f"{batch_id}.3.1"])
    assert leased.reference not in await queued(redis)
    assert await redis.exists(keys.job(lost.reference), keys.lanes(UPSTREAM)) == 2


async def test_the_lane_goes_by_the_clock_of_redis(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer whose clock is an hour ahead must not hide its shards for an hour."""
    ahead = time.time_ns() + 3_600_000_000_000
    monkeypatch.setattr("batchmill.store.staging.time.time_ns", lambda: ahead)
    await batch_of(redis, 1)
    assert len(await claim(redis)) == 1


async def test_a_release_wakes_the_workers_of_its_lanes(redis: Redis) -> None:
    async with redis.pubsub() as subscription:
        await subscription.subscribe(keys.wake(UPSTREAM))
        await subscription.get_message(timeout=5)
        await batch_of(redis, 1)
        message = await subscription.get_message(timeout=5)
    assert message is not None
    assert message["data"] == MODEL.encode()


async def test_refused_lines_staged_twice_have_one_result(redis: Redis) -> None:
    """The reply to the first staging was lost; the client repeats it."""
    handover = await staged(redis, 1)
    refused = [result(1, LineState.FAILED)]
    await handover._flush()
    await handover._stage_refused(2, refused)
    batch_id = await handover.release(facts(2), refused)
    assert len(await all_results(redis, batch_id)) == 1
    assert await put(redis, batch_id, result(0)) == 1
    assert (await batches.status(redis, batch_id)).state is BatchState.COMPLETED
