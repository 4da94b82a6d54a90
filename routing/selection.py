"""Filters over the catalogue that combine, and what sorts what is left. Pure.

A model must pass every criterion that is set. A list in a criterion means "one of them" for authors, families and
providers, and "all of them" for capabilities, modalities and tags.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

from batchmill.config.policy import matches
from batchmill.config.spelling import nearest
from batchmill.openrouter.capabilities import check_capability
from batchmill.openrouter.traits import TAGS
from batchmill.routing.performance import Health, answer_ms, success, tokens_per_second, trouble
from batchmill.routing.shelf import Item, Shelf

Providers = Mapping[str, frozenset[str]]
"""Who serves a model: names and tags of the endpoints that were looked at, in small letters, by model."""

_Check = Callable[[Item], bool]


class Sort(StrEnum):
    """What models are sorted by: the best first, and those of which nobody knows last."""

    PRICE = "price"  # blended
    INPUT = "input"
    OUTPUT = "output"
    CONTEXT = "context"
    CREATED = "created"
    NAME = "name"
    LATENCY = "latency"
    THROUGHPUT = "throughput"
    UPTIME = "uptime"


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which models are wanted; what is not set keeps nobody out. Prices in USD for a million tokens.

    Raises ValueError for a capability or a tag that nobody knows.
    """

    text: str = ""  # each of its words is in the id, name or description
    authors: tuple[str, ...] = ()  # as in ids or in names, or patterns of ids such as `meta-*`
    families: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    without_tags: tuple[str, ...] = ()
    free: bool | None = None
    max_input: Decimal | None = None
    max_output: Decimal | None = None
    max_price: Decimal | None = None  # blended
    min_context: int | None = None
    min_output: int | None = None
    available: bool = False

    def __post_init__(self) -> None:
        for word in self.capabilities:
            check_capability(word)
        for tag in self.tags + self.without_tags:
            if tag not in TAGS:
                raise ValueError(f"no tag is named '{tag}'{nearest(tag, tuple(TAGS))}")


class Selection(msgspec.Struct, frozen=True):
    """The models that pass, and of the others how many each criterion refused.

    `left_out` counts a model once, under the first criterion that it fails; `alone` counts those that fail one only.
    """

    found: tuple[Item, ...]
    left_out: dict[str, int] = {}
    alone: dict[str, int] = {}

    def explain(self) -> str:
        """Return in words how many were left out by what; empty when none was."""
        if not self.left_out:
            return ""
        parts = sorted(self.left_out.items(), key=lambda part: -part[1])
        told = ", ".join(f"{count:,} by {criterion}" for criterion, count in parts)
        return f"{sum(self.left_out.values()):,} left out: {told}"

    def advice(self) -> str:
        """Return which single criterion would have to go for there to be any; empty when none would do."""
        if self.found or not self.alone:
            return ""
        criterion, count = max(self.alone.items(), key=lambda part: part[1])
        return f"without the criterion {criterion} there would be {count:,}"


def select(
    shelf: Shelf,
    wanted: Filter,
    sort: Sort = Sort.PRICE,
    *,
    health: Health | None = None,
    providers: Providers | None = None,
    reverse: bool = False,
) -> Selection:
    """Return the models that pass every criterion, sorted, with what kept the others out."""
    checks = _checks(wanted, health or {}, providers or {})
    found, first, alone = [], Counter[str](), Counter[str]()
    for item in shelf.items:
        failed = [criterion for criterion, passes in checks if not passes(item)]
        if not failed:
            found.append(item)
            continue
        first[failed[0]] += 1
        if len(failed) == 1:
            alone[failed[0]] += 1
    return Selection(_sorted(found, sort, health or {}, reverse=reverse), dict(first), dict(alone))


def _checks(wanted: Filter, health: Health, providers: Providers) -> list[tuple[str, _Check]]:
    """Return a test for each criterion that is set, the ones that refuse most for good first."""
    checks = _of_names(wanted, providers) + _of_abilities(wanted) + _of_prices(wanted)
    if wanted.min_context is not None:
        checks.append(("context", _at_least(lambda item: item.facts.context_length, wanted.min_context)))
    if wanted.min_output is not None:
        checks.append(("output", _at_least(lambda item: item.facts.max_completion_tokens, wanted.min_output)))
    if wanted.available:
        checks.append(("availability", lambda item: trouble(health.get(item.id)) is None))
    return checks


def _of_names(wanted: Filter, providers: Providers) -> list[tuple[str, _Check]]:
    checks: list[tuple[str, _Check]] = []
    if words := wanted.text.lower().split():
        checks.append(("text", lambda item: all(word in item.text for word in words)))
    if authors := _small(wanted.authors):
        checks.append(("author", lambda item: _is_of(item, authors)))
    if families := _small(wanted.families):
        checks.append(("family", lambda item: item.family in families))
    if served := _small(wanted.providers):
        checks.append(("provider", lambda item: _is_served(item, served, providers)))
    return checks


def _of_abilities(wanted: Filter) -> list[tuple[str, _Check]]:
    checks: list[tuple[str, _Check]] = []
    if needs := frozenset(wanted.capabilities):
        checks.append(("capability", lambda item: needs <= item.capabilities))
    if inputs := frozenset(_small(wanted.inputs)):
        checks.append(("input", lambda item: inputs.issubset(item.facts.input_modalities)))
    if outputs := frozenset(_small(wanted.outputs)):
        checks.append(("output kind", lambda item: outputs.issubset(item.facts.output_modalities)))
    if tags := frozenset(wanted.tags):
        checks.append(("tag", lambda item: tags <= item.tags))
    if unwanted := frozenset(wanted.without_tags):
        checks.append(("unwanted tag", lambda item: unwanted.isdisjoint(item.tags)))
    if wanted.free is not None:
        checks.append(("free", lambda item: item.price.free is wanted.free))
    return checks


def _of_prices(wanted: Filter) -> list[tuple[str, _Check]]:
    checks: list[tuple[str, _Check]] = []
    if wanted.max_input is not None:
        checks.append(("input price", _at_most(lambda item: item.price.input, wanted.max_input)))
    if wanted.max_output is not None:
        checks.append(("output price", _at_most(lambda item: item.price.output, wanted.max_output)))
    if wanted.max_price is not None:
        checks.append(("price", _at_most(lambda item: item.blended, wanted.max_price)))
    return checks


def _at_most(value: Callable[[Item], Decimal | None], most: Decimal) -> _Check:
    def passes(item: Item) -> bool:
        price = value(item)
        return price is not None and price <= most

    return passes


def _at_least(value: Callable[[Item], int | None], least: int) -> _Check:
    return lambda item: (value(item) or 0) >= least


def _is_of(item: Item, authors: tuple[str, ...]) -> bool:
    return item.author in authors or item.author_name.lower() in authors or matches(authors, item.author)


def _is_served(item: Item, wanted: tuple[str, ...], providers: Providers) -> bool:
    """Whether an endpoint that was looked at is one of the wanted; where none was, whether the author is."""
    known = providers.get(item.id)
    if known is None:
        return item.author in wanted or item.author_name.lower() in wanted
    return any(name in wanted or name.partition("/")[0] in wanted for name in known)


def _small(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word.lower() for word in words)


_KEYS: Final[Mapping[Sort, Callable[[Item], Decimal | int | None]]] = {
    Sort.PRICE: lambda item: item.blended,
    Sort.INPUT: lambda item: item.price.input,
    Sort.OUTPUT: lambda item: item.price.output,
    Sort.CONTEXT: lambda item: -(item.facts.context_length or 0) or None,
    Sort.CREATED: lambda item: -item.facts.created or None,
}


def _sorted(found: list[Item], sort: Sort, health: Health, *, reverse: bool) -> tuple[Item, ...]:
    by_name = sorted(found, key=lambda item: item.id)
    if sort is Sort.NAME:
        return tuple(by_name[::-1] if reverse else by_name)
    key = _KEYS.get(sort) or _by_health(sort, health)
    valued = [(value, item) for item in by_name if (value := key(item)) is not None]
    unknown = [item for item in by_name if key(item) is None]
    valued.sort(key=lambda pair: pair[0], reverse=reverse)
    return (*(item for _, item in valued), *unknown)


def _by_health(sort: Sort, health: Health) -> Callable[[Item], float | None]:
    def key(item: Item) -> float | None:
        seen = health.get(item.id)
        if sort is Sort.LATENCY:
            figure, sign = answer_ms(seen), 1
        elif sort is Sort.THROUGHPUT:
            figure, sign = tokens_per_second(seen), -1
        else:
            figure, sign = success(seen), -1
        return None if figure is None else sign * figure.value

    return key
