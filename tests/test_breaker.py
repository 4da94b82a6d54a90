"""The breaker of a model: opens by what providers do, lets a few try, and closes step by step, for the whole fleet."""

import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Breaker
from batchmill.store import settlement
from batchmill.store.gate import NEVER, Why
from batchmill.store.settlement import Outcome

from .gate_helpers import Clock, Worker, fields, model_key, number, policy_of

GOOD, BAD, NEUTRAL = Outcome.ANSWERED, Outcome.FAILED, Outcome.NOTHING
BREAKER = Breaker(window_seconds=60, min_calls=4, failure_ratio=0.5, open_seconds=10, max_open_seconds=60, probes=2)
OPEN_MS = 10_000


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement.random, "random", lambda: 0.5)  # type: ignore[attr-defined]  # its import


def worker_of(redis: Redis, clock: Clock, name: str = "one", breaker: Breaker = BREAKER) -> Worker:
    return Worker(redis, clock, name, policy_of(breaker=breaker))


async def state(redis: Redis) -> str:
    return (await fields(redis, model_key())).get("state", "closed")


TRIPS = {
    "half of the fewest calls": ([GOOD, GOOD, BAD, BAD], True),
    "less than half": ([GOOD, GOOD, GOOD, BAD, BAD], False),
    "too few calls": ([BAD, BAD, BAD], False),
    "all": ([BAD] * 4, True),
    "nothing that tells of the provider": ([NEUTRAL] * 20, False),
    "neutral ones are no calls": ([NEUTRAL] * 20 + [BAD] * 3, False),
    "neutral ones do not water it down": ([NEUTRAL] * 20 + [BAD] * 4, True),
}


@pytest.mark.parametrize("name", TRIPS)
@pytest.mark.parametrize("together", [True, False])
async def test_it_opens_by_the_share_of_failures(redis: Redis, clock: Clock, name: str, together: bool) -> None:
    outcomes, opens = TRIPS[name]
    worker = worker_of(redis, clock)
    calls = [outcomes] if together else [[outcome] for outcome in outcomes]
    tripped = [(await worker.finish(*call)).tripped for call in calls]
    assert tripped == [False] * (len(calls) - 1) + [opens]
    assert await state(redis) == ("open" if opens else "closed")
    if opens:
        reply = await worker.admit((0, 0))
        assert (reply.why, reply.wait) == (Why.BREAKER, OPEN_MS)
        assert (await fields(redis, model_key()))["tripped"] == "failures"


async def test_failures_of_long_ago_count_no_more(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock)
    await worker.finish(BAD, BAD, BAD)
    await clock.forward(50_000)  # the window is six parts of ten seconds
    await worker.finish(GOOD)
    assert await state(redis) == "open"
    await redis.delete(model_key())
    await worker.finish(BAD, BAD, BAD)
    await clock.forward(60_000)
    await worker.finish(BAD, BAD, BAD)
    assert await state(redis) == "closed"
    await worker.finish(BAD)
    assert await state(redis) == "open"


async def test_slow_calls_open_it_when_asked_for(redis: Redis, clock: Clock) -> None:
    slow = Breaker(min_calls=4, slow_seconds=1.0, slow_ratio=0.75)
    for breaker, last, opens in ((BREAKER, True, False), (slow, False, False), (slow, True, True)):
        worker = worker_of(redis, clock, f"{breaker.slow_seconds}{last}", breaker)
        await worker.finish(GOOD, GOOD, slow=True)
        await worker.finish(GOOD, slow=last)
        assert (await worker.finish(GOOD)).tripped == opens
        await redis.delete(model_key())


@pytest.mark.parametrize(("jitter", "expected"), [(0.0, 8_000), (0.5, 10_000), (0.999999, 11_999)])
async def test_open_time_is_spread(
    redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch, jitter: float, expected: int
) -> None:
    monkeypatch.setattr(settlement.random, "random", lambda: jitter)  # type: ignore[attr-defined]  # its import
    worker = worker_of(redis, clock)
    await worker.finish(*[BAD] * 4)
    assert (await worker.admit((0, 0))).wait == expected


async def test_open_time_grows_to_its_longest(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock)
    await worker.finish(*[BAD] * 4)
    waits = []
    for _ in range(5):
        wait = (await worker.admit((0, 0))).wait
        waits.append(wait)
        await clock.forward(wait)
        assert (await worker.finish(BAD)).tripped  # the first probe that fails is enough
    assert waits == [10_000, 20_000, 40_000, 60_000, 60_000]


async def half_open(redis: Redis, clock: Clock) -> list[Worker]:
    workers = [worker_of(redis, clock, name) for name in ("one", "two")]
    await workers[0].finish(*[BAD] * 4)
    await clock.forward(OPEN_MS)
    return workers


async def test_probes_are_counted_over_all_workers(redis: Redis, clock: Clock) -> None:
    one, two = await half_open(redis, clock)
    probe = await one.take()
    reply = await two.admit((0, 0), (0, 0))
    assert (reply.looked, reply.why, reply.wait) == (1, Why.BREAKER, NEVER)
    assert (await one.admit((0, 0))).why is Why.BREAKER
    await one.settle(probe, 0, outcome=NEUTRAL)  # it said nothing: another may try
    assert (await one.admit((0, 0), (0, 0))).looked == 1


async def test_what_was_sent_before_it_opened_decides_nothing(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock)
    old = [await worker.take() for _ in range(9)]
    late = [await worker.take() for _ in range(8)]
    await worker.finish(*[BAD] * 4)
    await worker.settle(old[0], 0, outcome=GOOD)
    for held in late:
        assert not (await worker.settle(held, 0, outcome=BAD)).tripped
    assert (await worker.admit((0, 0))).wait == OPEN_MS
    await clock.forward(OPEN_MS)
    probe = await worker.take()
    for held in old[1:4]:
        await worker.settle(held, 0, outcome=BAD)
    for held in old[4:]:
        await worker.settle(held, 0, outcome=GOOD)
    assert await state(redis) == "half"
    await worker.settle(probe, 0, outcome=GOOD)
    assert (await state(redis), await number(redis, model_key(), "good")) == ("half", 1)


async def test_probes_that_are_out_when_it_opens_again_count_for_the_next_time(redis: Redis, clock: Clock) -> None:
    one, two = await half_open(redis, clock)
    slow, failed = await one.take(), await two.take()
    assert (await two.settle(failed, 0, outcome=BAD)).tripped
    await clock.forward(2 * OPEN_MS)
    assert (await two.admit((0, 0), (0, 0))).looked == 1
    await one.settle(slow, 0)
    assert await number(redis, model_key(), "probing") == 1


async def test_it_returns_step_by_step(redis: Redis, clock: Clock) -> None:
    worker, _ = await half_open(redis, clock)
    await worker.finish(GOOD)
    assert await state(redis) == "half"
    await worker.finish(GOOD)
    assert await state(redis) == "closed"
    for allowed in (4, 8, 16):
        reply = await worker.admit(*[(0, 0)] * 99)
        assert (reply.looked, reply.why, reply.wait) == (allowed, Why.BREAKER, NEVER)
        held, worker.held = list(worker.held.values()), {}
        for one in held:
            await worker.settle(one, 0, outcome=GOOD)
    await redis.execute_command("HSET", model_key(), "window", 1024)
    await worker.finish(GOOD)
    left = await fields(redis, model_key())
    assert "window" not in left
    assert "trips" not in left  # trusted again: the next time it opens briefly
    assert (await worker.admit(*[(0, 0)] * 2000)).looked == 2000


async def test_failures_while_it_returns_open_it_for_longer(redis: Redis, clock: Clock) -> None:
    worker, _ = await half_open(redis, clock)
    await worker.finish(GOOD, GOOD)
    assert not (await worker.finish(BAD, BAD, BAD)).tripped
    assert (await worker.finish(BAD)).tripped
    assert (await worker.admit((0, 0))).wait == 2 * OPEN_MS
    assert "window" not in await fields(redis, model_key())


async def test_what_an_operator_tripped_stays_so(redis: Redis, clock: Clock) -> None:
    worker = worker_of(redis, clock)
    held = [await worker.take() for _ in range(2)]
    await redis.execute_command("HSET", model_key(), "state", "open", "until", -1, "tripped", "operator")
    await worker.settle(held[0], 0, outcome=GOOD)
    await worker.settle(held[1], 0, outcome=BAD)
    await clock.forward(10**9)
    assert (await worker.admit((0, 0))).wait == NEVER
    assert (await fields(redis, model_key()))["tripped"] == "operator"
