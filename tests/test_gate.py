"""The gate: who is let through, who is not and why, and that a refused line takes nothing."""

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Breaker, Limit
from batchmill.store import gate, keys
from batchmill.store.gate import NEVER, Ask, Candidate, Why

from .gate_helpers import DAY, HOUR, LEASE_MS, NOON, Clock, Sums, Worker, budget, fields, model_key, number, policy_of
from .gate_helpers import sums as sums_of
from .store_helpers import MODEL, UPSTREAM

BOOKS = keys.books(UPSTREAM)
PAUSES = keys.pauses(UPSTREAM)
ALL = keys.budget(UPSTREAM, "all", "total")
DAILY = keys.budget(UPSTREAM, "daily", "2100-01-01")

Step = Callable[[Redis], Awaitable[object]]


def write(key: str, *pairs: str | int) -> Step:
    return lambda redis: redis.execute_command("HSET", key, *pairs)


async def end_keys(redis: Redis) -> None:
    """Give an end to what a test wrote by hand."""
    await redis.execute_command("EXPIRE", model_key(), 60)


REFUSALS: dict[str, tuple[Step, Why, int, int]] = {
    "an alarm stands": (write(BOOKS, "alarm", "{}"), Why.ALARM, 0, NEVER),
    "the policy is newer": (write(BOOKS, "version", 1), Why.POLICY, 0, 0),
    "the model is paused": (write(PAUSES, MODEL, f"{NOON + 700}|429"), Why.PAUSE, 1, 700),
    "the account is paused": (write(PAUSES, "account", f"{NOON + 1}|429"), Why.PAUSE, 2, 1),
    "the account is refused": (write(PAUSES, "refused", f"{NOON + 5}|402"), Why.PAUSE, 3, 5),
    "an operator pauses": (write(PAUSES, f"op:{MODEL}", "-1|operator"), Why.PAUSE, 4, NEVER),
    "the breaker is open": (write(model_key(), "state", "open", "until", NOON + 900), Why.BREAKER, 0, 900),
    "an operator tripped": (write(model_key(), "state", "open", "until", -1), Why.BREAKER, 1, NEVER),
    "probes are out": (write(model_key(), "state", "half", "probing", 3), Why.BREAKER, 0, NEVER),
    "the return is gradual": (write(model_key(), "window", "2.9", "in_air", 2), Why.BREAKER, 0, NEVER),
    "the share is used": (write(model_key(), "share", "2.9", "in_air", 2), Why.SHARE, 0, NEVER),
    "the share is least": (write(model_key(), "share", "2", "in_air", 2, "window", 8), Why.SHARE, 0, NEVER),
    "the window is least": (write(model_key(), "share", "4", "in_air", 2, "window", 2), Why.BREAKER, 0, NEVER),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_says_why_and_how_long_and_takes_nothing(redis: Redis, clock: Clock, name: str) -> None:
    arrange, why, which, wait = REFUSALS[name]
    limit = Limit(name="rate", match="*", requests_per_minute=600, tokens_per_minute=600, requests_per_day=9)
    worker = Worker(redis, clock, policy=policy_of(budget("all", 100), limit))
    await arrange(redis)
    await end_keys(redis)
    before = await fields(redis, model_key())
    reply = await worker.admit((5, 1), (6, 1))
    assert (reply.looked, reply.why, reply.which, reply.wait, reply.skipped) == (0, why, which, wait, ())
    assert not reply.admitted(0)
    assert await fields(redis, model_key()) == before
    assert await sums_of(redis, ALL) == Sums()
    assert not await redis.exists(keys.limit(UPSTREAM, "rate", MODEL), keys.owners(UPSTREAM))


PASSES: dict[str, Step] = {
    "a pause is over": write(PAUSES, MODEL, f"{NOON}|429"),
    "another model is paused": write(PAUSES, "maker/other", "-1|operator"),
    "the breaker may try": write(model_key(), "state", "open", "until", NOON, "probing", 0),
    "a place of the share": write(model_key(), "share", "0.3", "in_air", 0),
    "a place of the window": write(model_key(), "window", "3", "in_air", 2),
}


@pytest.mark.parametrize("name", PASSES)
async def test_what_is_over_holds_nobody_up(redis: Redis, clock: Clock, name: str) -> None:
    await PASSES[name](redis)
    assert (await Worker(redis, clock).admit((0, 0))).looked == 1
    await redis.delete(model_key(), BOOKS)


async def test_an_older_epoch_than_the_caller_has_seen_is_an_alarm(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock)
    worker.caller = gate.Caller(UPSTREAM, "one", 1, epoch=8)
    await redis.execute_command("HSET", BOOKS, "epoch", 7)
    assert (await worker.admit((0, 0))).why is Why.ALARM
    await redis.execute_command("HSET", BOOKS, "epoch", 8)
    assert (await worker.admit((0, 0))).looked == 1


async def test_a_free_model_waits_for_pauses_of_free_models(redis: Redis, clock: Clock) -> None:
    await redis.execute_command("HSET", PAUSES, ":free", f"{NOON + 3}|429")
    worker = Worker(redis, clock)
    assert (await worker.admit((0, 0))).looked == 1
    reply = await worker.admit((0, 0), rules=worker.rules("maker/small:free"))
    assert (reply.why, worker.rules("maker/small:free").scopes[reply.which - 1]) == (Why.PAUSE, ":free")


async def test_a_window_that_is_not_now_is_refused(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock, policy=policy_of(budget("all", 9), budget("daily", 9, window="day")))
    noon = worker.rules()
    for now in (NOON + 12 * HOUR, NOON - 12 * HOUR - 1):
        await clock.set(now)
        reply = await worker.admit((1, 0), rules=noon)
        assert (reply.looked, reply.why, reply.which, reply.wait) == (0, Why.WINDOW, 2, 0)
    for now in (NOON + 12 * HOUR - 1, NOON - 12 * HOUR):
        await clock.set(now)
        assert (await worker.admit((1, 0), rules=noon)).looked == 1
    assert (await sums_of(redis, DAILY)).held == 2


async def test_all_budgets_or_none(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock, policy=policy_of(budget("all", 100), budget("daily", 10, window="day")))
    reply = await worker.admit((4, 0), (4, 0), (4, 0))
    assert (reply.looked, reply.why, reply.which, reply.wait) == (3, Why.BUDGET, 2, 12 * HOUR)
    assert reply.skipped == (2,)
    assert [reply.admitted(place) for place in range(4)] == [True, True, False, False]
    assert await sums_of(redis, ALL) == await sums_of(redis, DAILY) == Sums(held=8)
    assert await number(redis, model_key(), "in_air") == 2


async def test_dear_lines_are_skipped_while_cheaper_ones_pass(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock, policy=policy_of(budget("all", 10)))
    reply = await worker.admit((11, 0), (6, 0), (5, 0), (4, 0), (1, 0))
    assert (reply.looked, reply.why, reply.which, reply.wait) == (5, Why.BUDGET, 1, NEVER)
    assert reply.skipped == (0, 2, 4)
    assert (await sums_of(redis, ALL)).held == 10


@pytest.mark.parametrize("field", Sums._fields)
async def test_whatever_is_booked_takes_room(redis: Redis, clock: Clock, field: str) -> None:
    worker = Worker(redis, clock, policy=policy_of(budget("all", 10)))
    await redis.execute_command("HSET", ALL, field, 7)
    assert (await worker.admit((4, 0))).why is Why.BUDGET
    assert (await worker.admit((3, 0))).looked == 1


async def test_a_batch_s_own_limit_stands_in_redis(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock)
    rules, own = worker.rules(capped="batch_1"), keys.batch_budget(UPSTREAM, "batch_1")
    assert (await worker.admit((1, 0), rules=rules)).why is Why.BUDGET  # no limit is a limit of nothing
    await redis.execute_command("HSET", own, "limit", 5)
    await redis.expire(own, 60)
    assert (await worker.admit((6, 0), rules=rules)).why is Why.BUDGET
    assert (await worker.admit((5, 0), rules=rules)).looked == 1
    assert 0 < await redis.ttl(own) <= 60


async def test_a_repeated_call_says_the_same_and_holds_nothing_twice(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock, policy=policy_of(budget("all", 10), Limit(match="*", requests_per_day=9)))
    ask = worker.ask([(4, 0), (9, 0), (4, 0)])
    told = await worker.send(ask)
    before = {key: await redis.dump(key) for key in await redis.keys("*")}
    await clock.forward(5)
    assert await worker.repeat(ask) == told
    assert (await sums_of(redis, ALL)).held == 8
    assert {key: await redis.dump(key) for key in await redis.keys("*") if key != b"bm:test:clock"} == {
        key: value for key, value in before.items() if key != b"bm:test:clock"
    }


async def test_a_repeated_refusal_stays_one(redis: Redis, clock: Clock) -> None:
    """The first copy may come last: what it asks for is nobody's any more."""
    worker = Worker(redis, clock)
    await redis.execute_command("HSET", PAUSES, MODEL, f"{NOON + 5}|429")
    ask = worker.ask([(1, 0)])
    told = await worker.send(ask)
    await clock.forward(5)
    assert await worker.repeat(ask) == told
    assert (await worker.send(ask))[0].looked == 1


async def test_a_pipeline_that_broke_off_is_completed(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock, policy=policy_of(budget("all", 100)))
    asks = [worker.ask([(1, 0)]), worker.ask([(10, 0), (10, 0)]), worker.ask([(5, 0)])]
    first = await worker.send(asks[0])
    second = await worker.repeat(*asks)
    assert second[0] == first[0]
    assert (await sums_of(redis, ALL)).held == 26
    assert await worker.repeat(*asks) == second
    assert (await sums_of(redis, ALL)).held == 26


async def test_a_call_that_comes_after_its_successor_holds_nothing(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock, policy=policy_of(budget("all", 100)))
    old = worker.ask([(1, 0)])
    await worker.send(old)
    await worker.send(worker.ask([(2, 0)]))
    worker.calls -= 1
    assert not (await worker.repeat(old))[0].admitted(0)
    assert (await sums_of(redis, ALL)).held == 3


async def test_owners_calls_are_numbered_apart(redis: Redis, clock: Clock) -> None:
    for name in ("one", "two"):
        await Worker(redis, clock, name).take()
    assert await number(redis, model_key(), "in_air") == 2


async def test_very_many_lines_in_one_ask(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock, policy=policy_of(budget("all", 10_000)))
    reply = await worker.admit(*[(1, 0)] * 9_000)
    assert (reply.looked, reply.why) == (9_000, Why.NOTHING)
    assert (
        await redis.execute_command("HLEN", keys.holds(UPSTREAM, "one")) == 9_000 + 3
    )  # the answer, its number and the rules


async def test_one_server_call_that_forgot_the_script(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock)
    await redis.script_flush()
    replies = await worker.send(worker.ask([(0, 0)]), worker.ask([(0, 0), (0, 0)]))
    assert [reply.looked for reply in replies] == [1, 2]
    assert await number(redis, model_key(), "in_air") == 3


async def test_holds_stay_while_their_owner_is_known(redis: Redis, clock: Clock) -> None:
    """However long that is: what expired would be held of budgets for ever."""
    worker = Worker(redis, clock)
    holds = keys.holds(UPSTREAM, "one")
    await redis.execute_command("HSET", PAUSES, MODEL, f"{NOON + 5}|429")
    await worker.admit((0, 0))
    assert 0 < await redis.ttl(holds) <= DAY // 1000
    await clock.forward(5)
    await worker.take()
    assert await redis.ttl(holds) == -1
    assert await redis.zscore(keys.owners(UPSTREAM), "one") == clock.now + LEASE_MS


async def test_keys_of_the_past_end(redis: Redis, clock: Clock) -> None:
    limit = Limit(name="rate", match="*", requests_per_minute=1)
    rules = policy_of(budget("all", 9), budget("daily", 9, window="day"), limit, breaker=Breaker())
    await Worker(redis, clock, policy=rules).take(1)
    assert await redis.execute_command("PEXPIRETIME", DAILY) == NOON + 12 * HOUR + 40 * DAY
    assert await redis.ttl(ALL) == -1
    for key in (model_key(), keys.limit(UPSTREAM, "rate", MODEL)):
        assert 0 < await redis.ttl(key) <= 2 * DAY // 1000


def test_a_candidate_is_admitted_by_its_place() -> None:
    assert Ask.__struct_fields__ == ("rules", "candidates")
    reply = gate.Reply(3, Why.LIMIT, 1, 5, NOON, (1,))
    assert [reply.admitted(place) for place in range(5)] == [True, False, True, False, False]
    assert Candidate("h", 1, 2).bound == 1
