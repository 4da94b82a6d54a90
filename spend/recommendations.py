"""What the same calls would have cost elsewhere: real usage put on every listed price that fits it. Pure.

what a model's calls used ─► models with the capabilities and the context of those calls ─► their price on those tokens
                          └► the model itself, with its whole prompt read from the cache

Nothing here is an assumption about shares or averages, and nothing is said about quality. A saving is reckoned from
the lower of what was paid and what the calls cost on their own model today: a price that has fallen since saves
nothing, and what is no token (a web search, an image) is not held against the model.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import ROUND_FLOOR, Context, Decimal
from enum import StrEnum
from typing import Final

import msgspec

from batchmill.config.policy import Policy, matches
from batchmill.openrouter.capabilities import EFFORT
from batchmill.openrouter.list_prices import ListPrice
from batchmill.openrouter.models import ModelFacts
from batchmill.openrouter.money import NANO, to_usd
from batchmill.openrouter.traits import is_router
from batchmill.openrouter.variants import base_of
from batchmill.routing.eligibility import Needs, unfit, unsure
from batchmill.routing.shelf import Item, Shelf
from batchmill.spend.caveats import caveats_of
from batchmill.spend.ledger import UsageRecord
from batchmill.spend.usage import Cell, ModelUsage, Unusable, UsageBook, cost_of

_EXACT: Final = Context(prec=120)
_NO_NEED: Final = frozenset({"caching", "streaming"})  # a price, and what no batch needs
_THINKING: Final = "reasoning"
_BATCH: Final = "batch"


class Kind(StrEnum):
    """What a recommendation would change."""

    MODEL = "model"  # another model, called as this one is
    FREE = "free"  # one that costs nothing, under daily caps
    BATCH = "batch"  # OpenRouter's Batch API, which takes up to 24 hours


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """Another model for the calls of one. `cost` exact USD at its listed price; `saving` nano-dollars, rounded down.

    `requests` are the calls that it could have taken: fewer than all where a daily cap stands in the way.
    """

    kind: Kind
    item: Item
    requests: int
    cost: Decimal
    saving: int
    caveats: tuple[str, ...] = ()


class Caching(msgspec.Struct, frozen=True):
    """What reading prompts from the cache saves: USD for each million tokens so read, and in nano-dollars at most,

    if all of the `uncached` tokens had been. Nobody knows how much of the prompts repeats: records hold none.
    """

    uncached: int
    for_million: Decimal
    most: int


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What could be saved on one model, and the evidence. `today` is what its calls cost at its listed price now.

    `needs` are the capabilities that another model must have, `told` whether somebody said so; otherwise it is all
    that the model can do, an upper bound. `fitting` models of `considered` can take the calls.
    """

    usage: ModelUsage
    total: Cell
    price: ListPrice | None
    today: Decimal | None
    basis: Decimal
    needs: frozenset[str]
    told: bool
    considered: int
    fitting: int
    options: tuple[Option, ...]
    caching: Caching | None
    unknown: str | None = None  # why nothing can be said of it


class Findings(msgspec.Struct, frozen=True):
    """The advice for each model that was used, the dearest first, and the calls that could not be priced again."""

    advice: tuple[Advice, ...]
    unusable: Unusable

    def ranked(self) -> list[tuple[Advice, Option]]:
        """Return every option with its advice, the largest saving first."""
        found = [(advice, option) for advice in self.advice for option in advice.options]
        return sorted(found, key=lambda pair: (-pair[1].saving, pair[0].usage.model, pair[1].item.id))


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for all models: the day (UTC) by which they expire, the operator's rules, and what somebody said that
    the calls need.
    """

    today: date
    policy: Policy = Policy()
    needs: frozenset[str] | None = None


def book_for(shelf: Shelf, until_ms: int | None = None) -> UsageBook:
    """Return an empty book for records that are to be priced on this shelf: of calls before a time, if one is given."""
    prices = (item.price.price for item in shelf)
    return UsageBook(prices, lambda asked, served: _name_of(shelf, asked, served), until_ms)


def read(shelf: Shelf, records: Iterable[UsageRecord]) -> UsageBook:
    """Return the book of these records."""
    book = book_for(shelf)
    for record in records:
        book.add(record)
    return book


def recommend(shelf: Shelf, book: UsageBook, terms: Terms) -> Findings:
    """Return what could be saved on each model that was used, when the book has all there is."""
    book.settle()
    found = [_advise(shelf, usage, terms) for usage in book.models.values()]
    found.sort(key=lambda one: (-one.total.paid, one.usage.model))
    return Findings(tuple(found), book.unusable)


def priced(models: Mapping[str, ModelFacts], policy: Policy) -> dict[str, ModelFacts]:
    """Return the catalogue at the prices that the operator names for models, where one is named."""
    rules = {model: policy.price_for(model) for model in models}
    return {
        model: msgspec.structs.replace(facts, pricing=rule.pricing()) if (rule := rules[model]) else facts
        for model, facts in models.items()
    }


def _name_of(shelf: Shelf, asked: str, served: str | None) -> str:
    """Return the model that calls count under: what was asked for, or what answered where that is a router."""
    item = shelf.find(asked)
    if item is not None and not is_router(item.facts):
        return item.id
    other = shelf.find(served) if served else None
    return other.id if other else asked


def _advise(shelf: Shelf, usage: ModelUsage, terms: Terms) -> Advice:
    own = shelf.find(usage.model)
    total = usage.total
    today = None if own is None else cost_of(own.price.price, usage.cells.values())
    paid = to_usd(total.paid)
    basis = paid if today is None else min(paid, today)
    needs = terms.needs if terms.needs is not None else _upper_bound(own, total)
    considered, fitting, options = 0, 0, []
    if needs is not None:
        wanted = Needs(
            prompt=usage.context - usage.answer,
            worst=usage.context,
            output=usage.answer,
            min_context=usage.context,
            capabilities=needs,
        )
        for item in shelf:
            if item.id == usage.model:
                continue
            considered += 1
            if _fits(item, wanted, total, terms):
                fitting += 1
                option = _option(item, own, usage, total, basis, terms)
                options += [option] if option else []
    return Advice(
        usage=usage,
        total=total,
        price=own.price if own else None,
        today=today,
        basis=basis,
        needs=needs or frozenset(),
        told=terms.needs is not None,
        considered=considered,
        fitting=fitting,
        options=tuple(sorted(options, key=lambda one: (-one.saving, one.item.id))),
        caching=_caching(own, usage, total, today, basis),
        unknown=None if needs is not None else "the catalogue has no such model, so nobody knows what it can do",
    )


def _upper_bound(own: Item | None, total: Cell) -> frozenset[str] | None:
    """Return all that a model can do, without thinking where its calls show none; None for a model nobody knows."""
    if own is None or is_router(own.facts):
        return None
    words = own.capabilities - _NO_NEED
    if total.reasoning:
        return words
    return frozenset(word for word in words if word != _THINKING and not word.startswith(EFFORT))


def _fits(item: Item, wanted: Needs, total: Cell, terms: Terms) -> bool:
    """Whether a model can take the calls, as far as the catalogue says so: what nobody knows does not count here.

    One that always thinks can't take calls that did not: what its thoughts would cost is in no record.
    """
    facts, routing = item.facts, terms.policy.routing
    if "alias" in item.tags or item.blended is None or matches(routing.exclude_models, facts.id):
        return False
    if facts.reasoning is not None and facts.reasoning.mandatory and not total.reasoning:
        return False
    if item.variant == _BATCH:  # it answers no calls, but it can do what its model does
        facts = msgspec.structs.replace(facts, id=base_of(facts.id))
    return unfit(facts, wanted, routing, today=terms.today.isoformat()) is None and unsure(facts, wanted) is None


def _option(
    item: Item, own: Item | None, usage: ModelUsage, total: Cell, basis: Decimal, terms: Terms
) -> Option | None:
    """Return what a model would save; None when it would not, or when a rate that it needs is unknown."""
    cost = cost_of(item.price.price, usage.cells.values())
    if cost is None or cost >= basis:
        return None
    cap = _daily_cap(item.id, terms.policy) if item.free else None
    requests, share = (total.requests, basis) if cap is None else _within(cap, usage, total, own, basis)
    saving = _nano(_EXACT.subtract(share, cost))
    if saving <= 0:
        return None
    kind = Kind.BATCH if item.variant == _BATCH else Kind.FREE if item.free else Kind.MODEL
    return Option(
        kind=kind,
        item=item,
        requests=requests,
        cost=cost,
        saving=saving,
        caveats=caveats_of(item, own, total, cap=cap, taken=requests),
    )


def _within(cap: int, usage: ModelUsage, total: Cell, own: Item | None, basis: Decimal) -> tuple[int, Decimal]:
    """Return how many calls fit under a cap a day, and what they cost (USD): of each day its average call."""
    by_paid = basis == to_usd(total.paid)
    taken, cost = 0, Decimal(0)
    for cells in usage.days().values():
        requests = sum(cell.requests for cell in cells)
        fit = min(cap, requests)
        paid = to_usd(sum(cell.paid for cell in cells))
        price = paid if by_paid or own is None else cost_of(own.price.price, cells) or paid
        taken += fit
        cost = _EXACT.add(cost, _EXACT.divide(_EXACT.multiply(price, fit), requests))
    return taken, cost


def _daily_cap(model: str, policy: Policy) -> int | None:
    """Return the fewest calls a day that a limit allows a model."""
    caps = [limit.requests_per_day for limit in policy.limits if matches(limit.match, model) and limit.requests_per_day]
    return min(caps, default=None)


def _caching(own: Item | None, usage: ModelUsage, total: Cell, today: Decimal | None, basis: Decimal) -> Caching | None:
    if own is None or today is None or own.price.input is None or not own.price.cache_read:
        return None
    uncached, cells = total.prompt - total.cached, usage.cells.values()
    cheapest = cost_of(own.price.price, cells, all_cached=True)
    if cheapest is None or not uncached or own.price.cache_read >= own.price.input:
        return None
    most = min(_nano(_EXACT.subtract(today, cheapest)), _nano(basis))
    return Caching(uncached, _EXACT.subtract(own.price.input, own.price.cache_read), most) if most > 0 else None


def best_of(options: Sequence[Option], most: int) -> list[Option]:
    """Return the best few of each kind: beside free models, what costs little would never be seen."""
    kept: dict[Kind, list[Option]] = {}
    for option in options:
        kept.setdefault(option.kind, []).append(option)
    return [option for kind in kept.values() for option in kind[:most]]


def _nano(usd: Decimal) -> int:
    """Return USD as nano-dollars, rounded down: a saving is never made larger."""
    return int(_EXACT.multiply(usd, NANO).to_integral_value(rounding=ROUND_FLOOR))
