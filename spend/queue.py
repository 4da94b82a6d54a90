"""What the lines that wait are likely to cost, pure: by what is known best, and never made up.

what the batch's own lines cost so far ─► what its model's answers cost lately ─► by its prices ─► nobody knows
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from fractions import Fraction

import msgspec

from batchmill.spend.ledger import Rollup


class Evidence(StrEnum):
    """By what the likely cost of a line is known."""

    BATCH = "batch"  # what lines of the same batch and lane cost
    MODEL = "model"  # what answers of its model cost lately
    PRICES = "prices"  # an estimate: the prompt's length, a usual answer
    NOTHING = "nothing"


class QueuedLines(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of one batch in one lane that have no result yet, those in the air included.

    `models` may answer them. `observed` is what a line of them cost so far, `estimate` what one is likely to cost by
    its prices (nano-dollars), None where nobody knows; `lasts_ms` how long they take at the speed of the last minutes,
    None when nothing moves.
    """

    batch: str
    project: str
    lane: str
    lines: int
    models: tuple[str, ...] = ()
    observed: Fraction | None = None
    estimate: Fraction | None = None
    lasts_ms: int | None = None


class QueueCost(msgspec.Struct, frozen=True):
    """What queued lines are likely to cost in all (nano-dollars), and by what that is known."""

    lines: QueuedLines
    likely: int
    evidence: Evidence

    def until(self, milliseconds: int) -> Fraction:
        """Return what of it is spent in a time; all of it, when nobody knows how long it takes."""
        lasts = self.lines.lasts_ms
        return Fraction(self.likely) if not lasts else self.likely * min(Fraction(1), Fraction(milliseconds, lasts))


def costs_of(queued: Iterable[QueuedLines], rollups: Iterable[Rollup]) -> tuple[QueueCost, ...]:
    """Return what lines are likely to cost. `rollups` tell what answers of a model cost lately."""
    answered: dict[str, tuple[int, int]] = {}
    for rollup in rollups:
        cost, count = answered.get(rollup.model, (0, 0))
        answered[rollup.model] = cost + rollup.cost, count + rollup.answered
    means = {model: Fraction(cost, count) for model, (cost, count) in answered.items() if count}
    return tuple(_cost(lines, means) for lines in queued)


def _cost(lines: QueuedLines, means: dict[str, Fraction]) -> QueueCost:
    each, evidence = lines.estimate, Evidence.PRICES
    if lines.observed is not None:
        each, evidence = lines.observed, Evidence.BATCH
    elif len(lines.models) == 1 and lines.models[0] in means:
        each, evidence = means[lines.models[0]], Evidence.MODEL
    if each is None:
        return QueueCost(lines, 0, Evidence.NOTHING)
    return QueueCost(lines, round(each * lines.lines), evidence)


def spent_at(costs: Sequence[QueueCost], amount: int) -> int | None:
    """Return in how many ms the queue spends an amount; None when it never does, or nobody knows when."""
    moving = sorted((lasts, cost.likely) for cost in costs if (lasts := cost.lines.lasts_ms))
    rate, begun, spent = sum((Fraction(likely, lasts) for lasts, likely in moving), Fraction(0)), 0, Fraction(0)
    for lasts, likely in moving:
        step = rate * (lasts - begun)
        if rate and spent + step >= amount:
            return begun + round((amount - spent) / rate)
        spent, begun, rate = spent + step, lasts, rate - Fraction(likely, lasts)
    return None
