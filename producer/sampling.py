"""From a few lines that were run for real to all of them: which few, and what they say with which range. Pure.

The cost is taken as a ratio to what was guessed of the same lines, so that long prompts in the file count as long ones
though the sample had few; without a guess, as a mean. The range is the estimate and twice its standard error either
way, of each model, added up: wide rather than narrow, unless a model has but a few lines in the sample.
"""

from collections.abc import Iterable
from decimal import ROUND_CEILING, Context, Decimal

import msgspec

from batchmill.store.model import Result

_CONTEXT = Context(prec=40)
_ERRORS = 2  # standard errors either way
_FEWEST = 2  # lines from which a spread can be told


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a sample says of one model's lines: cost for each unit of what was guessed (or for each line).

    `error` is the standard error of that ratio; None when one line alone was measured. `guessed` tells which it is.
    """

    lines: int
    ratio: Decimal
    error: Decimal | None
    guessed: bool
    latency_ms: float | None = None
    completion_tokens: int | None = None  # mean of an answer

    def total(self, lines: int, likely: int | None) -> int:
        """Return what so many lines, guessed at so much, come to (nano-dollars)."""
        return _up(self.ratio * self._units(lines, likely))

    def ends(self, lines: int, likely: int | None) -> tuple[int, int]:
        """Return the range of `total`. What was measured of one line alone may be twice or half of the truth."""
        units = self._units(lines, likely)
        if self.error is None:
            return _up(self.ratio * units / 2), _up(self.ratio * units * 2)
        spread = self.error * _ERRORS
        return _up(max(Decimal(0), self.ratio - spread) * units), _up((self.ratio + spread) * units)

    def _units(self, lines: int, likely: int | None) -> int:
        return likely if self.guessed and likely is not None else lines


class Point(msgspec.Struct, frozen=True):
    """One line of a sample: the model and cost that were guessed of it, and its result."""

    model: str
    guess: int | None
    result: Result


def spread_over(total: int, count: int) -> list[int]:
    """Return which of so many lines make a sample: `count` of them, evenly over all, in order, from 0."""
    count = min(total, count)
    return [(2 * nth + 1) * total // (2 * count) for nth in range(count)]


def measure(points: Iterable[Point]) -> dict[str, Measured]:
    """Return what a sample says, by guessed model. Lines without a word about their cost say nothing.

    A line that failed counts with what it cost: the others will fail as often.
    """
    by_model: dict[str, list[Point]] = {}
    for point in points:
        if point.result.cost is not None or not point.result.succeeded:
            by_model.setdefault(point.model, []).append(point)
    return {model: _measure(found) for model, found in by_model.items()}


def scaled(cost: int, measured: Measured | None) -> int:
    """Return what a guess (nano-dollars) comes to by what was measured."""
    return cost if measured is None else measured.total(1, cost)


def _measure(points: list[Point]) -> Measured:
    guesses = [point.guess for point in points]
    guessed = None not in guesses and sum(guess or 0 for guess in guesses) > 0
    units = [Decimal(guess or 0) if guessed else Decimal(1) for guess in guesses]
    costs = [Decimal(point.result.cost or 0) for point in points]
    count = len(points)
    ratio = _CONTEXT.divide(sum(costs), sum(units))
    error = None
    if count >= _FEWEST:
        squares = sum((cost - ratio * unit) ** 2 for cost, unit in zip(costs, units, strict=True))
        error = _CONTEXT.divide(_CONTEXT.sqrt(_CONTEXT.divide(squares * count, Decimal(count - 1))), sum(units))
    answers = [point.result for point in points if point.result.succeeded]
    tokens = [result.usage.completion_tokens for result in answers if result.usage is not None]
    return Measured(
        lines=count,
        ratio=ratio,
        error=error,
        guessed=guessed,
        latency_ms=sum(result.latency_ms for result in answers) / len(answers) if answers else None,
        completion_tokens=-(-sum(tokens) // len(tokens)) if tokens else None,
    )


def _up(value: Decimal) -> int:
    return int(value.to_integral_value(rounding=ROUND_CEILING))
