"""What budgets are likely to come to by the end of their windows, for the alerts: reckoned anew once a minute."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from redis.asyncio import Redis

from batchmill.spend.course import day_of, first_day
from batchmill.spend.outlooks import Verdict, budget_outlooks
from batchmill.store import backlog, ledger
from batchmill.store.clock import now_ms
from batchmill.store.gauges import BudgetGauge

_EVERY = 60.0  # seconds: a forecast reads weeks of roll-ups and takes some 10 ms a budget


class BudgetForecaster:
    """Foresees the budgets that are likely to be exceeded; what it said holds for a minute."""

    def __init__(self) -> None:
        self._until = 0.0  # monotonic
        self._said: Mapping[str, int] = {}

    async def __call__(self, redis: Redis, upstream: str, budgets: Sequence[BudgetGauge]) -> Mapping[str, int]:
        """Return what is likely used at the end of their windows (nano-dollars), of those that will not hold."""
        if time.monotonic() < self._until:
            return self._said
        self._until = time.monotonic() + _EVERY
        now = await now_ms(redis)
        rollups = await ledger.rollups(redis, upstream, first_day(now), day_of(now).isoformat())
        queued = await backlog.queued_lines(redis, upstream)
        found = await asyncio.to_thread(budget_outlooks, budgets, rollups, queued, now)
        self._said = {
            each.name: each.projected.likely
            for each in found
            if each.projected is not None and each.verdict is Verdict.EXCEEDS
        }
        return self._said
