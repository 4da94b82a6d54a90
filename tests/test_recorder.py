"""Group commit: what goes together, what waits, what an outage does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from batchmill.store import batches, keys, records
from batchmill.store.gate import Caller
from batchmill.store.lanes import Claim, Ending
from batchmill.store.model import Line, LineState, Result
from batchmill.store.settlement import Booked
from batchmill.store.staging import BatchFacts, Staging
from batchmill.workers import recorder as module
from batchmill.workers.line import ShardRun
from batchmill.workers.recorder import Recorder

Flushed = tuple[list[int], list[Booked]]
CALLER = Caller("upstream", "worker-1", 15.0)
LINES = [Line(index, f"line-{index}", b"{}") for index in range(6)]


async def release(redis: Redis, lines: list[Line]) -> str:
    """Put a batch of these lines into Redis."""
    staging = Staging(redis, "upstream", retention_days=1)
    await staging.add("a/b", lines)
    facts = BatchFacts(total=len(lines), models={"a/b": len(lines)}, content=staging.batch_id)
    return await staging.release(facts)


def shard_of(batch_id: str) -> ShardRun:
    """Return a run over all lines of the batch."""
    return ShardRun(Claim("upstream", "a/b", f"{batch_id}.0.{len(LINES)}", "run-1", "1"), LINES)


def result(index: int) -> Result:
    """Return a success of that line."""
    return Result(index=index, custom_id=f"line-{index}", model="a/b", state=LineState.SUCCEEDED, cost=10)


async def in_air(redis: Redis, batch_id: str) -> int:
    """Return how many lines the worker has in the air, as everybody sees it."""
    return int(await redis.execute_command("HGET", keys.air(batch_id), "worker-1") or 0)


@asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[Recorder]:
    """Run a recorder for a while."""
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_results_of_one_moment_share_a_flush_and_tell_their_shard(redis: Redis) -> None:
    batch_id = await release(redis, LINES)
    shard = shard_of(batch_id)
    async with running(Recorder(redis, CALLER, retention=3600)) as recorder:
        for index in range(6):
            recorder.sent(batch_id)
            recorder.put(shard, result(index))
        assert await shard.ended is Ending.DONE
        await recorder.drained()
        assert recorder.flushes == 1
    found = await records.read(redis, batch_id)
    assert [entry.result.index for entry in found if entry.result] == list(range(6))


async def test_what_is_in_the_air_is_visible_and_falls_with_the_results(redis: Redis) -> None:
    batch_id = await release(redis, LINES)
    shard = shard_of(batch_id)
    async with running(Recorder(redis, CALLER, retention=3600)) as recorder:
        for _ in range(3):
            recorder.sent(batch_id)
        await recorder.drained()
        assert await in_air(redis, batch_id) == 3
        recorder.put(shard, result(0))
        recorder.back(batch_id)
        await recorder.drained()
        assert await in_air(redis, batch_id) == 1
        recorder.put(shard, result(1))
        await recorder.drained()
        assert await in_air(redis, batch_id) == 0


async def test_a_cancelled_line_that_was_never_sent_is_not_taken_from_the_air(redis: Redis) -> None:
    batch_id = await release(redis, LINES)
    shard = shard_of(batch_id)
    async with running(Recorder(redis, CALLER, retention=3600)) as recorder:
        recorder.sent(batch_id)
        recorder.put(shard, result(0), was_sent=False)
        await recorder.drained()
    assert await in_air(redis, batch_id) == 1


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), OutOfMemoryError("OOM"), OSError("broken")])
async def test_an_outage_keeps_the_results_and_stops_the_dispatcher(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    batch_id = await release(redis, LINES)
    shard = shard_of(batch_id)
    away = asyncio.Event()
    tried = asyncio.Event()

    async def flaky(*arguments: Any) -> Flushed:
        if not away.is_set():
            tried.set()
            raise error
        return await records.flush(*arguments)

    monkeypatch.setattr(module, "flush", flaky)
    monkeypatch.setattr(module, "_OUTAGE_PAUSE", 0)
    back = asyncio.Event()
    async with running(Recorder(redis, CALLER, retention=3600)) as recorder:
        recorder.on_healthy = back.set
        recorder.put(shard, result(0))
        await tried.wait()
        assert not recorder.healthy
        recorder.put(shard, result(1))
        away.set()
        await back.wait()
        await recorder.drained()
    assert (await batches.status(redis, batch_id)).succeeded == 2


async def test_a_flush_that_hangs_stops_the_dispatcher_before_it_fails(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = await release(redis, LINES)
    answer = asyncio.Event()

    async def slow(*arguments: Any) -> Flushed:
        await answer.wait()
        return await records.flush(*arguments)

    monkeypatch.setattr(module, "flush", slow)
    monkeypatch.setattr(module, "_SLOW_FLUSH", 0.001)
    async with running(Recorder(redis, CALLER, retention=3600)) as recorder:
        recorder.put(shard_of(batch_id), result(0))
        back = asyncio.Event()
        recorder.on_healthy = back.set
        while recorder.healthy:
            await asyncio.sleep(0)
        answer.set()
        await back.wait()


async def test_a_large_backlog_goes_out_in_several_flushes(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_RESULTS", 2)
    batch_id = await release(redis, LINES)
    shard = shard_of(batch_id)
    async with running(Recorder(redis, CALLER, retention=3600)) as recorder:
        for index in range(6):
            recorder.sent(batch_id)
            recorder.put(shard, result(index))
        assert await shard.ended is Ending.DONE
        await recorder.drained()
        assert recorder.flushes == 3
    assert await in_air(redis, batch_id) == 0


async def test_results_of_a_batch_that_is_gone_are_let_go_loudly(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = shard_of("batch_gone")
    async with running(Recorder(redis, CALLER, retention=3600)) as recorder:
        recorder.put(shard, result(0))
        await recorder.drained()
    assert "batch.gone" in capsys.readouterr().out


async def test_a_result_that_can_not_be_written_fails_alone(redis: Redis) -> None:
    batch_id = await release(redis, LINES)
    shard = shard_of(batch_id)
    unwritable = Result(index=1, custom_id="line-1", model="a/b", state=LineState.SUCCEEDED, error_message="\ud800")
    async with running(Recorder(redis, CALLER, retention=3600)) as recorder:
        for each in (result(0), unwritable, result(2)):
            recorder.sent(batch_id)
            recorder.put(shard, each)
        await recorder.drained()
    found = {entry.result.index: entry.result for entry in await records.read(redis, batch_id) if entry.result}
    assert {index: each.state for index, each in found.items()} == {
        0: LineState.SUCCEEDED,
        1: LineState.FAILED,
        2: LineState.SUCCEEDED,
    }
    assert found[1].error_code == "internal_error"


async def test_a_flush_is_bounded_in_bytes(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    batch_id = await release(redis, LINES)
    shard = shard_of(batch_id)
    large = [
        Result(index=index, custom_id="", model="a/b", state=LineState.SUCCEEDED, response=b"x" * 900)
        for index in range(6)
    ]
    async with running(Recorder(redis, CALLER, retention=3600)) as recorder:
        for each in large:
            recorder.put(shard, each, was_sent=False)
        assert recorder.unrecorded == 6
        await recorder.drained()
        assert (recorder.flushes, recorder.unrecorded) == (6, 0)
