"""Which days a report is about. Days are of UTC, as the roll-ups are, and written YYYY-MM-DD."""

import re
from datetime import UTC, date, datetime, timedelta

import msgspec

DAY_MS = 86_400_000
LONGEST_DAYS = 3660

_AGO = re.compile(r"(\d{1,4})d")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Period(msgspec.Struct, frozen=True):
    """Days from the first to the last, both included."""

    first: date
    last: date

    @property
    def days(self) -> list[str]:
        """Every day of it, the oldest first."""
        count = (self.last - self.first).days + 1
        return [(self.first + timedelta(days=number)).isoformat() for number in range(count)]

    @property
    def since_ms(self) -> int:
        """Where it begins, in unix milliseconds."""
        return _begin_of(self.first)

    @property
    def until_ms(self) -> int:
        """Where it is over: the first unix millisecond after it."""
        return _begin_of(self.last) + DAY_MS


def period_of(since: str, until: str | None, now_ms: int) -> Period:
    """Return the period between two words: a day, or "7d" for so many days, the last one included.

    Without `until` it ends today, by `now_ms` of the Redis clock. Raises ValueError, which says what would do.
    """
    today = datetime.fromtimestamp(now_ms // 1000, UTC).date()
    last = today if until is None else _day_of("until", until)
    if ago := _AGO.fullmatch(since):
        count = int(ago[1])
        if not 1 <= count <= LONGEST_DAYS:
            raise ValueError(f"since: a report is about 1 to {LONGEST_DAYS} days, not {count}")
        return Period(last - timedelta(days=count - 1), last)
    first = _day_of("since", since)
    if first > last:
        raise ValueError(f"since: {first} is after {last}, where the report ends")
    if (last - first).days >= LONGEST_DAYS:
        raise ValueError(f"since: a report is about {LONGEST_DAYS} days at most; {first} is longer ago")
    return Period(first, last)


def _day_of(name: str, word: str) -> date:
    try:
        if _DAY.fullmatch(word):
            return date.fromisoformat(word)
    except ValueError:
        pass  # the 31st of a shorter month
    wanted = "a day like 2026-11-01" + (", or 7d for the last seven days" if name == "since" else "")
    raise ValueError(f"{name}: '{word}' is no day; give {wanted}")


def _begin_of(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
