"""The course of spending from a moment on, pure: what the time until an instant costs, and when an amount is reached.

spent so far ─┬─ what days like the remaining ones cost (see `pace`) ─┐
              └─ what the lines that wait are likely to cost ─────────┴─ the larger of the two ─► projected

What waits is a part of what usually comes, so the two are not added up.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from fractions import Fraction

from batchmill.spend.ledger import Rollup
from batchmill.spend.pace import HISTORY_DAYS, Span, history_of
from batchmill.spend.queue import QueueCost

DAY_MS = 86_400_000
_SECOND_MS = 1000
_ENOUGH = Fraction(1, 24)  # of a day, before it can stand for others


class Basis(StrEnum):
    """What a pace is made of."""

    DAYS = "days"  # whole days, and today as far as it is over
    TODAY = "today"  # today alone: there is no whole day yet
    NOTHING = "nothing"


class Course:
    """What the time from now on is likely to cost by the pace."""

    def __init__(self, rollups: Iterable[Rollup], now_ms: int) -> None:
        self.now_ms = now_ms
        self.history = history_of(rollups, day_of(now_ms))
        self._midnight = now_ms // DAY_MS * DAY_MS
        self._elapsed = Fraction(now_ms - self._midnight, DAY_MS)
        self.basis = self._basis()

    def between(self, until_ms: int) -> Span | None:
        """Return what the time from now until an instant is likely to cost; None without a pace."""
        if self.basis is Basis.NOTHING:
            return None
        likely, number = Fraction(0), 0
        while (start := self._start(number)) < until_ms:
            end = min(self._start(number + 1), until_ms)
            likely += self._rate(number) * Fraction(end - start, DAY_MS)
            number += 1
        days = Fraction(max(0, until_ms - self.now_ms), DAY_MS)
        pace = self.history.pace
        return pace.span(likely, days) if pace and days else Span(round(likely))

    def reaches(self, amount: int, until_ms: int) -> int | None:
        """Return when an amount is spent (unix ms); None when it is not before that instant."""
        if self.basis is Basis.NOTHING:
            return None
        left, number = Fraction(amount), 0
        while (start := self._start(number)) < until_ms:
            rate, end = self._rate(number), self._start(number + 1)
            spent = rate * Fraction(end - start, DAY_MS)
            if rate and spent >= left:
                at = start + round(left / rate * DAY_MS)
                return at if at < until_ms else None
            left, number = left - spent, number + 1
        return None

    def _basis(self) -> Basis:
        if self.history.pace is not None:
            return Basis.DAYS
        return Basis.TODAY if self.history.spent_today and self._elapsed >= _ENOUGH else Basis.NOTHING

    def _start(self, number: int) -> int:
        return max(self.now_ms, self._midnight + number * DAY_MS)

    def _rate(self, number: int) -> Fraction:
        """Return what a whole day like that one costs. Today goes by its own pace as far as it is over."""
        pace = self.history.pace
        if pace is None:
            return self.history.spent_today / self._elapsed
        expected = pace.expected(number)
        return expected if number else expected * (1 - self._elapsed) + self.history.spent_today


def projected_by(spent: int, pace: Span | None, waiting: int) -> Span:
    """Return what is spent in the end: what is spent now, and the larger of the pace and what waits."""
    if pace is None:
        return Span(spent + waiting)
    low, likely, high = (
        None if each is None else spent + max(each, waiting) for each in (pace.low, pace.likely, pace.high)
    )
    return Span(likely or 0, low, high)


def waiting_until(queue: Iterable[QueueCost], milliseconds: int) -> int:
    """Return what of the queue is likely to be spent in a time."""
    return round(sum((cost.until(milliseconds) for cost in queue), Fraction(0)))


def day_of(unix_ms: int) -> date:
    """Return the UTC day that an instant is in."""
    return datetime.fromtimestamp(unix_ms // _SECOND_MS, UTC).date()


def first_day(now_ms: int) -> str:
    """Return the first UTC day (YYYY-MM-DD) whose roll-ups a forecast needs."""
    return (day_of(now_ms) - timedelta(days=HISTORY_DAYS)).isoformat()
