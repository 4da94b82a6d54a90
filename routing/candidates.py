"""Who may answer a line, and who does: the values that strategies take and give."""

import msgspec

from batchmill.config.strategy import Strategy


class Candidate(msgspec.Struct, frozen=True):
    """A model that can serve a line. `estimate` is what the line is likely to cost there (nano-dollars)."""

    model: str
    estimate: int | None = None
    weight: float = 1.0


class Considered(msgspec.Struct, frozen=True, array_like=True):
    """A candidate with the reason, in words, for its place (or for having none)."""

    model: str
    reason: str


class Decision(msgspec.Struct, frozen=True):
    """The candidates in the order in which they are to be tried (places in what was given), each with its reason."""

    strategy: Strategy
    order: tuple[int, ...]
    considered: tuple[Considered, ...]  # in the same order
