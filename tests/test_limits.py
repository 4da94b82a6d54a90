"""Limits at the gate: buckets of requests and tokens, the daily count, lines in the air."""

import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Limit
from batchmill.store import keys
from batchmill.store.gate import NEVER, Why
from batchmill.store.settlement import Outcome, Settlement, settle

from .gate_helpers import DAY, HOUR, NOON, Clock, Worker, fields, model_key, number, policy_of
from .store_helpers import MODEL, UPSTREAM

UNIT = 60_000
RATE = keys.limit(UPSTREAM, "rate", MODEL)
REQUESTS = Limit(name="rate", match="*", requests_per_minute=600, burst_seconds=1.0)  # 10 at once, one in 100 ms
TOKENS = Limit(name="rate", match="*", tokens_per_minute=60_000, burst_seconds=1.0)  # 1000 at once, one a ms


def worker_of(redis: Redis, clock: Clock, *limits: Limit, name: str = "one") -> Worker:
    return Worker(redis, clock, name, policy_of(*limits))


async def test_a_bucket_of_requests(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock, REQUESTS)
    reply = await worker.admit(*[(0, 0)] * 12)
    assert (reply.looked, reply.why, reply.which, reply.wait) == (10, Why.LIMIT, 1, 100)
    await clock.forward(99)
    reply = await worker.admit((0, 0))
    assert (reply.looked, reply.wait) == (0, 1)
    await clock.forward(1)
    assert (await worker.admit((0, 0), (0, 0))).looked == 1
    await clock.forward(DAY)  # it overflows at its capacity
    assert (await worker.admit(*[(0, 0)] * 12)).looked == 10


async def test_a_bucket_of_tokens(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock, TOKENS)
    reply = await worker.admit((0, 600), (0, 300), (0, 300))
    assert (reply.looked, reply.why, reply.which, reply.wait) == (2, Why.LIMIT, 1, 200)
    assert await number(redis, RATE, "tokens") == 100 * UNIT
    await clock.forward(199)
    assert (await worker.admit((0, 300))).wait == 1
    await clock.forward(1)
    assert (await worker.admit((0, 300), (0, 0), (0, 1))).looked == 2


async def test_a_line_dearer_than_the_bucket_passes_when_it_is_full(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock, TOKENS)
    await worker.take(0, 1)
    reply = await worker.admit((0, 5000))
    assert (reply.looked, reply.wait) == (0, 1)
    await clock.forward(1)
    reply = await worker.admit((0, 5000), (0, 0))
    assert (reply.looked, reply.wait) == (1, 4000)  # even a line of no tokens waits for what was lent
    assert await number(redis, RATE, "tokens") == -4000 * UNIT
    await clock.forward(4999)
    assert (await worker.admit((0, 5000))).wait == 1


async def test_a_refused_line_takes_nothing_of_any_limit(redis: Redis, clock: Clock) -> None:
    small = Limit(name="small", match="*", requests_per_minute=1)
    worker = worker_of(redis, clock, REQUESTS, TOKENS.__class__(name="t", match="*", tokens_per_minute=60_000), small)
    await worker.take(0, 10)
    before = [await fields(redis, rule.key) for rule in worker.rules().limits]
    reply = await worker.admit((0, 10))
    assert (reply.looked, reply.which, reply.wait) == (0, 3, 60_000)
    assert [await fields(redis, rule.key) for rule in worker.rules().limits] == before


async def test_the_longer_of_two_waits_is_told(redis: Redis, clock: Clock) -> None:
    both = Limit(name="rate", match="*", requests_per_minute=60, tokens_per_minute=60_000, burst_seconds=1.0)
    worker = worker_of(redis, clock, both)
    await worker.take(0, 1000)
    assert (await worker.admit((0, 1))).wait == 1000
    assert (await worker.admit((0, 1000))).wait == 1000
    await clock.forward(600)
    assert (await worker.admit((0, 1000))).wait == 400


async def test_a_day_s_count_ends_at_midnight_utc(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock, Limit(name="rate", match="*", requests_per_day=2))
    reply = await worker.admit(*[(0, 0)] * 3)
    assert (reply.looked, reply.why, reply.wait) == (2, Why.LIMIT, 12 * HOUR)
    await clock.forward(12 * HOUR - 1)
    assert (await worker.admit((0, 0))).wait == 1
    await clock.forward(1)
    assert (await worker.admit(*[(0, 0)] * 3)).looked == 2
    assert (await number(redis, RATE, "day"), await number(redis, RATE, "day_count")) == (NOON // DAY + 1, 2)


async def test_lines_in_the_air_are_counted_over_all_workers(redis: Redis, clock: Clock) -> None:
    limit = Limit(name="rate", match="*", max_concurrency=2)
    one, two = (worker_of(redis, clock, limit, name=name) for name in ("one", "two"))
    held = await one.take()
    await two.take()
    for worker in (one, two):
        reply = await worker.admit((0, 0))
        assert (reply.looked, reply.why, reply.which, reply.wait) == (0, Why.LIMIT, 1, NEVER)
    await one.settle(held, 0)
    assert (await two.admit((0, 0), (0, 0))).looked == 1


async def test_a_shared_limit_is_one_bucket_of_all_models(redis: Redis, clock: Clock) -> None:
    worker = worker_of(
        redis, clock, Limit(name="rate", match="*", requests_per_minute=60, burst_seconds=2, shared=True)
    )
    await worker.take()
    await worker.take(rules=worker.rules("maker/other"))
    assert (await worker.admit((0, 0))).why is Why.LIMIT


async def test_a_clock_that_goes_back_fills_no_bucket(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock, REQUESTS)
    await worker.admit(*[(0, 0)] * 10)
    await clock.forward(-HOUR)
    assert (await worker.admit((0, 0))).looked == 0
    await clock.forward(HOUR)
    assert (await worker.admit((0, 0))).looked == 0
    await clock.forward(100)
    assert (await worker.admit((0, 0), (0, 0))).looked == 1


async def test_a_changed_limit_counts_at_once(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock, REQUESTS)
    await worker.take()
    wide = worker_of(redis, clock, Limit(name="rate", match="*", requests_per_minute=6000, burst_seconds=1.0), name="w")
    reply = await wide.admit(*[(0, 0)] * 12)
    assert (reply.looked, reply.wait) == (9, 10)
    await clock.forward(1000)
    narrow = worker_of(redis, clock, Limit(name="rate", match="*", requests_per_minute=60), name="n")
    assert (await narrow.admit(*[(0, 0)] * 12)).looked == 1  # what time gave before it was asked counts by the new rate


@pytest.mark.parametrize(("used", "level"), [(400, 600), (0, 1000), (None, 0), (1000, 0), (1500, -500)])
async def test_tokens_that_were_not_used_come_back(redis: Redis, clock: Clock, used: int | None, level: int) -> None:
    worker = worker_of(redis, clock, TOKENS)
    held = await worker.take(0, 1000)
    await worker.settle(held, 0, used)
    assert await number(redis, RATE, "tokens") == level * UNIT


async def test_what_a_very_dear_line_did_not_use_comes_back(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock, TOKENS)
    held = await worker.take(0, 9000)
    await clock.forward(300)
    await worker.settle(held, 0, 400)
    assert await number(redis, RATE, "tokens") == 900 * UNIT


async def test_refill_that_was_lost_while_the_bucket_was_full_stays_lost(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock, TOKENS)
    held = await worker.take(0, 400)
    await clock.forward(300)
    later = await worker.take(0, 900)  # at 900 of 1000: had nothing been taken before, 300 more had been lost
    await worker.settle(held, 0, 0)
    assert await number(redis, RATE, "tokens") == 100 * UNIT
    await worker.settle(later, 0, 0)
    assert await number(redis, RATE, "tokens") == 1000 * UNIT


async def test_peaks_that_hardly_differ_count_as_the_higher(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock, TOKENS)
    held = await worker.take(0, 400)
    await clock.forward(390)
    await worker.take(0, 400)
    await worker.settle(held, 0, 0)
    assert 590 * UNIT <= await number(redis, RATE, "tokens") <= 600 * UNIT


async def test_what_overflows_pays_for_nothing_that_was_used_too_much(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock, TOKENS)
    held = [await worker.take(0, 100) for _ in range(2)]
    await clock.forward(200)
    ends = [Settlement(one.hold, 0, 0, used) for one, used in zip(held, (0, 600), strict=True)]
    await settle(redis, worker.caller, [worker.settling(*ends, rules=held[0].rules)])
    assert await number(redis, RATE, "tokens") == 500 * UNIT


async def test_a_limit_in_use_never_expires(redis: Redis, clock: Clock) -> None:
    """With one line at a time it is always a settlement that comes first in a new hour."""
    worker = worker_of(redis, clock, Limit(name="rate", match="*", tokens_per_minute=60_000, requests_per_day=9))
    held = await worker.take(0, 10)
    await redis.expire(RATE, 60)
    await clock.forward(HOUR)
    await worker.settle(held, 0, 10)
    await worker.take(0, 10)
    assert await redis.ttl(RATE) > DAY // 1000


async def test_in_air_is_never_less_than_nothing(redis: Redis, clock: Clock) -> None:
    """A fleet that stood still for days comes back to limits that have expired."""
    worker = worker_of(redis, clock, Limit(name="rate", match="*", max_concurrency=1))
    held = await worker.take()
    await redis.delete(RATE, model_key())
    await worker.settle(held, 0, outcome=Outcome.FAILED)
    assert not await redis.exists(RATE)
    assert await number(redis, model_key(), "in_air") == 0
    assert (await worker.admit((0, 0), (0, 0))).looked == 1
