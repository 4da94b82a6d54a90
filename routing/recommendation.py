"""Which model to take: those that can do it, ranked by a score that is broken down into its parts. Pure.

The score is a help for people, made of parts from 0 (the worst of those that fit) to 1 (the best); OPTIMIZE names
their weights. What nobody knows counts as UNKNOWN, and its words say so.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from batchmill.openrouter.list_prices import usd_text
from batchmill.routing.performance import STATED, Health, answer_ms, success, trouble
from batchmill.routing.quality import qualities
from batchmill.routing.selection import Filter, Providers, Selection, select
from batchmill.routing.shelf import Item, Shelf

UNKNOWN: Final = 0.5
UNFIT_TAGS: Final = ("batch", "router", "unpriced")
"""What is never recommended: other ways to call, models that are none, and what nobody knows the price of."""

SOON_DAYS: Final = 30
LATER_DAYS: Final = 120
_SOON, _LATER = 0.5, 0.9  # what is left of the score of a model that expires so soon
_TROUBLE: Final = 0.1  # and of one that can't be counted on now
_BESIDE_NOTHING: Final = 0.8  # the best that a price can be where others cost nothing
_POOR_SERVICE: Final = 0.9
_PERCENT: Final = 100
MOST: Final = 10
"""How many are recommended unless more are asked for."""


class Optimize(StrEnum):
    """What matters most."""

    COST = "cost"
    SPEED = "speed"
    QUALITY = "quality"
    RELIABILITY = "reliability"


OPTIMIZE: Final[Mapping[Optimize, Mapping[str, float]]] = MappingProxyType(
    {
        Optimize.COST: {"price": 0.7, "quality": 0.1, "speed": 0.1, "reliability": 0.1},
        Optimize.SPEED: {"speed": 0.6, "reliability": 0.2, "price": 0.1, "quality": 0.1},
        Optimize.QUALITY: {"quality": 0.7, "reliability": 0.1, "price": 0.1, "speed": 0.1},
        Optimize.RELIABILITY: {"reliability": 0.6, "speed": 0.2, "price": 0.1, "quality": 0.1},
    }
)
"""The weight of each part of the score."""


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a model must be able to do, beside `wanted`: free models have daily caps, so they must be asked for.

    `today` decides what has expired.
    """

    today: date
    wanted: Filter = Filter()
    optimize: Optimize = Optimize.COST
    free: bool = False
    providers: Providers = {}


class Part(msgspec.Struct, frozen=True):
    """One part of a score: from 0 to 1, its weight, and in words what it comes from."""

    name: str
    value: float
    weight: float
    words: str


class Recommendation(msgspec.Struct, frozen=True):
    """A model, its score (0 to 1: the weighted parts, less `marked_down`), and the reason in words."""

    item: Item
    score: float
    parts: tuple[Part, ...]
    reason: str
    marked_down: tuple[str, ...] = ()


class Ranking(msgspec.Struct, frozen=True):
    """The models that fit, the best first, and what kept the others out."""

    best: tuple[Recommendation, ...]
    selection: Selection


def recommend(shelf: Shelf, needs: Needs, health: Health | None = None, *, most: int = MOST) -> Ranking:
    """Return the best of the models that fit, ranked, with words for each. Those that have expired never fit."""
    seen = health or {}
    selection = _fitting(shelf, needs, seen)
    items = selection.found
    columns: dict[str, _Column] = {
        "price": _Prices(items),
        "speed": _Speeds(items, seen),
        "quality": _Qualities(items),
        "reliability": _Reliabilities(items, seen),
    }
    weights = OPTIMIZE[needs.optimize]
    marks = [_marks(item, needs.today, seen) for item in items]
    scores = [
        sum(columns[name].values[place] * weight for name, weight in weights.items()) * share
        for place, (share, _) in enumerate(marks)
    ]
    order = sorted(range(len(items)), key=lambda place: (-scores[place], items[place].blended or 0, items[place].id))
    best = []
    for place in order[:most]:
        parts = tuple(
            Part(name, columns[name].values[place], weight, columns[name].words(place))
            for name, weight in weights.items()
        )
        told = marks[place][1]
        best.append(Recommendation(items[place], scores[place], parts, _reason(parts, told), told))
    return Ranking(tuple(best), selection)


def expiry_of(item: Item, today: date) -> int | None:
    """Return in how many days a model may be removed (below 0: it may be gone); None when nobody says."""
    if item.facts.expires is None:
        return None
    try:
        return (date.fromisoformat(item.facts.expires[:10]) - today).days
    except ValueError:
        return None


def _fitting(shelf: Shelf, needs: Needs, health: Health) -> Selection:
    wanted = needs.wanted
    unwanted = tuple(dict.fromkeys([*wanted.without_tags, *UNFIT_TAGS]))
    free = wanted.free if needs.free or wanted.free is not None else False
    wanted = msgspec.structs.replace(wanted, without_tags=unwanted, free=free)
    selection = select(shelf, wanted, health=health, providers=needs.providers)
    found, expired, silent = [], 0, 0
    for item in selection.found:
        left = expiry_of(item, needs.today)
        if left is not None and left < 0:
            expired += 1
        elif "streaming" not in item.capabilities:
            silent += 1
        else:
            found.append(item)
    more = {name: count for name, count in (("expiry", expired), ("no text", silent)) if count}
    return Selection(tuple(found), selection.left_out | more, selection.alone | more)


class _Column(Protocol):
    """One part of the score for all models, and on demand the words for one of them."""

    values: list[float]

    def words(self, place: int) -> str: ...


class _Prices:
    """Prices by their ratio: half the price is as much better for cheap models as for dear ones."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self.values = _by_ratio([float(item.blended or 0) for item in items])  # a score is no money

    def words(self, place: int) -> str:
        blended = self._items[place].blended
        return f"{usd_text(blended)} a million, blended" if blended else "free"


class _Speeds:
    def __init__(self, items: Sequence[Item], health: Health) -> None:
        self._figures = [answer_ms(health.get(item.id)) for item in items]
        known = iter(_by_ratio([figure.value for figure in self._figures if figure is not None]))
        self.values = [UNKNOWN if figure is None else next(known) for figure in self._figures]

    def words(self, place: int) -> str:
        figure = self._figures[place]
        if figure is None:
            return "nobody measured its speed"
        return f"{figure.value / 1000:.1f} s an answer ({figure.source})"


class _Qualities:
    def __init__(self, items: Sequence[Item]) -> None:
        self._found = qualities(items)
        self.values = [quality.value for quality in self._found]

    def words(self, place: int) -> str:
        return self._found[place].words


class _Reliabilities:
    """Shares of success: what tells models apart is the upper tenth, for less is no service."""

    def __init__(self, items: Sequence[Item], health: Health) -> None:
        self._figures = [success(health.get(item.id)) for item in items]
        self.values = [
            UNKNOWN if figure is None else max(0.0, (figure.value - _POOR_SERVICE) / (1 - _POOR_SERVICE))
            for figure in self._figures
        ]

    def words(self, place: int) -> str:
        figure = self._figures[place]
        if figure is None:
            return "nobody knows how reliable it is"
        word = "up" if figure.source == STATED else "succeed"
        return f"{_PERCENT * figure.value:.1f} % {word} ({figure.source})"


def _by_ratio(values: Sequence[float]) -> list[float]:
    """Return for each value 1 for the least to 0 for the most, on a scale of ratios; nothing at all beats the least."""
    known = [value for value in values if value > 0]
    best = 1.0 if len(known) == len(values) else _BESIDE_NOTHING
    least, most = (min(known), max(known)) if known else (1.0, 1.0)
    span = math.log(most / least) or 1.0
    return [best * (1.0 - math.log(value / least) / span) if value > 0 else 1.0 for value in values]


def _marks(item: Item, today: date, health: Health) -> tuple[float, tuple[str, ...]]:
    """Return what is left of a model's score, and why not all of it."""
    share, told = 1.0, []
    left = expiry_of(item, today)
    if left is not None and left <= LATER_DAYS:
        share *= _SOON if left <= SOON_DAYS else _LATER
        told.append(f"may be removed on {item.facts.expires}, in {left} days")
    if (bad := trouble(health.get(item.id))) is not None:
        share *= _TROUBLE
        told.append(bad)
    return share, tuple(told)


def _reason(parts: tuple[Part, ...], told: tuple[str, ...]) -> str:
    """Return what the model is chosen for in words: the part that weighs most, then what speaks for it beside."""
    first, *others = parts
    strong = [part.words for part in others if part.value > UNKNOWN]
    return "; ".join([first.words, *strong, *(f"marked down: {one}" for one in told)])
