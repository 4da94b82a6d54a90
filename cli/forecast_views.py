"""A forecast on the screen, with its method in words, and as JSON."""

from collections.abc import Iterator
from typing import Any

import click

from batchmill.cli.gate import print_table
from batchmill.cli.words import lines, moment
from batchmill.openrouter.money import dollars, to_usd
from batchmill.producer.render import to_json
from batchmill.spend.course import Basis
from batchmill.spend.forecast import Forecast, PeriodForecast
from batchmill.spend.outlooks import BudgetOutlook, Cause, Verdict
from batchmill.spend.pace import WEEK, Pace, Span
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
_EVIDENCE = {
    Evidence.BATCH: "what lines of the same batch cost",
    Evidence.MODEL: "what answers of their model cost lately",
    Evidence.PRICES: "prices and a usual answer",
}


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


def method(found: Forecast) -> Iterator[str]:
    """Yield in sentences what a forecast was made of."""
    yield from _of_pace(found)
    yield from _of_queue(found.queue)
    yield "A projection is what is spent, suspects included, and the larger of pace and queue; budgets are not in it."


def _of_pace(found: Forecast) -> Iterator[str]:
    pace = found.history.pace
    if found.basis is Basis.NOTHING:
        yield "Pace: unknown, nothing was spent on a whole day, nor today for an hour; only the queue is looked at."
    elif pace is None:
        yield "Pace: today's so far, for there is no whole day yet; so no range can be told."
    else:
        days = len(pace.days)
        yield (
            f"Pace: {dollars(round(pace.level))} a day lately, from {days} whole "
            f"{'day' if days == 1 else 'days'} (UTC); what is left of today goes by today, too."
        )
        yield _of_trend(pace)
        yield _of_weekdays(pace)
        yield "Range: how far off the same would have been in those days, all but the extreme twentieth on either side."


def _of_trend(pace: Pace) -> str:
    if not pace.trend:
        return "Trend: none; it takes four weeks that all rise or all fall."
    verb = "more" if pace.trend > 0 else "less"
    weeks = len(pace.days) // WEEK
    return f"Trend: {dollars(round(abs(pace.trend) * WEEK))} {verb} a week, as in each of the last {weeks}."


def _of_weekdays(pace: Pace) -> str:
    if not pace.weekdays:
        return "Weekdays: all alike; to tell them apart takes two whole weeks."
    names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    told = ", ".join(f"{name} {round(100 * pace.weekdays[number])}" for number, name in enumerate(names))
    return f"Weekdays, in % of an average day: {told}."


def _of_queue(queue: tuple[QueueCost, ...]) -> Iterator[str]:
    if not queue:
        yield "Queue: no lines wait."
        return
    for evidence, words in _EVIDENCE.items():
        known = [cost for cost in queue if cost.evidence is evidence]
        if known:
            total = dollars(sum(cost.likely for cost in known))
            yield f"Queue: {lines(sum(cost.lines.lines for cost in known))}, about {total}, by {words}."
    unknown = sum(cost.lines.lines for cost in queue if cost.evidence is Evidence.NOTHING)
    if unknown:
        yield f"Queue: {lines(unknown)} of which nobody knows what they cost; counted as nothing."
    if any(cost.lines.lasts_ms is None for cost in queue):
        yield "Queue: lines that do not move now are counted as if they all ran at once."


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
        "pace_usd": _usd(period.pace),
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
        "low_usd": _usd(found.low),
        "high_usd": _usd(found.high),
    }


def _usd(nano: int | None) -> Any:
    return None if nano is None else to_usd(nano)


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds // _SECOND_MS
