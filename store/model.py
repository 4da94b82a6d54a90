"""What travels through Redis, as typed values: lines in shards, results with their attempts, a batch's state.

line:   pending ──► running ──► succeeded | failed | cancelled | expired     (terminal is for ever)
batch:  validating ──► in_progress ─────────────────► completed
                           ├─ time is over ─► expiring ─► expired, or completed: no line was too late
                           │                     ▼ cancel
                           └─ cancel ─► cancelling ─► cancelled

What follows from what; the last line to get its result decides, whoever recorded it:

              cancel        time is over   last line
in_progress   cancelling    expiring       completed
expiring      cancelling    -              expired; completed when no line is
cancelling    -             -              cancelled
terminal      -             -              -
"""

from decimal import Decimal
from enum import StrEnum

import msgspec

from batchmill.config.strategy import Strategy
from batchmill.openrouter.money import usd_if_known
from batchmill.openrouter.outcomes import Usage
from batchmill.routing.candidates import Considered
from batchmill.store.completions import text_of
from batchmill.store.handed import Handed


class LineState(StrEnum):
    """The terminal states of a line."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class BatchState(StrEnum):
    """OpenAI's words for a batch's status, as far as we use them."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRING = "expiring"  # ours alone: its time is over, nothing is sent any more
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether nothing can happen to the batch any more."""
        return self in (BatchState.COMPLETED, BatchState.CANCELLED, BatchState.EXPIRED)

    @property
    def unsent(self) -> LineState | None:
        """What becomes of lines that are not in the air; None while they are sent."""
        if self in (BatchState.VALIDATING, BatchState.IN_PROGRESS):
            return None
        return LineState.EXPIRED if self in (BatchState.EXPIRING, BatchState.EXPIRED) else LineState.CANCELLED


class Priority(StrEnum):
    """Whose turn it is within a project: shares of 64 : 8 : 1, so that low never starves."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def stride(self) -> int:
        """How far a line moves the batch's tag on: the inverse of its share, in whole numbers."""
        return _SHARES[Priority.HIGH] // _SHARES[self]


_SHARES = {Priority.HIGH: 64, Priority.NORMAL: 8, Priority.LOW: 1}


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One request of a batch; `body` is the JSON object as it was handed in, byte for byte.

    `bound` is the provable worst-case cost of one call (nano-dollars), `tokens` what it may use at most. A line whose
    model is routed has `fares` instead, one for each road of its shard's route, and a body without a model.
    """

    index: int  # position in the batch, from 0; the identity of the line in all our books
    custom_id: str
    body: bytes
    bound: int = 0
    tokens: int = 0
    fares: tuple["Fare", ...] = ()
    live: bool = False  # its tokens are to be seen while they come


LANE_OF_A_ROUTE = "#"
"""Stands in the name of a routed lane between what was asked for and a digest; no model has it in its id."""


class Fare(msgspec.Struct, frozen=True, array_like=True):
    """What one call of a line takes at most on one road, and what it is likely to cost (None: nobody knows)."""

    bound: int
    tokens: int
    estimate: int | None = None


class Road(msgspec.Struct, frozen=True, array_like=True):
    """A model that may answer the lines of a route, and what of `Terms` goes for it."""

    model: str
    pricing: bytes | None = None
    max_price: bytes | None = None
    provider: bytes | None = None
    weight: float = 1.0


class Route(msgspec.Struct, frozen=True, array_like=True):
    """Who may answer the lines of a shard, and how one of them is chosen, each time anew.

    `asked` is what stood in the lines: "auto", an alias, or a model with fallbacks; `members` the JSON members that
    said so, without braces, for a failed line is handed back as it came. `unfit` are models that were considered and
    can't serve these lines, with the reason.
    """

    asked: str
    strategy: Strategy
    roads: tuple[Road, ...]
    members: bytes = b""
    unfit: tuple[Considered, ...] = ()
    max_attempts: int = 3  # calls of one line, over all roads
    retry_delay: float = 0.0  # seconds between a failure and the next road
    fallback_on: tuple[str, ...] = ()  # policy.Trouble


class Routed(msgspec.Struct, frozen=True, array_like=True):
    """How a routed line came to its model, kept with its result."""

    asked: str
    strategy: Strategy
    chosen: str
    considered: tuple[Considered, ...]


class Terms(msgspec.Struct, frozen=True, array_like=True):
    """What goes for all lines of a batch that are meant for one model.

    `pricing` is the `pricing` object (JSON) that the bounds were computed with, None when nobody named a price;
    `max_price` the `provider.max_price` object (JSON) to be sent along, None for none. `provider` holds more members
    for `provider` (a JSON object), for lines that do not name them. `route` is for lanes that are no model's.
    """

    project: str = "default"
    priority: Priority = Priority.NORMAL
    pricing: bytes | None = None
    max_price: bytes | None = None
    capped: bool = False  # the batch has a budget of its own
    provider: bytes | None = None
    route: Route | None = None
    tags: tuple[str, ...] = ()  # "key=value", for reports
    cache: bool = False  # the same line may be answered from an earlier result
    key: str | None = None  # id of the API key that handed the lines over; it may have a budget of its own


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One call made for a line. `cost` in nano-dollars; `outcome` is "ok" or the failure's code."""

    outcome: str
    status: int | None
    latency_ms: int
    model: str | None = None
    provider: str | None = None
    generation_id: str | None = None
    cost: int | None = None
    billed: str | None = None  # outcomes.Billed of a failed call
    message: str | None = None
    first_token_ms: int | None = None  # of an answer that was streamed
    cached: bool = False  # no call was made: the answer had been given to a line like it


class Tried(msgspec.Struct, frozen=True, array_like=True):
    """What a run that gave a line back had tried of it; `failures` are the attempts that count."""

    attempts: tuple[Attempt, ...]
    failures: int


class Result(msgspec.Struct, frozen=True, array_like=True):
    """The one terminal result of a line. `cost` in nano-dollars over all attempts, None when never told."""

    index: int
    custom_id: str
    model: str
    state: LineState
    status_code: int | None = None  # of the response; None for a line that has none
    response: bytes | None = None  # the upstream's JSON, an answer or an error
    error_code: str | None = None  # for lines without a response
    error_message: str | None = None
    usage: Usage | None = None
    cost: int | None = None
    latency_ms: int = 0
    finish_reason: str | None = None
    request: bytes | None = None  # the body of a failed line, so that it can be handed in again
    attempts: tuple[Attempt, ...] = ()
    routed: Routed | None = None
    cached: bool = False  # answered from an earlier result

    @property
    def succeeded(self) -> bool:
        """Whether the line got its completion."""
        return self.state is LineState.SUCCEEDED

    @property
    def cost_usd(self) -> Decimal | None:
        """What the line cost over all attempts, None when the upstream never told."""
        return usd_if_known(self.cost)

    @property
    def content(self) -> str | None:
        """The text of the first choice; None for a line without one (failed, or tool calls only)."""
        return text_of(self.response) if self.succeeded and self.response is not None else None


class BatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A batch at one moment. `pending + running + succeeded + failed + cancelled + expired == total`.

    Times are unix seconds of the Redis clock, None until reached; `cost` in nano-dollars.
    """

    id: str
    state: BatchState
    total: int
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    created_at: int
    in_progress_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    completed_at: int | None = None
    finalizing_at: int | None = None  # nothing is sent any more, though nobody cancelled it
    expired_at: int | None = None
    expires_at: int | None = None  # end of its completion window
    files_at: int | None = None  # its output files are written; of batches that came over HTTP
    output_file: bool = False  # and there is something in it, see `files_at`
    error_file: bool = False
    handed: Handed | None = None  # of a batch that came over HTTP
    key: str | None = None  # id of the API key that handed it over
    cost: int = 0
    uncosted: int = 0  # succeeded lines whose cost the upstream did not tell
    cached: int = 0  # succeeded lines that were answered from earlier results
    cache: bool = False  # whether lines may be
    usage: Usage = Usage()
    models: dict[str, int] = {}
    source: str | None = None  # where the lines came from, for people
    upstream: str = ""
    retry_of: str | None = None
    project: str = "default"
    priority: Priority = Priority.NORMAL
    max_cost: int | None = None  # nano-dollars; the batch's own budget
    estimate: int | None = None  # nano-dollars; what it was likely to cost when it came over HTTP
    tags: tuple[str, ...] = ()  # "key=value"
    blocked_on: str | None = None  # why nothing moves, in words; None when it moves or is done
    blocked_by: tuple[str, ...] = ()  # the same as kinds: worker, place, or the gate's words (budget, limit, pause ...)

    @property
    def done(self) -> int:
        """Lines with a terminal result."""
        return self.succeeded + self.failed + self.cancelled + self.expired

    @property
    def pending(self) -> int:
        """Lines neither done nor in the air."""
        return self.total - self.done - self.running
