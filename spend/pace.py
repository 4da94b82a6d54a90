"""The pace of spending, pure: what a day is likely to cost, from what the days before it cost.

whole days before today ─┬─► level     the mean of the last two weeks
                         ├─► trend     how much a week adds, if the last four or more moved the same way
                         ├─► weekdays  each weekday's share of its week
                         └─► errors    how far off the same would have been at each day of the past: the range

Everything is counted in whole UTC days, as the roll-ups are, and in nano-dollars; fractions are exact.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, pairwise

import msgspec

from batchmill.spend.ledger import Rollup

WEEK = 7
WEEKS = 8
"""How far back the pace looks."""

HISTORY_DAYS = WEEKS * WEEK
"""How many days before today the pace is made of, at most."""

_TREND_WEEKS = 4  # that must move the same way; three do so by chance one time in three
_WEEKDAY_WEEKS = 2  # of which each weekday is seen once: one would be no pattern but a copy
_MOST_CHANGE = 2  # a trend may at most double the level, or halve it
_LEVEL_DAYS = 2 * WEEK  # of which the level is the mean; with a trend, of the last week
_RANGE_DAYS = 3  # whole days without which no range is told
_TRIES = 4  # stretches beside each other that a range is made of, at least
_OUTSIDE = 20  # a twentieth of the errors lies below the range, and a twentieth above


class Span(msgspec.Struct, frozen=True):
    """What something is likely to cost, and between what (nano-dollars); None where too little is known for a range."""

    likely: int
    low: int | None = None
    high: int | None = None


class History(msgspec.Struct, frozen=True, dict=True):
    """What whole days cost, the oldest first and yesterday last; `today` began at midnight UTC.

    `spent_today` is what is booked of today so far.
    """

    today: date
    days: tuple[int, ...] = ()
    spent_today: int = 0

    @cached_property
    def pace(self) -> "Pace | None":
        """The pace of these days, None when there is no whole one."""
        return Pace(self) if self.days else None


def history_of(rollups: Iterable[Rollup], today: date) -> History:
    """Return what each day cost: from the first with a call, or `HISTORY_DAYS` ago, to yesterday.

    A day without calls in between cost nothing; days before the first call are no part of it. What nobody knows yet
    (suspects) is at its bound, which says nothing of what calls cost, and is left out.
    """
    costs: dict[str, int] = {}
    for rollup in rollups:
        costs[rollup.day] = costs.get(rollup.day, 0) + rollup.cost
    earliest = today - timedelta(days=HISTORY_DAYS)
    first = max(earliest, min((date.fromisoformat(day) for day in costs), default=today))
    days = [first + timedelta(days=number) for number in range(max(0, (today - first).days))]
    return History(today, tuple(_cost(costs, day) for day in days), _cost(costs, today))


def _cost(costs: Mapping[str, int], day: date) -> int:
    return costs.get(day.isoformat(), 0)


class Pace:
    """What a day is likely to cost. Days are numbered from today, which is 0; yesterday is -1."""

    def __init__(self, history: History) -> None:
        self._today = history.today
        whole = len(history.days) // WEEK * WEEK
        self.days: Sequence[int] = history.days[-whole:] if whole else history.days
        self.trend, weeks = _trend([Fraction(sum(week), WEEK) for week in _weeks(self.days)])
        if weeks:
            self.days = self.days[-weeks * WEEK :]  # what came before moved otherwise
        recent = self.days[-(WEEK if weeks else _LEVEL_DAYS) :]
        self.level = Fraction(sum(recent), len(recent))
        self._centre = Fraction(len(recent) + 1, 2)  # days before today in the middle of those
        self.weekdays = self._weekdays()

    def expected(self, number: int) -> Fraction:
        """Return what a day from today on is likely to cost (nano-dollars)."""
        line = self.level + self.trend * (number + self._centre)
        line = min(max(line, self.level / _MOST_CHANGE), self.level * _MOST_CHANGE)
        return line * self._factor(number)

    def span(self, likely: Fraction, days: Fraction) -> Span:
        """Return the range around what so many days are likely to cost.

        It is how far off the same would have been at each day of the history, but for the twentieth part that was off
        most to either side. A history too short for so many days tells of fewer, scaled up.
        """
        known = len(self.days)
        if known < _RANGE_DAYS:
            return Span(round(likely))
        before = min(WEEK if self.trend else _LEVEL_DAYS, known // 2)
        before = before // WEEK * WEEK or before
        length = max(1, min(-(-days.numerator // days.denominator), known // _TRIES))
        errors = sorted(self._errors(before, length))
        outside, scale = len(errors) // _OUTSIDE, days / length
        low, high = likely + errors[outside] * scale, likely + errors[-1 - outside] * scale
        return Span(round(likely), max(0, min(round(low), round(likely))), max(round(high), round(likely)))

    def _errors(self, before: int, length: int) -> Iterable[Fraction]:
        """Yield by how much more than foreseen a stretch of days cost, foreseen from the days before it."""
        known = len(self.days)
        factors = [self._factor(place - known) for place in range(known)]
        costs = list(accumulate(self.days, initial=0))
        weights = list(accumulate(factors, initial=Fraction(0)))
        moments = list(accumulate((place * factor for place, factor in enumerate(factors)), initial=Fraction(0)))
        for start in range(before, known - length + 1):
            end = start + length
            level = Fraction(costs[start] - costs[start - before], before)
            at_zero = level - self.trend * (start - Fraction(before + 1, 2))
            foreseen = at_zero * (weights[end] - weights[start]) + self.trend * (moments[end] - moments[start])
            yield costs[end] - costs[start] - foreseen

    def _factor(self, number: int) -> Fraction:
        return self.weekdays.get((self._today + timedelta(days=number)).weekday(), Fraction(1))

    def _weekdays(self) -> dict[int, Fraction]:
        """Return what each weekday costs as a multiple of its week's mean, the trend within the week aside."""
        weeks = list(_weeks(self.days))
        if len(weeks) < _WEEKDAY_WEEKS:
            return {}
        costs, usual = [0] * WEEK, [Fraction(0)] * WEEK
        for week in weeks:
            for place, cost in enumerate(week):
                costs[place] += cost
                usual[place] += Fraction(sum(week), WEEK) + self.trend * (place - WEEK // 2)
        first = (self._today - timedelta(days=WEEK)).weekday()
        return {
            (first + place) % WEEK: costs[place] / usual[place] if usual[place] > 0 else Fraction(1)
            for place in range(WEEK)
        }


def _weeks(days: Sequence[int]) -> Iterable[Sequence[int]]:
    """Yield seven days at a time, the last of which is yesterday."""
    return (days[start : start + WEEK] for start in range(len(days) % WEEK, len(days), WEEK))


def _trend(means: Sequence[Fraction]) -> tuple[Fraction, int]:
    """Return the change a day, and over how many of the last weeks it holds; nothing when they don't agree."""
    changes = [after - before for before, after in pairwise(means)]
    same: list[Fraction] = []
    for change in reversed(changes):
        if change == 0 or (same and (change > 0) != (same[0] > 0)):
            break
        same.append(change)
    if len(same) < _TREND_WEEKS - 1:
        return Fraction(0), 0
    middle = sorted(same)
    half = len(middle) // 2
    median = middle[half] if len(middle) % 2 else (middle[half - 1] + middle[half]) / 2
    return median / WEEK, len(same) + 1
