"""Settling: what was held becomes what was spent, once, in the window in which it was taken."""

import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Limit
from batchmill.store import keys, settlement, suspects
from batchmill.store.settlement import Booked, Outcome, Settlement

from .gate_helpers import (
    DAY,
    HOUR,
    Clock,
    Held,
    Sums,
    Worker,
    all_suspects,
    budget,
    end_lease,
    fields,
    model_key,
    number,
    policy_of,
    sums,
)
from .store_helpers import MODEL, UPSTREAM

BOOKS = keys.books(UPSTREAM)
ALL = keys.budget(UPSTREAM, "all", "total")
FIRST_DAY = keys.budget(UPSTREAM, "daily", "2100-01-01")
HUGE = 10**15 + 7
POLICY = policy_of(
    budget("all", 10**16 - 10**15), budget("daily", 10**15 * 5, window="day"), Limit(match="*", max_concurrency=9)
)


@pytest.fixture
def worker(redis: Redis, clock: Clock) -> Worker:
    return Worker(redis, clock, policy=POLICY)


async def both(redis: Redis) -> Sums:
    found = await sums(redis, ALL)
    assert await sums(redis, FIRST_DAY) == found
    return found


ENDS = {
    "less than its bound": (100, 30, Sums(spent=30), 0),
    "nothing": (100, 0, Sums(), 0),
    "its bound": (100, 100, Sums(spent=100), 0),
    "more than its bound": (100, 130, Sums(spent=100, debt=30), 1),
    "something that was free": (0, 5, Sums(debt=5), 1),
    "nobody knows what": (100, None, Sums(suspect=100), 0),
    "nobody knows what, of a free one": (0, None, Sums(), 0),
    "very much": (HUGE, HUGE - 1, Sums(spent=HUGE - 1), 0),
    "very much, nobody knows": (HUGE, None, Sums(suspect=HUGE), 0),
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_line_costs(redis: Redis, worker: Worker, name: str) -> None:
    bound, cost, booked, breaches = ENDS[name]
    other = await worker.take(1)
    held = await worker.take(bound)
    assert await worker.settle(held, cost) == Booked(new=True)
    assert await both(redis) == booked._replace(held=1)
    assert await number(redis, BOOKS, "bound_breaches") == breaches
    found = await all_suspects(redis)
    assert {hold: suspect.amount for hold, suspect in found.items()} == ({held.hold: bound} if booked.suspect else {})
    for key in (model_key(), *worker.rules().keys[2:]):
        assert await number(redis, key, "in_air") == 1
    assert other.hold in await fields(redis, keys.holds(UPSTREAM, "one"))
    assert held.hold not in await fields(redis, keys.holds(UPSTREAM, "one"))


async def test_a_suspect_tells_whose_it_is(redis: Redis, clock: Clock, worker: Worker) -> None:
    held = await worker.take(7)
    await worker.settle(held, None, generation="gen-1")
    (suspect,) = (await all_suspects(redis)).values()
    index = int(held.hold.split(".")[1])
    assert suspect == suspects.Suspect(held.hold, 7, "batch_1", index, MODEL, "gen-1", clock.now, [ALL, FIRST_DAY])


async def test_a_hold_settles_into_the_window_in_which_it_was_taken(redis: Redis, clock: Clock, worker: Worker) -> None:
    held = await worker.take(5)
    await clock.forward(DAY)
    worker.book.turn()
    await worker.take(3)
    await worker.settle(held, 4)
    assert await sums(redis, FIRST_DAY) == Sums(spent=4)
    assert await sums(redis, keys.budget(UPSTREAM, "daily", "2100-01-02")) == Sums(held=3)
    assert await sums(redis, ALL) == Sums(spent=4, held=3)


async def test_a_call_is_booked_once(redis: Redis, worker: Worker) -> None:
    held = [await worker.take(5) for _ in range(3)]
    calls = [worker.settling(Settlement(one.hold, 5, 2), rules=one.rules) for one in held]
    first = await settlement.settle(redis, worker.caller, calls[:2])
    again = await settlement.settle(redis, worker.caller, calls)  # the connection broke before the third
    assert [booked.new for booked in first + again] == [True, True, False, False, True]
    assert await both(redis) == Sums(spent=6)
    assert await number(redis, model_key(), "in_air") == 0


async def test_calls_of_two_workers_are_numbered_apart(redis: Redis, clock: Clock) -> None:
    for name in ("one", "two"):
        worker = Worker(redis, clock, name, POLICY)
        assert (await worker.settle(await worker.take(5), 5)).new
    assert await both(redis) == Sums(spent=10)


async def test_a_server_that_forgot_the_script(redis: Redis, worker: Worker) -> None:
    held = [await worker.take(5) for _ in range(2)]
    await redis.script_flush()
    calls = [worker.settling(Settlement(one.hold, 5, 2), rules=one.rules) for one in held]
    assert [booked.new for booked in await settlement.settle(redis, worker.caller, calls)] == [True, True]
    assert await both(redis) == Sums(spent=4)


async def test_damaged_numbers_do_not_part_the_books(redis: Redis, worker: Worker) -> None:
    for cost, spent in ((-5, 0), (10**30, 10)):
        held = await worker.take(10, 3)
        assert (await worker.settle(held, cost, -(10**30))).new
        assert (await sums(redis, ALL)).spent == spent
    assert (await both(redis))._replace(debt=0) == Sums(spent=10)
    assert await number(redis, model_key(), "in_air") == 0


async def given_up(redis: Redis, worker: Worker, bound: int = 10) -> Held:
    """Take a line, and have its worker given up."""
    held = await worker.take(bound)
    await end_lease(redis, worker.name)
    assert await suspects.abandon(redis, UPSTREAM, worker.name) == 1
    return held


LATE: dict[str, tuple[int | None, int | None, Sums]] = {  # closed with (None: not closed), cost, what is booked
    "a suspect cost less": (None, 4, Sums(spent=4)),
    "a suspect cost more": (None, 14, Sums(spent=10, debt=4)),
    "a suspect stays one": (None, None, Sums(suspect=10)),
    "released, but it cost": (0, 4, Sums(debt=4)),
    "released, and nobody knows": (0, None, Sums()),
    "looked up, and it is so": (6, 6, Sums(spent=6)),
    "looked up too low": (6, 9, Sums(spent=6, debt=3)),
    "looked up too high": (6, 4, Sums(spent=4)),
    "looked up, over its bound, too high": (14, 12, Sums(spent=10, debt=2)),
    "looked up, over its bound, far too high": (14, 3, Sums(spent=3)),
    "looked up, and nobody knows": (6, None, Sums(spent=6)),
}


@pytest.mark.parametrize("name", LATE)
async def test_late(redis: Redis, worker: Worker, name: str) -> None:
    closed, cost, booked = LATE[name]
    held = await given_up(redis, worker)
    assert await both(redis) == Sums(suspect=10)
    if closed is not None:
        assert await suspects.close(redis, UPSTREAM, (await all_suspects(redis))[held.hold], closed)
    assert (await worker.settle(held, cost)).new
    assert await both(redis) == booked
    assert bool(await all_suspects(redis)) == (closed is None and cost is None)
    assert await redis.exists(keys.closed(UPSTREAM)) == (closed is not None and cost is None)
    assert await number(redis, model_key(), "in_air") == 0


async def test_a_cost_that_finds_no_hold_at_all_is_booked_as_debt(redis: Redis, worker: Worker) -> None:
    held = await worker.take(10)
    await worker.settle(held, 4)
    await worker.settle(held, 4)
    assert await both(redis) == Sums(spent=4, debt=4)
    assert await number(redis, BOOKS, "late") == 1


async def test_what_comes_to_emptied_books_is_booked_and_ends(redis: Redis, clock: Clock, worker: Worker) -> None:
    held, other = await worker.take(10), await worker.take(20)
    await redis.flushall()
    await clock.set(clock.now)
    await worker.settle(held, 4)
    await worker.settle(other, None)
    assert await both(redis) == Sums(suspect=20, debt=4)
    for key in (ALL, FIRST_DAY, keys.holds(UPSTREAM, "one")):
        assert await redis.ttl(key) > 0
    await worker.take(1)
    assert await redis.ttl(ALL) == -1
    assert await redis.ttl(keys.holds(UPSTREAM, "one")) == -1


async def test_what_a_window_that_expired_held_is_not_taken_off_it(redis: Redis, worker: Worker) -> None:
    held = await given_up(redis, worker)
    await redis.delete(FIRST_DAY)
    await worker.settle(held, 4)
    assert await sums(redis, ALL) == Sums(spent=4)
    assert await sums(redis, FIRST_DAY) == Sums(spent=4)
    assert await redis.ttl(FIRST_DAY) > 0


async def test_a_model_whose_facts_expired_leaves_none_behind_for_ever(redis: Redis, worker: Worker) -> None:
    held = await worker.take(1)
    await redis.delete(model_key())
    await worker.settle(held, 0, outcome=Outcome.FAILED)
    assert 0 < await redis.ttl(model_key()) <= 2 * DAY // 1000
    assert HOUR < DAY
