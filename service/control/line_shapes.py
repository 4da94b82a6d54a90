"""What our own API answers about the lines of a batch; units as in `shapes`."""

from decimal import Decimal
from typing import Any, Literal

from batchmill.service.control.shapes import Shape


class LineError(Shape, frozen=True):
    """Why a line has no completion."""

    code: str | None
    message: str | None
    status_code: int | None = None


class LineRow(Shape, frozen=True):
    """One line of a batch. `at` finds its result again at once: hand it to the line's own address."""

    custom_id: str
    index: int
    state: Literal["pending", "running", "succeeded", "failed", "cancelled", "expired"]
    model: str
    attempts: int = 0
    cost_usd: Decimal | None = None
    latency_ms: int | None = None
    cached: bool = False
    finish_reason: str | None = None
    error: LineError | None = None
    at: str | None = None


class Lines(Shape, frozen=True):
    """A page of lines: those with a result in the order they ended, then the others. `next` is the cursor of the rest.

    A page may be short, or empty, though more follows: a search gives what it found after a moment's reading.
    """

    data: tuple[LineRow, ...]
    has_more: bool
    next: str | None


class AttemptShape(Shape, frozen=True):
    """One call that was made for a line; `outcome` is "ok" or the failure's code."""

    outcome: str
    status: int | None
    latency_ms: int
    model: str | None
    provider: str | None
    generation_id: str | None
    cost_usd: Decimal | None
    billed: str | None
    message: str | None
    first_token_ms: int | None
    cached: bool


class RoutedShape(Shape, frozen=True):
    """How a line came to its model: what it asked for, and each model that was considered, with the reason."""

    asked: str
    strategy: str
    chosen: str
    reasons: dict[str, str]


class LineDetail(Shape, frozen=True):
    """All about one line: request, answer and attempts. Where the request is not kept, `request_gone` says why."""

    batch_id: str
    line: LineRow
    request: Any | None
    request_gone: str | None
    response: Any | None
    content: str | None
    input_tokens: int | None
    output_tokens: int | None
    attempts: tuple[AttemptShape, ...]
    routed: RoutedShape | None
