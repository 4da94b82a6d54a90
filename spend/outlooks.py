"""How budgets will stand at the end of their windows, and when they run out: pure.

spent ─┬─ over the limit by the pace, or by what waits ─► exceeds, and when
       ├─ over it at the upper end of the range ────────► may exceed
       └─ else ─────────────────────────────────────────► holds
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from batchmill.config.policy import KEY_PREFIX, matches
from batchmill.config.windows import OF_BATCH
from batchmill.spend.course import DAY_MS, Basis, Course, projected_by, waiting_until
from batchmill.spend.ledger import Rollup
from batchmill.spend.pace import Span
from batchmill.spend.queue import Evidence, QueueCost, QueuedLines, costs_of, spent_at

_HORIZON_DAYS = 366  # how far ahead the end of a budget without a window is looked for


class BudgetFacts(Protocol):
    """A budget in its present window, as `store.gauges.BudgetGauge` tells it. Money in nano-dollars."""

    @property
    def name(self) -> str: ...  # noqa: D102 - the words of the gauge
    @property
    def window(self) -> str: ...  # noqa: D102
    @property
    def period(self) -> str | None: ...  # noqa: D102
    @property
    def limit(self) -> int: ...  # noqa: D102
    @property
    def resets_ms(self) -> int | None: ...  # noqa: D102
    @property
    def models(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def project(self) -> str | None: ...  # noqa: D102
    @property
    def spent(self) -> int: ...  # noqa: D102
    @property
    def suspect(self) -> int: ...  # noqa: D102
    @property
    def debt(self) -> int: ...  # noqa: D102


class Verdict(StrEnum):
    """Whether a budget will do."""

    EXHAUSTED = "exhausted"
    EXCEEDS = "exceeds"  # likely to run out before its window ends; without a window: more waits than remains
    MAY_EXCEED = "may_exceed"  # not likely, but within the range
    HOLDS = "holds"
    UNKNOWN = "unknown"  # nothing is known of the pace, and of the queue nothing that would tell


class Cause(StrEnum):
    """What a budget runs out by."""

    PACE = "pace"
    QUEUE = "queue"


class BudgetOutlook(msgspec.Struct, frozen=True, kw_only=True):
    """How a budget stands at the end of its window. Money in nano-dollars.

    `spent` includes suspects and debt, as the gate counts. `projected` is None for a budget that never begins anew;
    it may be over the limit, at which the gate stops. `runs_out_ms` is None when the budget does not run out before
    its window ends (or within a year), or when nobody knows how fast the queue, by which it does, will run.
    """

    name: str
    window: str
    period: str | None
    ends_ms: int | None
    limit: int
    spent: int
    remaining: int
    queue: int
    projected: Span | None
    verdict: Verdict
    runs_out_ms: int | None = None
    cause: Cause | None = None


def budget_outlooks(
    budgets: Iterable[BudgetFacts], rollups: Sequence[Rollup], queued: Sequence[QueuedLines], now_ms: int
) -> list[BudgetOutlook]:
    """Return the outlook of each budget at an instant (unix ms of the Redis clock).

    `rollups` are those since `first_day`, of all projects; `queued` may be empty where nobody looked. The budgets of
    API keys have none: the ledger does not tell which key a call was made for.
    """
    queue = costs_of(queued, rollups)
    told = [budget for budget in budgets if not budget.name.startswith(KEY_PREFIX)]
    return [_outlook(budget, rollups, [cost for cost in queue if _pays(budget, cost)], now_ms) for budget in told]


def _outlook(budget: BudgetFacts, rollups: Sequence[Rollup], queue: Sequence[QueueCost], now_ms: int) -> BudgetOutlook:
    spent = budget.spent + budget.suspect + budget.debt
    remaining = max(0, budget.limit - spent)
    ends, own = budget.resets_ms, budget.window == OF_BATCH
    horizon = now_ms + _HORIZON_DAYS * DAY_MS if ends is None else ends
    course = Course(() if own else _paid(budget, rollups), now_ms)
    waiting = sum(cost.likely for cost in queue) if ends is None else waiting_until(queue, ends - now_ms)
    projected = None
    if ends is not None or own:  # a batch ends when its lines do
        projected = projected_by(spent, None if own else course.between(horizon), waiting)
    runs_out, cause = _end(course, queue, remaining, waiting, horizon) if remaining else (now_ms, None)
    verdict = _verdict(budget.limit, remaining, projected, known=_known(course, queue, own=own))
    if remaining and (waiting > remaining or (cause is not None and ends is not None)):
        verdict = Verdict.EXCEEDS  # one without a window is there to run out: only what waits already can be too much
    return BudgetOutlook(
        name=budget.name,
        window=budget.window,
        period=budget.period,
        ends_ms=ends,
        limit=budget.limit,
        spent=spent,
        remaining=remaining,
        queue=waiting,
        projected=projected,
        verdict=verdict,
        runs_out_ms=runs_out,
        cause=cause,
    )


def _end(
    course: Course, queue: Sequence[QueueCost], remaining: int, waiting: int, horizon: int
) -> tuple[int | None, Cause | None]:
    """Return when a budget runs out, and by what: what comes first."""
    paced = course.reaches(remaining, horizon)
    if waiting <= remaining:
        return paced, Cause.PACE if paced is not None else None
    after = spent_at(queue, remaining)
    queued = None if after is None or course.now_ms + after > horizon else course.now_ms + after
    if paced is not None and (queued is None or paced <= queued):
        return paced, Cause.PACE
    return queued, Cause.QUEUE


def _verdict(limit: int, remaining: int, projected: Span | None, *, known: bool) -> Verdict:
    if not remaining:
        return Verdict.EXHAUSTED
    if not known:
        return Verdict.UNKNOWN
    high = projected.high if projected else None
    return Verdict.MAY_EXCEED if high is not None and high > limit else Verdict.HOLDS


def _known(course: Course, queue: Sequence[QueueCost], *, own: bool) -> bool:
    """Whether enough is known to say that a budget holds: that of a batch needs the cost of its lines, and no pace."""
    return all(cost.evidence is not Evidence.NOTHING for cost in queue) if own else course.basis is not Basis.NOTHING


def _paid(budget: BudgetFacts, rollups: Sequence[Rollup]) -> list[Rollup]:
    models = {model for model in {rollup.model for rollup in rollups} if matches(budget.models, model)}
    return [rollup for rollup in rollups if rollup.model in models and budget.project in (None, rollup.project)]


def _pays(budget: BudgetFacts, cost: QueueCost) -> bool:
    """Whether a budget may have to pay for queued lines: of those with a route, when it covers one of the roads."""
    lines = cost.lines
    if budget.window == OF_BATCH:
        return lines.batch == budget.name
    return budget.project in (None, lines.project) and any(matches(budget.models, model) for model in lines.models)
