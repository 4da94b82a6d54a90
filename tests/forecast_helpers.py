"""Histories with known answers, told as the ledger tells them."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec

from batchmill.spend.ledger import Rollup
from batchmill.store.gauges import BudgetGauge

NANO = 1_000_000_000
DAY_MS = 86_400_000
TODAY = date(2026, 11, 24)  # a Tuesday
MIDNIGHT = int(datetime(2026, 11, 24, tzinfo=UTC).timestamp() * 1000)
NOON = MIDNIGHT + DAY_MS // 2
MODEL = "openai/gpt-4o-mini"


def dollars(amount: float) -> int:
    """Return dollars as nano-dollars."""
    return round(amount * NANO)


def rollup(day: date, usd: float, **more: object) -> Rollup:
    """Return what a day cost, in one roll-up."""
    plain = Rollup(day=day.isoformat(), project="default", model=MODEL, requests=10, answered=10, cost=dollars(usd))
    return msgspec.structs.replace(plain, **more)


def days(cost: Callable[[date], float], number: int, today: float = 0.0) -> list[Rollup]:
    """Return whole days before today by a rule, the oldest first, and today so far."""
    before = [TODAY - timedelta(days=back) for back in range(number, 0, -1)]
    return [rollup(day, cost(day)) for day in before] + ([rollup(TODAY, today)] if today else [])


def listed(costs: Sequence[float], today: float = 0.0) -> list[Rollup]:
    """Return whole days before today, the last of which is yesterday."""
    return days(lambda day: costs[len(costs) - (TODAY - day).days], len(costs), today)


def budget(limit: float, spent: float = 0.0, **more: object) -> BudgetGauge:
    """Return a monthly budget over everything, unless told otherwise; December begins in six and a half days."""
    plain = BudgetGauge(
        name="monthly",
        window="month",
        limit=dollars(limit),
        timezone="UTC",
        period="2026-11",
        resets_ms=MIDNIGHT + 7 * DAY_MS,
        spent=dollars(spent),
    )
    return msgspec.structs.replace(plain, **more)
