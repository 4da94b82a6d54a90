"""What the calls of each model used, summed so that any listed price can be put on it again, exactly. Pure.

A price may differ for long prompts and by the hour. Calls that every price of the catalogue treats alike are summed in
one cell, so a million records become a few cells a day, and no bill of theirs is rounded or guessed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Final

import msgspec
from msgspec import UNSET

from batchmill.openrouter.prices import Billable, Price, bill, rates_at
from batchmill.spend.ledger import Source, UsageRecord

_EXACT: Final = Context(prec=120)  # as `prices` reckons: nothing is rounded
_DAY_MS: Final = 86_400_000
_MINUTE_MS: Final = 60_000
_MINUTES: Final = 1440  # a day has
_ANSWERED: Final = "ok"

Place = tuple[int, int, int]  # day since 1970 in UTC, step of the prompt's length, span of the day


class Cell(msgspec.Struct):
    """Sums over calls that every price treats alike; `prompt_seen` and `at` (ms) are those of one of them.

    `paid` in nano-dollars.
    """

    prompt_seen: int
    at: int
    requests: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    paid: int = 0

    def add(self, other: "Cell") -> None:
        """Take the sums of another cell in."""
        self.requests += other.requests
        self.prompt += other.prompt
        self.cached += other.cached
        self.completion += other.completion
        self.reasoning += other.reasoning
        self.paid += other.paid


class ModelUsage(msgspec.Struct):
    """What the calls of one model used. Times in ms of the Redis clock, sizes in tokens."""

    model: str
    first: int
    last: int
    context: int = 0  # the most that one call read and wrote
    answer: int = 0  # the longest answer
    cells: dict[Place, Cell] = {}

    @property
    def total(self) -> Cell:
        """The sums over all calls."""
        return _sum(self.cells.values())

    def days(self) -> dict[int, list[Cell]]:
        """Return the cells of each day with calls (days since 1970, UTC)."""
        found: dict[int, list[Cell]] = {}
        for (day, _, _), cell in self.cells.items():
            found.setdefault(day, []).append(cell)
        return found


class Unusable(msgspec.Struct):
    """Calls that can't be priced again, as nobody knows their tokens or they did not answer. `paid` in nano-dollars."""

    requests: int = 0
    paid: int = 0


class UsageBook:
    """Takes records in, one by one, oldest first, in bounded memory but for suspects; `settle` when there are no more.

    `prices` are all that will be put on the usage; `name_of` tells under which model a call counts, by what was asked
    and what served it. Of calls from `until_ms` on nothing counts; what corrects earlier ones may come later.
    """

    def __init__(
        self, prices: Iterable[Price], name_of: Callable[[str, str | None], str], until_ms: int | None = None
    ) -> None:
        overrides = [override for price in prices for override in price.overrides]
        self._steps = sorted({each.min_prompt_tokens for each in overrides if each.min_prompt_tokens is not None})
        self._times = sorted({time for each in overrides for time in (each.start, each.end) if time is not None})
        self._name_of = name_of
        self._names: dict[tuple[str, str | None], str] = {}
        self._until = until_ms
        self._unsure: dict[str, UsageRecord] = {}  # by hold, what is known by now of calls that were suspect
        self.models: dict[str, ModelUsage] = {}
        self.unusable = Unusable()

    def add(self, record: UsageRecord) -> None:
        """Take one record in. What corrects a suspect takes its place, at the time of the call."""
        early = self._until is None or record.at < self._until
        if record.source in (Source.TOLD, Source.COMPUTED):
            if early:
                self._count(record)
        elif before := self._unsure.get(record.hold):
            self._unsure[record.hold] = msgspec.structs.replace(record, at=before.at)
        elif record.source is Source.SUSPECT and early:
            self._unsure[record.hold] = record

    def settle(self) -> None:
        """Count what was suspect as what it was reconciled to."""
        for record in self._unsure.values():
            self._count(record)
        self._unsure.clear()

    def _count(self, record: UsageRecord) -> None:
        """Left out are suspects, failures that were billed, and calls without tokens: another might not have failed."""
        tokens = record.prompt_tokens or record.completion_tokens
        if record.source is Source.SUSPECT or record.outcome != _ANSWERED or not tokens:
            self.unusable.requests += 1
            self.unusable.paid += record.cost
            return
        asked = record.model, record.served
        model = self._names.get(asked)
        if model is None:
            model = self._names[asked] = self._name_of(*asked)
        usage = self.models.get(model)
        if usage is None:
            usage = self.models[model] = ModelUsage(model, record.at, record.at, cells={})
        usage.first, usage.last = min(usage.first, record.at), max(usage.last, record.at)
        usage.context = max(usage.context, record.prompt_tokens + record.completion_tokens)
        usage.answer = max(usage.answer, record.completion_tokens)
        place = self._place(record)
        cell = usage.cells.get(place)
        if cell is None:
            cell = usage.cells[place] = Cell(record.prompt_tokens, record.at)
        cell.requests += 1
        cell.prompt += record.prompt_tokens
        cell.cached += min(record.cached_tokens, record.prompt_tokens)
        cell.completion += record.completion_tokens
        cell.reasoning += min(record.reasoning_tokens, record.completion_tokens)
        cell.paid += record.cost

    def _place(self, record: UsageRecord) -> Place:
        span = 0
        if self._times:
            hours, minutes = divmod(record.at // _MINUTE_MS % _MINUTES, 60)
            span = bisect_right(self._times, hours * 100 + minutes)
        return record.at // _DAY_MS, bisect_left(self._steps, record.prompt_tokens), span


def cost_of(price: Price, cells: Iterable[Cell], *, all_cached: bool = False) -> Decimal | None:
    """Return what the calls would cost at a price, exact USD; None when a rate that they need is unknown.

    With `all_cached`, as if every prompt token were read from the cache.
    """
    parts = list(cells) if price.overrides else [_sum(cells)]
    total = Decimal(0)
    for cell in parts:
        cost = _cell_cost(price, cell, all_cached=all_cached)
        if cost is None:
            return None
        total = _EXACT.add(total, cost)
    return total


def moment(at: int) -> datetime:
    """Return a time of the Redis clock (ms) in UTC."""
    return datetime.fromtimestamp(at / 1000, UTC)


def _cell_cost(price: Price, cell: Cell, *, all_cached: bool) -> Decimal | None:
    at = moment(cell.at)
    rates = rates_at(price, cell.prompt_seen, at)
    if rates.input_cache_read == 0:  # the catalogue names "0" for models without a cache, too: that is no price
        rates = msgspec.structs.replace(rates, input_cache_read=UNSET)
    flat = Price(base=rates, discount=price.discount)
    used = Billable(
        prompt_tokens=cell.prompt,
        completion_tokens=cell.completion,
        cached_tokens=cell.prompt if all_cached else cell.cached,
        reasoning_tokens=cell.reasoning,
    )
    billed = bill(flat, used, at)
    if billed is None:
        return None
    tokens = _EXACT.add(billed.prompt, billed.completion)
    return _EXACT.fma(billed.request, cell.requests, tokens)


def _sum(cells: Iterable[Cell]) -> Cell:
    total = Cell(0, 0)
    for cell in cells:
        total.add(cell)
    return total
