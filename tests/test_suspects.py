"""Workers that fall silent, and what becomes of what they held."""

import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Breaker, Limit
from batchmill.store import audit, gate, gauges, keys, suspects
from batchmill.store.gate import Why

from .gate_helpers import (
    DAY,
    LEASE_MS,
    Clock,
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

ALL = keys.budget(UPSTREAM, "all", "total")
OWN = keys.batch_budget(UPSTREAM, "batch_1")
HOLDS = keys.holds(UPSTREAM, "one")
OWNERS = keys.owners(UPSTREAM)
OTHER = "maker/other"
POLICY = policy_of(
    budget("all", 1000),
    budget("daily", 1000, window="day", models=MODEL),
    Limit(name="rate", match="*", max_concurrency=5, tokens_per_minute=60_000, burst_seconds=1.0),
)


@pytest.fixture
def worker(redis: Redis, clock: Clock) -> Worker:
    return Worker(redis, clock, policy=POLICY)


async def silent(redis: Redis) -> list[str]:
    return await suspects.silent_owners(redis, UPSTREAM)


async def give_up(redis: Redis, owner: str = "one") -> int:
    return await suspects.abandon(redis, UPSTREAM, owner)


async def test_an_owner_is_silent_when_its_lease_is_over(redis: Redis, clock: Clock, worker: Worker) -> None:
    await worker.take(1)
    await clock.forward(LEASE_MS - 1)
    assert await silent(redis) == []
    assert await give_up(redis) == 0
    assert await sums(redis, ALL) == Sums(held=1)
    await clock.forward(1)
    assert await silent(redis) == ["one"]
    assert await give_up(redis) == 1
    assert await sums(redis, ALL) == Sums(suspect=1)
    assert await silent(redis) == []
    assert await give_up(redis) == 0


async def test_all_that_it_held_becomes_suspect_under_whatever_rules(
    redis: Redis, clock: Clock, worker: Worker
) -> None:
    await redis.execute_command("HSET", OWN, "limit", 100)
    await redis.expire(OWN, 3600)
    held = [
        await worker.take(1, 5),
        await worker.take(2, 5, worker.rules(capped="batch_1")),
        await worker.take(4, 5, worker.rules(OTHER)),
        await worker.take(0, 5),
    ]
    another = Worker(redis, clock, "two", POLICY)
    kept = await another.take(8)
    await redis.execute_command("HSET", HOLDS, f"g{held[1].hold}", "gen-1")
    await end_lease(redis, "one")
    assert await give_up(redis) == 4
    found = await all_suspects(redis)
    assert {hold: (one.amount, one.model, one.generation) for hold, one in found.items()} == {
        held[0].hold: (1, MODEL, ""),
        held[1].hold: (2, MODEL, "gen-1"),
        held[2].hold: (4, OTHER, ""),
    }
    daily = keys.budget(UPSTREAM, "daily", "2100-01-01")
    assert [found[one.hold].budgets for one in held[:3]] == [[ALL, daily], [ALL, daily, OWN], [ALL]]
    assert await sums(redis, ALL) == Sums(suspect=7, held=8)
    assert await sums(redis, daily) == Sums(suspect=3, held=8)
    assert await sums(redis, OWN) == Sums(suspect=2)
    for key, in_air in ((model_key(), 1), (model_key(OTHER), 0)):
        assert await number(redis, key, "in_air") == in_air
    assert await number(redis, keys.limit(UPSTREAM, "rate", MODEL), "in_air") == 1
    assert await number(redis, keys.limit(UPSTREAM, "rate", MODEL), "tokens") == 985 * 60_000  # taken is taken
    assert not {one.hold for one in held} & set(await fields(redis, HOLDS))
    assert kept.hold in await fields(redis, keys.holds(UPSTREAM, "two"))


async def test_more_than_one_step_can_move(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock, policy=policy_of(budget("all", 10_000)))
    await worker.admit(*[(1, 0)] * 1201)
    await end_lease(redis, "one")
    assert await give_up(redis) == 1201
    assert await sums(redis, ALL) == Sums(suspect=1201)
    assert len(await all_suspects(redis)) == 1201


async def test_only_free_lines_in_the_air(redis: Redis, worker: Worker) -> None:
    await worker.take(0)
    await end_lease(redis, "one")
    assert await give_up(redis) == 1
    assert await sums(redis, ALL) == Sums()
    assert await number(redis, model_key(), "in_air") == 0
    assert await silent(redis) == []


async def test_great_amounts_are_exact(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock, policy=policy_of(budget("all", 10**15 * 8)))
    held = await worker.take(1_234_567_890_123_457)
    await end_lease(redis, "one")
    await give_up(redis)
    assert (await all_suspects(redis))[held.hold].amount == 1_234_567_890_123_457
    (shown,) = await gauges.suspects(redis, UPSTREAM)  # what operators and alerts look at
    assert (shown.hold, shown.amount) == (held.hold, 1_234_567_890_123_457)
    await worker.settle(held, 3)
    assert await sums(redis, ALL) == Sums(spent=3)


async def test_an_owner_that_comes_back_goes_on(redis: Redis, clock: Clock, worker: Worker) -> None:
    lost = await worker.take(10)
    await clock.forward(LEASE_MS)
    await give_up(redis)
    assert 0 < await redis.ttl(HOLDS) <= DAY // 1000
    kept = await worker.take(1)
    assert await redis.ttl(HOLDS) == -1  # or what it holds from now on would be forgotten in a day
    await worker.settle(lost, 7)
    await worker.settle(kept, None)
    assert await sums(redis, ALL) == Sums(spent=7, suspect=1)
    assert await number(redis, model_key(), "in_air") == 0
    await clock.forward(LEASE_MS)
    assert await give_up(redis) == 0
    assert await redis.execute_command("ZCARD", OWNERS) == 0


async def test_an_owner_that_asks_in_time_lives(redis: Redis, clock: Clock, worker: Worker) -> None:
    await worker.take(1)
    await clock.forward(LEASE_MS)
    await worker.take(1)
    assert await give_up(redis) == 0
    assert await sums(redis, ALL) == Sums(held=2)


async def test_an_owner_that_leaves_in_order(redis: Redis, clock: Clock, worker: Worker) -> None:
    held = await worker.take(3)
    await worker.settle(await worker.take(2), 1)
    assert await suspects.leave(redis, UPSTREAM, "one") == 1
    assert await sums(redis, ALL) == Sums(spent=1, suspect=3)
    assert set(await all_suspects(redis)) == {held.hold}
    assert await suspects.leave(redis, UPSTREAM, "nobody") == 0
    assert await redis.execute_command("ZCARD", OWNERS) == 0


async def test_a_dead_prober_s_probe_comes_back(redis: Redis, clock: Clock) -> None:
    policy = policy_of(breaker=Breaker(probes=1))
    one, two = (Worker(redis, clock, name, policy) for name in ("one", "two"))
    await redis.execute_command("HSET", model_key(), "state", "open", "until", clock.now)
    await one.take()
    assert (await two.admit((0, 0))).why is Why.BREAKER
    await end_lease(redis, "one")
    assert await give_up(redis) == 1
    assert (await two.admit((0, 0), (0, 0))).looked == 1


async def test_what_expired_meanwhile_stays_gone(redis: Redis, worker: Worker) -> None:
    """A fleet that was killed and stood still for longer than keys live."""
    held = await worker.take(5, 5)
    daily, rate = held.rules.keys[1], held.rules.keys[2]
    await redis.delete(daily, rate, model_key())
    await end_lease(redis, "one")
    assert await give_up(redis) == 1
    assert await redis.exists(daily, rate, model_key()) == 0
    assert await suspects.close(redis, UPSTREAM, (await all_suspects(redis))[held.hold], 2)
    assert await redis.exists(daily) == 0
    assert await sums(redis, ALL) == Sums(spent=2)


async def test_release_frees_and_is_audited(redis: Redis, clock: Clock, worker: Worker) -> None:
    held = [await worker.take(bound) for bound in (3, 4, 5)]
    await end_lease(redis, "one")
    await give_up(redis)
    names = [one.hold for one in held[:2]]
    assert await suspects.release(redis, UPSTREAM, [*names, "unknown"], "me") == names
    assert await suspects.release(redis, UPSTREAM, names, "me") == []
    assert await sums(redis, ALL) == Sums(suspect=5)
    entries = await audit.entries(redis, UPSTREAM, 9)
    assert [(one.who, one.what, one.at, one.detail["hold"], one.detail["amount"]) for one in reversed(entries)] == [
        ("me", "release", clock.now, names[0], 3),
        ("me", "release", clock.now, names[1], 4),
    ]
    assert await redis.ttl(keys.closed(UPSTREAM)) > 0


async def test_a_suspect_is_closed_once(redis: Redis, worker: Worker) -> None:
    held = await worker.take(10)
    await worker.settle(held, None)
    (suspect,) = (await all_suspects(redis)).values()
    assert await suspects.close(redis, UPSTREAM, suspect, 13)
    assert not await suspects.close(redis, UPSTREAM, suspect, 13)
    assert await sums(redis, ALL) == Sums(spent=10, debt=3)
    assert await suspects.suspects(redis, UPSTREAM) == []


async def test_a_suspect_without_budgets_is_closed_too(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock)
    held = await worker.take(10)
    await worker.settle(held, None)
    (suspect,) = (await all_suspects(redis)).values()
    assert suspect.budgets == []
    assert await suspects.release(redis, UPSTREAM, [held.hold], "me") == [held.hold]


async def test_suspects_are_told_oldest_first(redis: Redis, clock: Clock, worker: Worker) -> None:
    first, second = await worker.take(1), await worker.take(2)
    await worker.settle(second, None)
    await clock.forward(1)
    await worker.settle(first, None)
    assert [one.hold for one in await suspects.suspects(redis, UPSTREAM)] == [second.hold, first.hold]


async def test_an_owner_that_comes_back_may_name_the_generation(redis: Redis, worker: Worker) -> None:
    held = await worker.take(10)
    await end_lease(redis, "one")
    await give_up(redis)
    for generation in ("", "gen-1", "gen-2"):
        await worker.settle(held, None, generation=generation)
    (suspect,) = (await all_suspects(redis)).values()
    assert (suspect.generation, suspect.amount, suspect.budgets) == ("gen-1", 10, list(held.rules.keys[:2]))
    assert await sums(redis, ALL) == Sums(suspect=10)
    assert isinstance(worker.caller, gate.Caller)
