"""What spending will come to, pure: day, week and month, and how each budget stands.

Budgets that stop the fleet are not looked at by the projections of day, week and month: they say what is wanted, and
a budget's outlook whether it is let.
"""

from collections.abc import Iterable, Sequence

import msgspec

from batchmill.config.windows import WindowKind, window_at
from batchmill.spend.course import Basis, Course, day_of, projected_by, waiting_until
from batchmill.spend.ledger import Rollup
from batchmill.spend.outlooks import BudgetFacts, BudgetOutlook, budget_outlooks
from batchmill.spend.pace import History, Span
from batchmill.spend.queue import QueueCost, QueuedLines, costs_of

PERIODS = (WindowKind.DAY, WindowKind.WEEK, WindowKind.MONTH)


class PeriodForecast(msgspec.Struct, frozen=True, kw_only=True):
    """A calendar day, week or month (UTC) as it will end. Money in nano-dollars; suspects count as spent.

    `pace` is what its remaining time is likely to cost by the pace, None when there is none; `queue` what the lines
    that wait are likely to cost in it.
    """

    period: WindowKind
    id: str
    ends_ms: int
    spent: int
    pace: int | None
    queue: int
    projected: Span


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is foreseen at one moment, and what it was made of."""

    now_ms: int
    basis: Basis
    history: History
    periods: tuple[PeriodForecast, ...]
    queue: tuple[QueueCost, ...]
    budgets: tuple[BudgetOutlook, ...]


def forecast(
    rollups: Sequence[Rollup], queued: Sequence[QueuedLines], budgets: Iterable[BudgetFacts], now_ms: int
) -> Forecast:
    """Return what is foreseen at an instant (unix ms of the Redis clock), from the roll-ups since `first_day`."""
    course, queue = Course(rollups, now_ms), costs_of(queued, rollups)
    return Forecast(
        now_ms=now_ms,
        basis=course.basis,
        history=course.history,
        periods=tuple(_period(kind, course, rollups, queue) for kind in PERIODS),
        queue=queue,
        budgets=tuple(budget_outlooks(budgets, rollups, queued, now_ms)),
    )


def _period(kind: WindowKind, course: Course, rollups: Sequence[Rollup], queue: Sequence[QueueCost]) -> PeriodForecast:
    window = window_at(kind, "UTC", course.now_ms)
    ends = window.end_ms or course.now_ms
    first = day_of(window.start_ms).isoformat()
    spent = sum(rollup.cost + rollup.suspect for rollup in rollups if rollup.day >= first)
    pace, waiting = course.between(ends), waiting_until(queue, ends - course.now_ms)
    return PeriodForecast(
        period=kind,
        id=window.id,
        ends_ms=ends,
        spent=spent,
        pace=pace.likely if pace else None,
        queue=waiting,
        projected=projected_by(spent, pace, waiting),
    )
