"""What the simulator remembers: counts, money, the calls in the air, and generations for the later lookup."""

from collections import Counter
from collections.abc import Callable
from hashlib import sha256

import msgspec

from batchmill.openrouter.prices import Billable
from batchmill.openrouter.simulator.account import Spending

_KEPT_GENERATIONS = 100_000  # the oldest go first


class ModelStats(msgspec.Struct):
    """Counts of one model; money in nano-dollars."""

    completions: int = 0
    billed_nano: int = 0


class Stats(msgspec.Struct):
    """The answer of `GET /_sim/stats`. Money in nano-dollars.

    `requests` are completion calls received, `completions` answers that were generated whole and billed, whether or
    not the client was still there. `duplicates` are bodies that came more than once, retries included;
    `answered_twice` those that were generated whole more than once: double work. `by_status` counts by HTTP status,
    and `cut`, `hang` and `dropped` (the client left a stream) by name.
    """

    requests: int = 0
    completions: int = 0
    billed_nano: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    duplicates: int = 0
    answered_twice: int = 0
    by_model: dict[str, ModelStats] = {}
    by_status: dict[str, int] = {}


class CallRecord(msgspec.Struct, frozen=True):
    """One call, as `GET /_sim/calls` lists it: `t` unix seconds at its end, `body` the SHA-256 of its body."""

    t: float
    model: str
    body: str
    status: str
    billed_nano: int
    generation_id: str | None = None


class Generation(msgspec.Struct, frozen=True):
    """A finished call, for `GET /generation`. Times in unix seconds."""

    id: str
    model: str
    provider: str
    usage: Billable
    billed_nano: int
    finish_reason: str | None
    native_finish_reason: str | None
    started: float
    ended: float
    streamed: bool
    cancelled: bool


class Call:
    """One completion call in the air. The handler fills in what becomes of it."""

    __slots__ = ("attempt", "billed", "body", "generation_id", "model", "started", "status")

    def __init__(self, body: bytes, attempt: int, started: float) -> None:
        self.body = body
        self.attempt = attempt
        self.started = started
        self.model = ""
        self.status = "200"
        self.billed = 0
        self.generation_id: str | None = None


class Books:
    """Keeps the statistics of one simulator."""

    def __init__(self, clock: Callable[[], float], *, record: bool) -> None:
        self._clock = clock
        self._record = record
        self.stats = Stats()
        self.reset()

    def reset(self) -> None:
        """Forget everything but the calls that are in the air."""
        in_flight = self.stats.in_flight
        self.stats = Stats(in_flight=in_flight, max_in_flight=in_flight)
        self.spending = Spending(self._clock)
        self.calls: list[CallRecord] = []
        self.generations: dict[str, Generation] = {}
        self._sent: Counter[bytes] = Counter()
        self._answered: Counter[bytes] = Counter()

    def begin(self, body: bytes) -> Call:
        """Count a call that came in; its `attempt` is how often this body was sent before."""
        stats = self.stats
        stats.requests += 1
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
        digest = sha256(body).digest()
        attempt = self._sent[digest]
        self._sent[digest] = attempt + 1
        if attempt == 1:
            stats.duplicates += 1
        return Call(digest, attempt, self._clock())

    def bill(self, call: Call, generation: Generation, *, whole: bool) -> None:
        """Book what a call cost, once it is known; `whole` when its answer was generated to the end."""
        stats = self.stats
        billed = generation.billed_nano
        call.billed = billed
        call.generation_id = generation.id
        stats.billed_nano += billed
        self.spending.add(billed)
        by_model = stats.by_model.get(call.model)
        if by_model is None:
            by_model = stats.by_model[call.model] = ModelStats()
        by_model.billed_nano += billed
        if whole:
            stats.completions += 1
            by_model.completions += 1
            answered = self._answered[call.body] + 1
            self._answered[call.body] = answered
            if answered == 2:  # noqa: PLR2004 - counted once, when it becomes a double
                stats.answered_twice += 1
        self.generations[generation.id] = generation
        if len(self.generations) > _KEPT_GENERATIONS:
            del self.generations[next(iter(self.generations))]

    def end(self, call: Call) -> None:
        """Count what became of a call."""
        self.stats.in_flight -= 1
        self.stats.by_status[call.status] = self.stats.by_status.get(call.status, 0) + 1
        if self._record:
            record = CallRecord(
                self._clock(), call.model, call.body.hex(), call.status, call.billed, call.generation_id
            )
            self.calls.append(record)
