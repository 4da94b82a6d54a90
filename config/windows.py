"""Calendar windows of a time zone, pure: which hour, day, week or month an instant is in, and when that ends.

The windows of one kind tile time: each begins where the one before it ends, whatever the zone's clocks do. A day can so
have 23 or 25 hours, an hour that the clocks repeat is two windows, and a day that a zone skipped is none.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - seconds since then are counted on local clocks, too
_HOUR = 3600
_WEEK = 7
_SECOND_MS = 1000
_DECEMBER = 12

Step = Callable[[date], date]


class WindowKind(StrEnum):
    """How long a budget lasts until it begins anew."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


OF_BATCH = "batch"
"""In the place of a window: the budget is one batch's own, and lasts as long as that."""


class Window(msgspec.Struct, frozen=True):
    """One window: its id (2026-11-24T15, 2026-11-24, 2026-W48, 2026-11, total) and its times in unix ms.

    The end is exclusive, None when there is none. An hour that the clocks repeat has its offset in the id.
    """

    id: str
    start_ms: int
    end_ms: int | None

    def covers(self, now_ms: int) -> bool:
        """Whether an instant is in the window, so that it needs no new look at the calendar."""
        return self.start_ms <= now_ms and (self.end_ms is None or now_ms < self.end_ms)


TOTAL = Window("total", 0, None)


def window_at(window: WindowKind, timezone: str, now_ms: int) -> Window:
    """Return the window that an instant (unix ms) is in, by the calendar of an IANA time zone.

    Raises what `zoneinfo.ZoneInfo` raises for a zone that is none.
    """
    if window is WindowKind.TOTAL:
        return TOTAL
    zone = ZoneInfo(timezone)
    if window is WindowKind.HOUR:
        return _hour_at(zone, now_ms // _SECOND_MS)
    first, following, name = _CALENDAR[window]
    day = first(_local(zone, now_ms // _SECOND_MS).date())
    while now_ms >= (end := _midnight(zone, following(day)) * _SECOND_MS):
        day = following(day)  # clocks that fell back over midnight show the day before once more
    return Window(name(day), _midnight(zone, day) * _SECOND_MS, end)


def _hour_at(zone: ZoneInfo, now: int) -> Window:
    offset = _offset(zone, now)
    start = (now + offset) // _HOUR * _HOUR - offset
    end = start + _HOUR
    label = _EPOCH + timedelta(seconds=start + offset)
    if _offset(zone, start) != offset:
        start = _first(start, now, lambda instant: _offset(zone, instant) == offset)
    if _offset(zone, end - 1) != offset:
        end = _first(now, end - 1, lambda instant: _offset(zone, instant) != offset)
    name = f"{label:%Y-%m-%dT%H}"
    if _repeated(zone, label):
        name += _written(offset)
    return Window(name, start * _SECOND_MS, end * _SECOND_MS)


def _repeated(zone: ZoneInfo, label: datetime) -> bool:
    """Whether the clocks may show the same hour under two offsets."""
    ends = (label, label + timedelta(seconds=_HOUR - 1))
    return len({zone.utcoffset(end.replace(fold=fold)) for end in ends for fold in (0, 1)}) > 1


def _written(offset: int) -> str:
    minutes, seconds = divmod(abs(offset), 60)
    text = f"{'-' if offset < 0 else '+'}{minutes // 60:02}{minutes % 60:02}"
    return f"{text}{seconds:02}" if seconds else text


@lru_cache(maxsize=4096)
def _midnight(zone: ZoneInfo, day: date) -> int:
    """Return the first instant (unix seconds) at which the zone's clocks show the day, or a later one."""
    wanted = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - what a local clock shows
    early, late = sorted(_instant(zone, wanted.replace(fold=fold)) for fold in (0, 1))
    for instant in (early, late):
        if _local(zone, instant) == wanted:
            return instant
    return _first(early, late, lambda instant: _local(zone, instant) >= wanted)


def _instant(zone: ZoneInfo, local: datetime) -> int:
    offset = zone.utcoffset(local) or timedelta()
    return int((local.replace(fold=0) - _EPOCH - offset).total_seconds())


def _local(zone: ZoneInfo, instant: int) -> datetime:
    return _EPOCH + timedelta(seconds=instant + _offset(zone, instant))


def _offset(zone: ZoneInfo, instant: int) -> int:
    shown = (datetime.fromtimestamp(0, UTC) + timedelta(seconds=instant)).astimezone(zone)
    return int((shown.utcoffset() or timedelta()).total_seconds())


def _first(before: int, after: int, holds: Callable[[int], bool]) -> int:
    """Return the first second at which something holds that does not yet hold before, but does after."""
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (before, middle) if holds(middle) else (middle, after)
    return after


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _next_month(day: date) -> date:
    return date(day.year + 1, 1, 1) if day.month == _DECEMBER else date(day.year, day.month + 1, 1)


def _week_name(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"


# of each kind: the first day of the window that a day is in, that of the next window, and the name
_CALENDAR: dict[WindowKind, tuple[Step, Step, Callable[[date], str]]] = {
    WindowKind.DAY: (lambda day: day, lambda day: day + timedelta(days=1), date.isoformat),
    WindowKind.WEEK: (_monday, lambda day: day + timedelta(days=_WEEK), _week_name),
    WindowKind.MONTH: (lambda day: day.replace(day=1), _next_month, lambda day: f"{day:%Y-%m}"),
}
