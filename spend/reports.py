"""What was spent, in rows: pure functions over roll-ups, and over records where only they know.

roll-ups ──► model, project, provider, day, tag          (kept for years, a few rows a day)
records  ──► batch                                       (kept for weeks; a suspect and what corrects it are one call)
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from enum import StrEnum

import msgspec

from batchmill.spend.ledger import Rollup, Source, UsageRecord

UNTAGGED = "(no tag)"
UNNAMED = "(not told)"

_ANSWERED = "ok"  # the outcome of an answer
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


class Row(msgspec.Struct):
    """Calls that have something in common. Money in nano-dollars; `suspect` is not in `cost`."""

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

    def add(self, other: "Row | Rollup") -> None:
        """Count the calls of another row, too."""
        for field in COUNTED:
            setattr(self, field, getattr(self, field) + getattr(other, field))


COUNTED = Row.__struct_fields__[1:]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Rows, and all their calls together: of tags a call has several or none, so these rows need not add up."""

    by: By
    rows: tuple[Row, ...]
    total: Row


def report_of_rollups(rollups: Iterable[Rollup], by: By, *, project: str | None = None) -> Report:
    """Return rows of everything but batches: days in their order, anything else by its cost. Raises ValueError."""
    if by is By.BATCH:
        raise ValueError("roll-ups know no batches; ask the records")
    names = _NAMES[by]
    rows: dict[str, Row] = {}
    total = Row("total")
    for rollup in rollups:
        if project is not None and rollup.project != project:
            continue
        total.add(rollup)
        for name in names(rollup):
            _row(rows, name).add(rollup)
    return Report(by=by, rows=_in_order(rows, by), total=total)


class BatchReport:
    """A report by batch. It takes records one by one, oldest first, and keeps only those that may be corrected.

    As in the roll-ups, a correction takes the place of what it corrects, on that one's day. So hand in everything from
    the first day of the period to this moment: calls that came after `until_ms` are left out, their corrections not.
    """

    def __init__(self, *, until_ms: int | None = None, project: str | None = None) -> None:
        self._until = until_ms
        self._project = project
        self._rows: dict[str, Row] = {}
        self._open: dict[str, UsageRecord] = {}  # suspects and what became of them, by hold

    def take(self, record: UsageRecord) -> None:
        """Count a record."""
        if self._project is not None and record.project != self._project:
            return
        if record.source is Source.RECONCILED:
            before = self._open.get(record.hold)
            if before is None:  # of a call that is not of this period
                return
            self._count(before, -1)
        elif self._until is not None and record.at >= self._until:
            return
        self._count(record, 1)
        if record.source in (Source.SUSPECT, Source.RECONCILED):
            self._open[record.hold] = record

    def report(self) -> Report:
        """Return what there is by now."""
        total = Row("total")
        for row in self._rows.values():
            total.add(row)
        return Report(by=By.BATCH, rows=_in_order(self._rows, By.BATCH), total=total)

    def _count(self, record: UsageRecord, sign: int) -> None:
        row = _row(self._rows, record.batch)
        row.requests += sign
        row.answered += sign * (record.outcome == _ANSWERED)
        row.prompt_tokens += sign * record.prompt_tokens
        row.cached_tokens += sign * record.cached_tokens
        row.completion_tokens += sign * record.completion_tokens
        row.reasoning_tokens += sign * record.reasoning_tokens
        if record.source is Source.SUSPECT:
            row.suspect += sign * record.cost
        else:
            row.cost += sign * record.cost


def trend(report: Report, days: Iterable[str]) -> list[Row]:
    """Return a row for each of the days, also those on which nothing was spent. Takes a report by day."""
    found = {row.name: row for row in report.rows}
    return [found.get(day) or Row(day) for day in days]


def _row(rows: dict[str, Row], name: str) -> Row:
    row = rows.get(name)
    if row is None:
        row = rows[name] = Row(name)
    return row


def _in_order(rows: Mapping[str, Row], by: By) -> tuple[Row, ...]:
    if by is By.DAY:
        return tuple(sorted(rows.values(), key=lambda row: row.name))
    return tuple(sorted(rows.values(), key=lambda row: (-row.cost, -row.suspect, row.name)))


def _ratio(part: int, whole: int) -> int | None:
    return round(Decimal(part) / whole) if whole else None


_NAMES: dict[By, Callable[[Rollup], tuple[str, ...]]] = {
    By.MODEL: lambda rollup: (rollup.model or UNNAMED,),
    By.PROJECT: lambda rollup: (rollup.project,),
    By.PROVIDER: lambda rollup: (rollup.provider or UNNAMED,),
    By.DAY: lambda rollup: (rollup.day,),
    By.TAG: lambda rollup: rollup.tags or (UNTAGGED,),
}
