"""What a forecast was made of, in sentences."""

from collections.abc import Iterator

from batchmill.openrouter.money import dollars
from batchmill.spend.course import Basis
from batchmill.spend.forecast import Forecast
from batchmill.spend.pace import WEEK, Pace
from batchmill.spend.queue import Evidence, QueueCost

_EVIDENCE = {
    Evidence.BATCH: "what lines of the same batch cost",
    Evidence.MODEL: "what answers of their model cost lately",
    Evidence.PRICES: "prices and a usual answer",
}


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
            yield f"Queue: {_lines(sum(cost.lines.lines for cost in known))}, about {total}, by {words}."
    unknown = sum(cost.lines.lines for cost in queue if cost.evidence is Evidence.NOTHING)
    if unknown:
        yield f"Queue: {_lines(unknown)} of which nobody knows what they cost; counted as nothing."
    if any(cost.lines.lasts_ms is None for cost in queue):
        yield "Queue: lines that do not move now are counted as if they all ran at once."


def _lines(count: int) -> str:
    return f"{count:,} line" if count == 1 else f"{count:,} lines"
