"""What the gate's books say, as people are told: with fields that are missing, stale, or of yesterday."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Budget, Limit, Policy
from batchmill.config.windows import WindowKind, window_at
from batchmill.store import gauges, keys
from batchmill.store.clock import now_ms
from batchmill.store.errors import StoreError
from batchmill.store.gauges import BudgetGauge, ModelGauge, Pause, Suspect
from batchmill.store.policy import apply, raise_budget

from .store_helpers import MODEL, UPSTREAM, batch_of

USD = 1_000_000_000
FREE_MODEL = "maker/model:free"
DAY_MS = 86_400_000


async def put_hash(redis: Redis, name: str, **fields: Any) -> None:
    await redis.execute_command("HSET", name, *(part for field in fields.items() for part in field))
    await redis.expire(name, 60)


async def lanes(redis: Redis, *models: str) -> None:
    await redis.execute_command("SADD", keys.lanes(UPSTREAM), *models)


async def pause(redis: Redis, scope: str, until: int, reason: str = "why") -> None:
    await redis.execute_command("HSET", keys.pauses(UPSTREAM), scope, f"{until}|{reason}")


async def test_budgets_tell_their_money_in_the_present_window(redis: Redis) -> None:
    daily = Budget(name="daily", limit_usd=Decimal(5), window=WindowKind.DAY, timezone="Asia/Tokyo")
    evals = Budget(name="evals", limit_usd=Decimal(1), models=("a/*", "b"), project="evals")
    await apply(redis, UPSTREAM, Policy(budgets=(daily, evals)), "a.toml")
    await raise_budget(redis, UPSTREAM, "daily", 6 * USD, "ann")
    window = window_at(WindowKind.DAY, "Asia/Tokyo", await now_ms(redis))
    await put_hash(redis, keys.budget(UPSTREAM, "daily", window.id), spent=3, held=20, suspect=100, debt=1000)
    await put_hash(redis, keys.budget(UPSTREAM, "daily", "2001-01-01"), spent=7)
    await put_hash(redis, keys.budget(UPSTREAM, "evals", "total"), spent=2 * USD)
    first, second = await gauges.budgets(redis, UPSTREAM)
    assert first == BudgetGauge(
        name="daily",
        window="day",
        timezone="Asia/Tokyo",
        period=window.id,
        resets_ms=window.end_ms,
        limit=6 * USD,
        declared=5 * USD,
        spent=3,
        held=20,
        suspect=100,
        debt=1000,
    )
    assert first.free == 6 * USD - 1123
    assert (second.period, second.resets_ms, second.models, second.project) == ("total", None, ("a/*", "b"), "evals")
    assert (second.spent, second.held, second.free) == (2 * USD, 0, 0)


async def test_live_batches_with_a_cap_are_budgets_too(redis: Redis) -> None:
    capped = await batch_of(redis, 1, content="capped")
    await batch_of(redis, 1, content="free")
    await put_hash(redis, keys.batch_budget(UPSTREAM, capped), limit=USD, held=5)
    (gauge,) = await gauges.budgets(redis, UPSTREAM)
    assert gauge == BudgetGauge(name=capped, window="batch", limit=USD, held=5)
    await redis.execute_command("SREM", keys.live(), capped)
    assert await gauges.budgets(redis, UPSTREAM) == []


async def test_limits_tell_how_full_their_buckets_are_by_now(redis: Redis) -> None:
    fast = Limit(name="fast", match="maker/*", requests_per_minute=600, tokens_per_minute=60_000, max_concurrency=9)
    slow = Limit(name="slow", match="other/*", requests_per_day=5)
    await apply(redis, UPSTREAM, Policy(limits=(fast, slow)), "a.toml")
    await lanes(redis, MODEL, "maker/unused")
    now = await now_ms(redis)
    name = keys.limit(UPSTREAM, "fast", MODEL)
    await put_hash(
        redis, name, requests=-600_000, tokens=10**9, at=now - 2000, in_air=4, day=now // DAY_MS, day_count=7
    )
    gauge, idle = await gauges.limits(redis, UPSTREAM)
    assert (gauge.limit, gauge.scope, gauge.in_air, gauge.day_count) == (fast, MODEL, 4, 7)
    assert gauge.requests == pytest.approx(10, abs=2), "ten owed, and twenty came in two seconds"
    assert gauge.tokens == 6000, "never more than the capacity"
    assert (idle.limit, idle.scope, idle.requests, idle.day_count) == (slow, None, None, 0)

    await put_hash(redis, name, day=now // DAY_MS - 1)
    gauge, _ = await gauges.limits(redis, UPSTREAM)
    assert gauge.day_count == 0, "that was yesterday"


async def test_a_shared_limit_has_one_bucket_which_is_full_at_first(redis: Redis) -> None:
    (gauge,) = await gauges.limits(redis, UPSTREAM)
    assert (gauge.limit.name, gauge.scope, gauge.requests, gauge.tokens, gauge.pauses) == ("free", "*", 2.0, None, ())
    await lanes(redis, FREE_MODEL, MODEL)
    await pause(redis, ":free", -1)
    (gauge,) = await gauges.limits(redis, UPSTREAM)
    assert gauge.pauses == (Pause(":free", None, "why"),)


async def test_pauses_that_are_over_are_none(redis: Redis) -> None:
    now = await now_ms(redis)
    await pause(redis, MODEL, now - 1)
    await pause(redis, "account", now + 60_000, "429: slow | down")
    await pause(redis, f"op:{MODEL}", -1)
    account, operator = await gauges.pauses(redis, UPSTREAM)
    assert account == Pause("account", now + 60_000, "429: slow | down")
    assert operator == Pause(f"op:{MODEL}", None, "why")
    assert operator.model == MODEL


@pytest.mark.parametrize(
    ("scope", "model", "concerned"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("op:a/b", "a/b", True),
        ("account", "a/b", True),
        ("refused", "a/b", True),
        (":free", "a/b:free", True),
        (":free", "a/b", False),
    ],
)
def test_a_pause_concerns(scope: str, model: str, concerned: bool) -> None:
    assert Pause(scope, None, "").concerns(model) is concerned


async def test_breakers_of_models_that_have_any_state(redis: Redis) -> None:
    await lanes(redis, MODEL, "other/quiet")
    await put_hash(redis, keys.model(UPSTREAM, MODEL), state="open", until=5000, trips=2, in_air=1, share=7, window=3)
    await pause(redis, "op:never/seen", -1, "paused by ann")
    await pause(redis, ":free", -1)
    open_one, paused = await gauges.models(redis, UPSTREAM)
    assert open_one == ModelGauge(model=MODEL, state="open", until_ms=5000, trips=2, in_air=1, share=7, window=3)
    assert paused == ModelGauge(model="never/seen", pauses=(Pause("op:never/seen", None, "paused by ann"),))


async def test_suspects_come_oldest_first_and_may_tell_more_than_we_know(redis: Redis) -> None:
    told = {"amount": 5, "batch": "batch_1", "index": 3, "model": MODEL, "generation": "gen-1", "at": 20}
    for hold, value in {"h1": {**told, "budgets": ["x"], "of_tomorrow": 1}, "h2": {"amount": 7, "at": 10}}.items():
        await redis.execute_command("HSET", keys.suspects(UPSTREAM), hold, msgspec.json.encode(value))
    first, second = await gauges.suspects(redis, UPSTREAM)
    assert first == Suspect(hold="h2", amount=7, at=10)
    assert second == Suspect(hold="h1", amount=5, batch="batch_1", index=3, model=MODEL, generation="gen-1", at=20)
    await redis.execute_command("HSET", keys.suspects(UPSTREAM), "h3", "{")
    with pytest.raises(StoreError, match="can't be read"):
        await gauges.suspects(redis, UPSTREAM)
