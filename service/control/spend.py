"""Spend over HTTP: what was spent and what it will come to. A project sees its own."""

from decimal import Decimal
from typing import TypedDict

from batchmill.openrouter.money import to_usd, usd_if_known
from batchmill.producer import reports
from batchmill.service import problems
from batchmill.service.context import Service
from batchmill.service.control.common import MS, seconds
from batchmill.service.control.money import (
    BudgetForecast,
    Forecast,
    Paced,
    PeriodOutlook,
    Queued,
    Spend,
    SpendDay,
    SpendRow,
)
from batchmill.service.identity import Identity
from batchmill.spend import forecast as foreseen
from batchmill.spend.method import method
from batchmill.spend.outlooks import BudgetOutlook, Verdict
from batchmill.spend.pace import WEEK, Span
from batchmill.spend.period import Period, period_of
from batchmill.spend.queue import Evidence, QueueCost
from batchmill.spend.reports import By, Report, Row
from batchmill.store.clock import now_ms

_FRESH = 5.0  # seconds that a report serves all who ask for the same one


class _Projected(TypedDict):
    projected_usd: Decimal | None
    low_usd: Decimal | None
    high_usd: Decimal | None


async def spend(
    service: Service, identity: Identity, by: str = "model", since: str = "30d", until: str | None = None,
    project: str | None = None,
) -> Spend:  # fmt: skip
    """Return what was spent from one UTC day to another. Raises ApiError 400 for days that are none."""
    period = await period_asked(service, since, until)
    whose = project_asked(identity, project)
    name = ("spend", by, period.first, period.last, whose)
    found = await service.moments.get(
        name, lambda: reports.spend_of(service.redis, service.upstream, By(by), period, whose), _FRESH
    )
    return Spend(
        by=by,
        since=period.first.isoformat(),
        until=period.last.isoformat(),
        project=whose,
        rows=tuple(_row(row, found.report) for row in found.report.rows),
        total=_row(found.report.total, found.report),
        days=tuple(
            SpendDay(day=row.name, cost_usd=to_usd(row.cost), suspect_usd=to_usd(row.suspect)) for row in found.days
        ),
    )


async def forecast(service: Service, identity: Identity, project: str | None = None) -> Forecast:
    """Return what today, this week and this month will have cost, and how each budget will stand."""
    whose = project_asked(identity, project)
    found = await service.moments.get(
        ("forecast", whose), lambda: reports.forecast_of(service.redis, service.upstream, whose), _FRESH
    )
    return Forecast(
        at=found.now_ms // MS,
        project=whose,
        periods=tuple(_period(period) for period in found.periods),
        budgets=tuple(_budget(budget) for budget in found.budgets),
        queue=tuple(_queued(cost) for cost in found.queue),
        pace=_paced(found),
        method=tuple(method(found)),
    )


def project_asked(identity: Identity, project: str | None) -> str | None:
    """Return whose spend is told, None for everybody's.

    A project's key that asks for another project's is told of a project in which nothing was ever spent, as is whoever
    asks for one that does not exist: its name can't be one.
    """
    if identity.project is None:
        return project
    return identity.project if project in (None, identity.project) else ""


async def period_asked(service: Service, since: str, until: str | None) -> Period:
    """Return the days that were asked for. Raises ApiError 400."""
    try:
        return period_of(since, until, await now_ms(service.redis))
    except ValueError as error:
        name = str(error).partition(":")[0]
        raise problems.invalid(f"Invalid value for '{name}': {error}", name, "invalid_value") from error


def _row(row: Row, report: Report) -> SpendRow:
    return SpendRow(
        name=row.name,
        cost_usd=to_usd(row.cost),
        share=row.share_of(report.total),
        suspect_usd=to_usd(row.suspect),
        requests=row.requests,
        answered=row.answered,
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        completion_tokens=row.completion_tokens,
        reasoning_tokens=row.reasoning_tokens,
        usd_per_request=usd_if_known(row.cost_per_request),
        usd_per_1k_tokens=usd_if_known(row.cost_per_1k_tokens),
    )


def _period(period: foreseen.PeriodForecast) -> PeriodOutlook:
    return PeriodOutlook(
        period=period.period.value,
        id=period.id,
        ends_at=period.ends_ms // MS,
        spent_usd=to_usd(period.spent),
        queue_usd=to_usd(period.queue),
        pace_usd=usd_if_known(period.pace),
        **_projected(period.projected),
    )


def _budget(budget: BudgetOutlook) -> BudgetForecast:
    return BudgetForecast(
        name=budget.name,
        window=budget.window,
        period=budget.period,
        ends_at=seconds(budget.ends_ms),
        limit_usd=to_usd(budget.limit),
        spent_usd=to_usd(budget.spent),
        remaining_usd=to_usd(budget.remaining),
        queue_usd=to_usd(budget.queue),
        outlook=budget.verdict.value,
        over_budget=budget.verdict in (Verdict.EXCEEDS, Verdict.EXHAUSTED),
        runs_out_at=seconds(budget.runs_out_ms),
        runs_out_by=budget.cause.value if budget.cause else None,
        **_projected(budget.projected),
    )


def _projected(span: Span | None) -> _Projected:
    if span is None:
        return {"projected_usd": None, "low_usd": None, "high_usd": None}
    return {
        "projected_usd": to_usd(span.likely),
        "low_usd": usd_if_known(span.low),
        "high_usd": usd_if_known(span.high),
    }


def _queued(cost: QueueCost) -> Queued:
    queued = cost.lines
    return Queued(
        batch=queued.batch,
        project=queued.project,
        lane=queued.lane,
        models=queued.models,
        lines=queued.lines,
        likely_usd=None if cost.evidence is Evidence.NOTHING else to_usd(cost.likely),
        by=cost.evidence.value,
        lasts_seconds=seconds(queued.lasts_ms),
    )


def _paced(found: foreseen.Forecast) -> Paced:
    pace, days = found.history.pace, len(found.history.days)
    if pace is None:
        return Paced(basis=found.basis.value, days=days)
    return Paced(
        basis=found.basis.value,
        days=days,
        daily_usd=to_usd(round(pace.level)),
        weekly_change_usd=to_usd(round(pace.trend * WEEK)),
        weekday_percent={str(day + 1): round(100 * factor) for day, factor in sorted(pace.weekdays.items())},
    )
