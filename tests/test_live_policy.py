"""The policy in force: put there by a file, raised by a person, seen by everybody at once."""

import asyncio
from decimal import Decimal

import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Budget, Limit, Policy, Project
from batchmill.store import audit, keys
from batchmill.store.clock import now_ms
from batchmill.store.errors import StoreError, UnknownBudgetError
from batchmill.store.policy import BUILT_IN, LivePolicy, Raised, apply, live, raise_budget

from .store_helpers import UPSTREAM, batch_of

USD = 1_000_000_000


def policy(limit: str = "5") -> Policy:
    daily = Budget(name="daily", limit_usd=Decimal(limit))
    other = Budget(name="other", limit_usd=Decimal(1))
    return Policy(budgets=(daily, other), projects=(Project(name="evals", weight=3.0), Project(name="x", weight=0.5)))


async def limit_of(redis: Redis, name: str = "daily") -> int:
    found = await live(redis, UPSTREAM)
    (limit,) = [budget.limit for budget in found.policy.budgets if budget.name == name]
    return limit


async def raise_to(redis: Redis, usd: float, name: str = "daily") -> Raised:
    return await raise_budget(redis, UPSTREAM, name, round(usd * USD), "ann")


async def test_without_any_the_built_in_policy_is_in_force(redis: Redis) -> None:
    assert await live(redis, UPSTREAM) == LivePolicy(0, Policy(), BUILT_IN)


async def test_what_is_applied_is_in_force_for_everybody(redis: Redis) -> None:
    applied = await apply(redis, UPSTREAM, policy(), "a.toml")
    assert applied == await live(redis, UPSTREAM) == LivePolicy(1, policy(), "a.toml")
    assert await redis.execute_command("HGETALL", keys.weights(UPSTREAM)) == {b"evals": b"3.0", b"x": b"0.5"}
    assert await live(redis, "https://other.test") == LivePolicy(0, Policy(), BUILT_IN)

    without = Policy(limits=(Limit(match="a", max_concurrency=1),))
    assert (await apply(redis, UPSTREAM, without, "b.toml")).version == 2
    assert await live(redis, UPSTREAM) == LivePolicy(2, without, "b.toml")
    assert not await redis.exists(keys.weights(UPSTREAM))


async def test_the_same_again_changes_nothing(redis: Redis) -> None:
    for default in (Policy(), policy()):
        first = await apply(redis, UPSTREAM, default, "a.toml")
        assert await apply(redis, UPSTREAM, default, "b.toml") == first
    assert (await live(redis, UPSTREAM)).version == 2


async def test_a_raise_is_in_force_at_once_and_survives_restarts(redis: Redis) -> None:
    await apply(redis, UPSTREAM, policy("5"), "a.toml")
    assert await raise_to(redis, 7.5) == Raised("daily", 5 * USD, 7_500_000_000)
    found = await live(redis, UPSTREAM)
    assert (found.version, found.declared, await limit_of(redis)) == (2, {"daily": 5 * USD}, 7_500_000_000)
    assert await apply(redis, UPSTREAM, policy("5"), "a.toml") == found, "the file says what it said before"
    assert await limit_of(redis, "other") == USD


async def test_a_file_that_names_another_limit_ends_a_raise(redis: Redis) -> None:
    await apply(redis, UPSTREAM, policy("5"), "a.toml")
    await raise_to(redis, 7)
    await apply(redis, UPSTREAM, policy("6"), "a.toml")
    assert await limit_of(redis) == 6 * USD
    await apply(redis, UPSTREAM, policy("5"), "a.toml")
    assert (await live(redis, UPSTREAM)).declared == {}
    assert await limit_of(redis) == 5 * USD


async def test_other_changes_of_the_file_leave_a_raise(redis: Redis) -> None:
    await apply(redis, UPSTREAM, Policy(budgets=policy().budgets[:1]), "a.toml")
    await raise_to(redis, 7)
    await apply(redis, UPSTREAM, policy(), "a.toml")
    assert await limit_of(redis) == 7 * USD
    await apply(redis, UPSTREAM, Policy(), "a.toml")
    await apply(redis, UPSTREAM, policy(), "a.toml")
    assert await limit_of(redis) == 5 * USD, "a budget that was gone begins anew"


async def test_a_limit_may_be_lowered_and_set_back(redis: Redis) -> None:
    await apply(redis, UPSTREAM, policy("5"), "a.toml")
    assert await raise_to(redis, 0) == Raised("daily", 5 * USD, 0)
    assert await raise_to(redis, 5) == Raised("daily", 0, 5 * USD)
    assert (await live(redis, UPSTREAM)).declared == {}


async def test_a_budget_that_is_not_there_is_named(redis: Redis) -> None:
    with pytest.raises(UnknownBudgetError, match=r"no budget 'daly' here; there are none: .*\[\[budgets\]\]"):
        await raise_to(redis, 1, "daly")
    await apply(redis, UPSTREAM, policy(), "a.toml")
    with pytest.raises(UnknownBudgetError, match=r"no budget 'daly' here; did you mean 'daily'\?"):
        await raise_to(redis, 1, "daly")
    with pytest.raises(UnknownBudgetError, match="submitted with --max-cost"):
        await raise_to(redis, 1, "batch_x")
    assert (await live(redis, UPSTREAM)).version == 1
    assert not await redis.exists(keys.batch_budget(UPSTREAM, "batch_x"), keys.batch("batch_x"))


@pytest.mark.parametrize("usd", [-1, 9_000_001])
async def test_a_limit_that_no_budget_can_have_is_refused(redis: Redis, usd: int) -> None:
    await apply(redis, UPSTREAM, policy(), "a.toml")
    with pytest.raises(ValueError, match="limit_usd must be a number of dollars"):
        await raise_to(redis, usd)
    assert await limit_of(redis) == 5 * USD


async def test_a_batch_s_own_budget_is_raised(redis: Redis) -> None:
    batch_id = await batch_of(redis, 1)
    budget = keys.batch_budget(UPSTREAM, batch_id)
    await redis.execute_command("HSET", budget, "limit", USD, "spent", 7)
    await redis.expire(budget, 60)
    assert await raise_to(redis, 2, batch_id) == Raised(batch_id, USD, 2 * USD)
    assert await redis.execute_command("HGETALL", budget) == {b"limit": b"2000000000", b"spent": b"7"}
    assert await redis.execute_command("HGET", keys.batch(batch_id), "max_cost") == b"2000000000"
    assert (await live(redis, UPSTREAM)).version == 1

    await redis.delete(keys.batch(batch_id))
    await raise_to(redis, 3, batch_id)
    assert not await redis.exists(keys.batch(batch_id)), "a batch that is gone stays so"


async def test_everything_is_audited(redis: Redis) -> None:
    await apply(redis, UPSTREAM, policy(), "a.toml")
    await raise_to(redis, 7.5)
    raised, applied = await audit.entries(redis, UPSTREAM, 10)
    assert (raised.who, raised.what) == ("ann", "budget.raised")
    assert raised.detail == {"budget": "daily", "before_usd": "5", "after_usd": "7.5"}
    assert (applied.who, applied.what) == ("a.toml", "policy.applied")
    assert applied.detail == {"budgets": {"daily": "5", "other": "1"}}
    assert 0 <= await now_ms(redis) - applied.at < 60_000
    assert await audit.entries(redis, UPSTREAM, 1) == [raised]


async def test_changes_at_once_are_all_made(redis: Redis) -> None:
    """None overwrites another, whoever was quicker."""
    budgets = tuple(Budget(name=f"b{number}", limit_usd=Decimal(1)) for number in range(8))
    await apply(redis, UPSTREAM, Policy(budgets=budgets), "a.toml")
    await asyncio.gather(*(raise_to(redis, 2 + number, f"b{number}") for number in range(8)))
    found = await live(redis, UPSTREAM)
    assert [budget.limit for budget in found.policy.budgets] == [(2 + number) * USD for number in range(8)]
    assert found.version == 9


async def test_a_document_that_can_not_be_read_stops_everything(redis: Redis) -> None:
    for document in (b"{", b'{"policy":{"limits":[{"match":["a"],"of_tomorrow":1}]}}'):
        await redis.set(keys.policy(UPSTREAM), document)
        for asked in (live(redis, UPSTREAM), apply(redis, UPSTREAM, policy(), "a.toml")):
            with pytest.raises(StoreError, match="the policy in Redis can't be used here"):
                await asked
