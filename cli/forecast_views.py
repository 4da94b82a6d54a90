"""A forecast on the screen, with its method in words, and as JSON."""

from typing import Any

import click

from batchmill.cli.gate import print_table
from batchmill.cli.words import moment
from batchmill.openrouter.money import dollars, to_usd, usd_if_known
from batchmill.producer.render import to_json
from batchmill.spend.forecast import Forecast, PeriodForecast
from batchmill.spend.method import method
from batchmill.spend.outlooks import BudgetOutlook, Cause, Verdict
from batchmill.spend.pace import WEEK, Span
from batchmill.spend.queue import Evidence, QueueCost

_SECOND_MS = 1000
_PERIODS = (
    ("period", "left"), ("spent", "right"), ("queued", "right"), ("projected", "right"), ("range", "left"),
    ("ends", "left"),
)  # fmt: skip
_BUDGETS = (
    ("budget", "left"), ("limit", "right"), ("spent", "right"), ("remaining", "right"), ("projected", "right"),
    ("range", "left"), ("outlook", "left"), ("runs out", "left"),
)  # fmt: skip
_VERDICTS = {
    Verdict.EXHAUSTED: "exhausted",
    Verdict.EXCEEDS: "over budget",
    Verdict.MAY_EXCEED: "may go over",
    Verdict.HOLDS: "holds",
    Verdict.UNKNOWN: "unknown",
}
_CAUSES = {Cause.PACE: "by the pace", Cause.QUEUE: "by the queue"}


def print_forecast(found: Forecast, *, as_json: bool) -> None:
    """Print tables and what they were made of, or a JSON object."""
    if as_json:
        click.echo(to_json(_object(found)))
        return
    print_table(_PERIODS, [_period_row(period) for period in found.periods])
    if found.budgets:
        click.echo()
        print_table(_BUDGETS, [_budget_row(budget) for budget in found.budgets])
    click.echo()
    for sentence in method(found):
        click.echo(sentence)


def _period_row(period: PeriodForecast) -> list[str]:
    ends = moment(period.ends_ms / _SECOND_MS)
    projected = period.projected
    return [
        f"{period.period.value} {period.id}",
        dollars(period.spent),
        dollars(period.queue) if period.queue else "-",
        dollars(projected.likely),
        _range(projected),
        ends,
    ]


def _budget_row(budget: BudgetOutlook) -> list[str]:
    return [
        budget.name,
        dollars(budget.limit),
        dollars(budget.spent),
        dollars(budget.remaining),
        "-" if budget.projected is None else dollars(budget.projected.likely),
        _range(budget.projected),
        _VERDICTS[budget.verdict],
        _runs_out(budget),
    ]


def _range(span: Span | None) -> str:
    if span is None or span.low is None or span.high is None:
        return "-"
    return f"{dollars(span.low)} to {dollars(span.high)}"


def _runs_out(budget: BudgetOutlook) -> str:
    if budget.verdict is Verdict.EXHAUSTED:
        return "now"
    if budget.cause is None:
        return "-"
    when = "unknown when" if budget.runs_out_ms is None else moment(budget.runs_out_ms / _SECOND_MS)
    return f"{when}, {_CAUSES[budget.cause]}"


def _object(found: Forecast) -> dict[str, Any]:
    return {
        "at": found.now_ms // _SECOND_MS,
        "periods": [_period_object(period) for period in found.periods],
        "budgets": [_budget_object(budget) for budget in found.budgets],
        "queue": [_queue_object(cost) for cost in found.queue],
        "pace": _pace_object(found),
        "method": list(method(found)),
    }


def _period_object(period: PeriodForecast) -> dict[str, Any]:
    return {
        "period": period.period.value,
        "id": period.id,
        "ends_at": period.ends_ms // _SECOND_MS,
        "spent_usd": to_usd(period.spent),
        "queue_usd": to_usd(period.queue),
        "pace_usd": usd_if_known(period.pace),
        **_span_object(period.projected),
    }


def _budget_object(budget: BudgetOutlook) -> dict[str, Any]:
    return {
        "name": budget.name,
        "window": budget.window,
        "period": budget.period,
        "ends_at": _seconds(budget.ends_ms),
        "limit_usd": to_usd(budget.limit),
        "spent_usd": to_usd(budget.spent),
        "remaining_usd": to_usd(budget.remaining),
        "queue_usd": to_usd(budget.queue),
        **_span_object(budget.projected),
        "outlook": budget.verdict.value,
        "over_budget": budget.verdict in (Verdict.EXCEEDS, Verdict.EXHAUSTED),
        "runs_out_at": _seconds(budget.runs_out_ms),
        "runs_out_by": budget.cause.value if budget.cause else None,
    }


def _queue_object(cost: QueueCost) -> dict[str, Any]:
    queued = cost.lines
    return {
        "batch": queued.batch,
        "project": queued.project,
        "lane": queued.lane,
        "models": queued.models,
        "lines": queued.lines,
        "likely_usd": None if cost.evidence is Evidence.NOTHING else to_usd(cost.likely),
        "by": cost.evidence.value,
        "lasts_seconds": _seconds(queued.lasts_ms),
    }


def _pace_object(found: Forecast) -> dict[str, Any]:
    pace = found.history.pace
    told: dict[str, Any] = {"basis": found.basis.value, "days": len(found.history.days)}
    if pace is None:
        return told
    return told | {
        "daily_usd": to_usd(round(pace.level)),
        "weekly_change_usd": to_usd(round(pace.trend * WEEK)),
        "weekday_percent": {str(day + 1): round(100 * factor) for day, factor in sorted(pace.weekdays.items())},
    }


def _span_object(span: Span | None) -> dict[str, Any]:
    found = span or Span(0)
    return {
        "projected_usd": to_usd(found.likely) if span else None,
        "low_usd": usd_if_known(found.low),
        "high_usd": usd_if_known(found.high),
    }


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds // _SECOND_MS
