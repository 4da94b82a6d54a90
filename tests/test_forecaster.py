"""The alerts' view of the future: budgets that will not hold, and not reckoned more often than needed."""

from typing import Any

import pytest
from redis.asyncio import Redis

from batchmill.spend.ledger import Rollup
from batchmill.store import ledger
from batchmill.workers import forecaster
from batchmill.workers.forecaster import BudgetForecaster

from .forecast_helpers import NOON, budget, days

UPSTREAM = "https://upstream.test/v1"


async def test_a_budget_that_will_not_hold_is_foreseen_and_not_reckoned_anew_at_once(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten dollars a day, at noon of the 24th: 235 are spent, and some 65 more will be in this month."""
    asked: list[str] = []

    async def rollups(_redis: Any, _upstream: str, first: str, _last: str) -> list[Rollup]:
        asked.append(first)
        return days(lambda _: 10.0, 28)

    async def noon(_: Any) -> int:
        return NOON

    monkeypatch.setattr(ledger, "rollups", rollups)
    monkeypatch.setattr(forecaster, "now_ms", noon)
    foresee = BudgetForecaster()
    tight, wide = budget(265, 230), budget(1000, 230)
    found = await foresee(redis, UPSTREAM, [tight])
    assert set(found) == {tight.name}
    assert found[tight.name] > tight.limit
    assert await foresee(redis, UPSTREAM, [tight]) == found
    assert len(asked) == 1
    assert await BudgetForecaster()(redis, UPSTREAM, [wide]) == {}
