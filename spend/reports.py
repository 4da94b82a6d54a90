"""What was spent, in rows: pure functions over the roll-ups of days.

roll-ups by group ──► model, project, provider, day, tag
roll-ups by batch ──► batch                                (apart, for there may be thousands of them a day)
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import StrEnum
from operator import add

import msgspec

from batchmill.spend.ledger import Day, Group, Sums

UNTAGGED = "(no tag)"
UNNAMED = "(not told)"

_THOUSAND = 1000
_SHARE = Decimal("0.0001")


class By(StrEnum):
    """What the rows of a report are."""

    MODEL = "model"
    PROJECT = "project"
    BATCH = "batch"
    PROVIDER = "provider"
    DAY = "day"
    TAG = "tag"


class Row(msgspec.Struct, frozen=True):
    """Calls that have something in common, with the fields of `Sums` in order. `suspect` is not in `cost`."""

    name: str
    requests: int = 0
    answered: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0
    suspect: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion; cached and reasoning tokens are among these."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost_per_request(self) -> int | None:
        """Nano-dollars, rounded to the nearest, half to even; None without requests."""
        return _ratio(self.cost, self.requests)

    @property
    def cost_per_1k_tokens(self) -> int | None:
        """Nano-dollars for a thousand tokens, rounded likewise; None without tokens."""
        return _ratio(self.cost * _THOUSAND, self.tokens)

    def share_of(self, whole: "Row") -> Decimal | None:
        """Return which part of another row's cost this is, to four places; None when that is nothing."""
        return (Decimal(self.cost) / whole.cost).quantize(_SHARE) if whole.cost else None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Rows, and all their calls together: of tags a call has several or none, so these rows need not add up."""

    by: By
    rows: tuple[Row, ...]
    total: Row


class Tally:
    """A report in the making: takes the roll-ups of a period day by day, those by batch for a report by batch."""

    def __init__(self, by: By, project: str | None = None) -> None:
        self._by = by
        self._names = _NAMES[by]
        self._project = project
        self._rows: dict[str, Sums] = {}
        self._days: dict[str, Sums] = {}

    def take(self, day: Day) -> None:
        """Count a day."""
        rolled = day.sums
        if self._project is not None:
            rolled = [one for one in rolled if one[0].project == self._project]
        if rolled:
            self._days[day.name] = tuple(map(sum, zip(*(sums for _, sums in rolled), strict=True)))
        if self._by is By.DAY:
            return
        rows = self._rows
        for group, sums in rolled:
            for name in self._names(group):
                before = rows.get(name)
                rows[name] = sums if before is None else tuple(map(add, before, sums))

    def report(self) -> Report:
        """Return what there is by now: days in their order, anything else by its cost."""
        total = tuple(map(sum, zip(*self._days.values(), strict=True)))
        rows = [Row(name, *sums) for name, sums in (self._days if self._by is By.DAY else self._rows).items()]
        rows.sort(key=_by_name if self._by is By.DAY else _by_cost)
        return Report(by=self._by, rows=tuple(rows), total=Row("total", *total))

    def trend(self, days: Iterable[str]) -> list[Row]:
        """Return a row for each of the days, also those on which nothing was spent."""
        return [Row(day, *self._days.get(day, ())) for day in days]


def _by_name(row: Row) -> str:
    return row.name


def _by_cost(row: Row) -> tuple[int, int, str]:
    return -row.cost, -row.suspect, row.name


def _ratio(part: int, whole: int) -> int | None:
    return round(Decimal(part) / whole) if whole else None


_NAMES: dict[By, Callable[[Group], tuple[str, ...]]] = {
    By.MODEL: lambda group: (group.model or UNNAMED,),
    By.PROJECT: lambda group: (group.project,),
    By.BATCH: lambda group: (group.batch,),
    By.PROVIDER: lambda group: (group.provider or UNNAMED,),
    By.DAY: lambda _: (),
    By.TAG: lambda group: group.tags or (UNTAGGED,),
}
