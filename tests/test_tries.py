"""A batch whose id is given may be tried again: after a crash, or by another while the first is only slow."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.producer import intake
from batchmill.producer.conditions import conditions_of, pricer_for
from batchmill.producer.input import InputOptions
from batchmill.producer.intake import Birth, Submission
from batchmill.store import batches, keys
from batchmill.store.errors import StoreError
from batchmill.store.handed import Handed
from batchmill.store.model import BatchState, LineState
from batchmill.store.records import BATCH_GONE, Recording, record
from batchmill.store.staging import Staging

from .store_helpers import (
    DAYS,
    MODEL,
    RETENTION,
    UPSTREAM,
    all_results,
    claim,
    complete,
    facts,
    line,
    queued,
    result,
)

ID = "batch_000000000001aa"


def attempt(redis: Redis) -> Staging:
    return Staging(redis, UPSTREAM, retention_days=DAYS, batch_id=ID)


async def stage(staging: Staging, *sizes: int) -> None:
    first = 0
    for size in sizes:
        await staging.add(MODEL, [line(index) for index in range(first, first + size)])
        first += size


async def let_go(slow: Staging) -> str:
    return await slow.release(facts(2))


async def test_what_an_earlier_try_left_is_discarded(redis: Redis) -> None:
    """Prices have changed meanwhile, so the shards are others; nothing of the first may be run beside them."""
    dead = attempt(redis)
    await stage(dead, 1, 1, 2)
    await dead._stage_refused(5, [result(4, LineState.FAILED)])

    second = attempt(redis)
    assert await second.take_over()
    assert {name.decode() for name in await redis.keys("*")} == {keys.batch(ID)}
    await stage(second, 3, 1)
    assert await second.release(facts(5), [result(4, LineState.FAILED)]) == ID
    assert await queued(redis) == [f"{ID}.0.3", f"{ID}.1.1"]
    await complete(redis, await claim(redis))
    status = await batches.status(redis, ID)
    assert (status.state, status.succeeded, status.failed) == (BatchState.COMPLETED, 4, 1)


@pytest.mark.parametrize(
    "step",
    [
        lambda slow: slow._flush(2),
        lambda slow: slow._stage_refused(3, [result(2, LineState.FAILED)]),
        let_go,
    ],
    ids=["stage", "refuse", "release"],
)
@pytest.mark.parametrize("flushed", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("released", [False, True], ids=["staged", "let go"])
async def test_a_slow_try_writes_nothing_any_more(
    redis: Redis, step: Callable[[Staging], Awaitable[object]], released: bool, flushed: bool
) -> None:
    slow, second = attempt(redis), attempt(redis)
    await stage(slow, 2)
    if flushed:
        await slow._flush()
    assert await second.take_over()
    await stage(second, 2)
    if released:
        await second.release(facts(2))
    else:
        await second._flush()
    before = {name: await redis.ttl(name) for name in await redis.keys("*")}
    with contextlib.nullcontext() if released and flushed and step is let_go else pytest.raises(StoreError):
        await step(slow)  # the batch is there, if it is let go twice, whoever did it
    await slow.discard()
    assert {name: await redis.ttl(name) for name in await redis.keys("*")} == before
    if not released:
        assert await second.release(facts(2)) == ID
    assert await queued(redis) == [f"{ID}.0.2"]
    assert await redis.ttl(keys.shard(f"{ID}.0.2")) > RETENTION - 60


async def test_a_refusal_that_comes_after_the_release_marks_no_line(redis: Redis) -> None:
    """Under other prices the line runs; it must not be failed by who looked at the old ones."""
    slow, second = attempt(redis), attempt(redis)
    await stage(slow, 1)
    await slow._flush(2)
    assert await second.take_over()
    await stage(second, 2)
    await second.release(facts(2))
    with pytest.raises(StoreError):
        await slow._stage_refused(2, [result(1, LineState.FAILED)])
    late = Recording(ID, (result(1, LineState.FAILED),))
    assert await record(redis, [late], slow._token, RETENTION) == [BATCH_GONE]
    assert await all_results(redis, ID) == []
    assert (await batches.status(redis, ID)).failed == 0


async def test_a_batch_that_was_let_go_is_not_taken_over(redis: Redis) -> None:
    first = attempt(redis)
    await stage(first, 1)
    await first.release(facts(1))
    assert not await attempt(redis).take_over()
    assert await first.release(facts(1)) == ID, "its own call, repeated"


@pytest.fixture
def submit(redis: Redis, settings: Settings, tmp_path: Path) -> Callable[[], asyncio.Future[Submission]]:
    """Hand the same file in under the same id."""
    file = tmp_path / "in.jsonl"
    lines = [f'{{"model":"{MODEL}","max_tokens":5,"messages":[{{"role":"user","content":"{n}"}}]}}' for n in range(150)]
    file.write_text("\n".join([*lines, '{"model":"x"}']))
    handed = Handed(input_file_id="file-1", created_at=1_700_000_000)

    async def hand_in() -> Submission:
        return await intake.submit(
            redis,
            file,
            InputOptions(),
            settings.upstream_name,
            await pricer_for(redis, settings, conditions_of(project="p")),
            source="in.jsonl",
            retention_days=DAYS,
            skip_invalid=True,
            birth=Birth(batch_id=ID, handed=handed, expires_at=4_000_000_000),
        )

    return lambda: asyncio.ensure_future(hand_in())


async def test_the_same_file_under_the_same_id_is_the_same_batch(
    redis: Redis, submit: Callable[[], asyncio.Future[Submission]]
) -> None:
    assert not (await submit()).reused
    found = await submit()
    assert (found.batch_id, found.reused, found.survey.models) == (ID, True, {MODEL: 150})
    status = await batches.status(redis, ID)
    assert (status.total, status.failed, status.project) == (151, 1, "p")
    assert (status.expires_at, status.created_at) == (4_000_000_000, 1_700_000_000)
    assert await batches.live(redis) == [ID]


@pytest.mark.parametrize("seed", range(6))
async def test_gateways_that_die_or_race_make_one_batch(
    redis: Redis, submit: Callable[[], asyncio.Future[Submission]], seed: int
) -> None:
    """Killed at any await, overtaken at any other: in the end there is one batch, with each line in it once."""
    chance = random.Random(seed)
    tries = [submit() for _ in range(3)]
    for one in tries[:2]:
        for _ in range(chance.randrange(400)):
            await asyncio.sleep(0)
        if chance.random() < 0.7:
            one.cancel()
    await asyncio.gather(*tries, return_exceptions=True)
    assert (await submit()).batch_id == ID
    shards = await batches.open_shards(redis, ID)
    indexes: list[int] = []
    for shard in shards:
        work = await batches.load(redis, shard.reference, shard.first, shard.last)
        assert work is not None
        indexes += [left.index for left in work.lines]
    assert sorted(indexes) == list(range(150))
    status = await batches.status(redis, ID)
    assert (status.total, status.failed, status.pending) == (151, 1, 150)
    assert await redis.ttl(keys.batch(ID)) > RETENTION - 60
