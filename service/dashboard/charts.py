"""The geometry of charts; templates draw them as SVG. Pure.

Everything is in the units of the drawing: x from 0 to `width`, y from 0 (the top) to `height`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import floor, log10

_NICE = tuple(map(Decimal, ("1", "1.5", "2", "3", "4", "5", "6", "8", "10")))
_GAP = 0.25  # of a bar's place


@dataclass(frozen=True, slots=True)
class Bar:
    """One value: `x`, `y`, `width`, `height` of its rectangle; `label` names it, `value` is what it stands for."""

    x: float
    y: float
    width: float
    height: float
    label: str
    value: Decimal


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the grid, and its value."""

    y: float
    value: Decimal


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars over a grid."""

    width: int
    height: int
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    top: Decimal


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a bar that is divided: where it begins and how long it is, in per cent of the whole."""

    name: str
    start: float
    length: float
    value: Decimal


def columns(values: Sequence[tuple[str, Decimal]], width: int = 720, height: int = 160) -> Chart:
    """Return a chart of upright bars, as many as values, whose scale ends at a round number."""
    top = ceiling(max((value for _, value in values), default=Decimal(0)))
    place = width / max(1, len(values))
    bars = []
    for number, (label, value) in enumerate(values):
        tall = float(value / top) * height
        bars.append(
            Bar(round(number * place + place * _GAP / 2, 2), round(height - tall, 2), round(place * (1 - _GAP), 2),
                round(tall, 2), label, value)
        )  # fmt: skip
    ticks = tuple(Tick(round(height * (1 - share / 2), 2), top * share / 2) for share in (1, 2))
    return Chart(width, height, tuple(bars), ticks, top)


def ceiling(value: Decimal) -> Decimal:
    """Return the next round number that is not less; 1 for nothing."""
    if value <= 0:
        return Decimal(1)
    step = Decimal(10) ** floor(log10(value))
    return next(step * nice for nice in _NICE if step * nice >= value)


def divided(whole: Decimal, parts: Sequence[tuple[str, Decimal]]) -> tuple[Part, ...]:
    """Return the pieces of a bar, one after the other; what goes beyond the whole is cut off."""
    pieces = []
    start = 0.0
    for name, value in parts:
        length = min(float(value / whole) * 100, 100 - start) if whole > 0 else 0.0
        pieces.append(Part(name, round(start, 3), round(max(0.0, length), 3), value))
        start += max(0.0, length)
    return tuple(pieces)
