"""One line on its way, and the shard run that it belongs to: plain state, no I/O."""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from batchmill.openrouter.outcomes import Usage
from batchmill.store.lanes import Claim, Ending
from batchmill.store.model import Attempt, Line, LineState, Terms, Tried
from batchmill.store.rules import Rules
from batchmill.workers.roads import Trip

_PLAIN = Terms()


class Hold(msgspec.Struct, frozen=True):
    """What the gate holds for one call of a line: the hold's id, and the rules that it was taken under."""

    id: str
    rules: Rules


class Told(msgspec.Struct, frozen=True):
    """What a stream told of its call before it was over. `cost` in nano-dollars."""

    usage: Usage
    cost: int | None


class LineRun:
    """A line between two calls: what was tried so far."""

    __slots__ = (
        "attempts", "failures", "generation", "hold", "limited_since", "line", "noted", "shard", "streamed", "told",
        "trip", "turn",
    )  # fmt: skip

    def __init__(self, line: Line, shard: "ShardRun", before: Tried | None = None) -> None:
        self.line = line
        self.shard = shard
        self.attempts: list[Attempt] = list(before.attempts) if before else []
        self.failures = before.failures if before else 0  # attempts that count; being told to wait does not
        self.limited_since: float | None = None
        self.turn = (0.0, 0.0)  # tags of its project and batch when its turn came
        self.hold: Hold | None = None  # while it is in the air
        self.generation: str | None = None  # of the call in the air, as soon as it is known
        self.noted = False  # whether the recorder was told of that
        self.streamed = False  # the call in the air ends, and costs nothing more, when it is given up
        self.told: Told | None = None  # by the stream of the call in the air
        route = shard.terms.route
        self.trip = None if route is None else Trip(route)  # of a line whose model is routed

    @property
    def model(self) -> str:
        """The model that it is sent to."""
        return self.shard.claim.model if self.trip is None else self.trip.road.model

    @property
    def asked(self) -> str:
        """What it asked for: that model, or the alias and the like that its route is for."""
        return self.shard.claim.model if self.trip is None else self.trip.route.asked

    @property
    def pricing(self) -> bytes | None:
        """What that model costs, see `Terms.pricing`."""
        return self.shard.terms.pricing if self.trip is None else self.trip.road.pricing

    @property
    def max_price(self) -> bytes | None:
        """The most that its upstream may charge, see `Terms.max_price`."""
        return self.shard.terms.max_price if self.trip is None else self.trip.road.max_price

    @property
    def provider(self) -> bytes | None:
        """What else its upstream is told of providers, see `Terms.provider`."""
        return self.shard.terms.provider if self.trip is None else self.trip.road.provider

    @property
    def bound(self) -> int:
        """The most that one call of it there can cost (nano-dollars)."""
        return self.line.bound if self.trip is None else self.line.fares[self.trip.place].bound

    @property
    def tokens(self) -> int:
        """The most tokens that it can use there."""
        return self.line.tokens if self.trip is None else self.line.fares[self.trip.place].tokens


class ShardRun:
    """One execution of a shard. `ended` resolves when nothing of it is in the air and all that came is recorded."""

    __slots__ = (
        "claim", "ended", "in_air", "open_lines", "parked", "stopping", "terms", "unrecorded", "unsent", "weight",
    )  # fmt: skip

    def __init__(
        self,
        claim: Claim,
        lines: Iterable[Line],
        *,
        unsent: LineState | None = None,
        tried: Mapping[int, Tried] | None = None,
        terms: Terms = _PLAIN,
        weight: float = 1.0,
    ) -> None:
        self.claim = claim
        self.terms = terms
        self.weight = weight  # of the project
        self.parked: float | None = None  # seconds for which nobody should take the batch's shards up again
        self.unsent = unsent  # what lines become that are not in the air, once nothing is to be sent any more
        self.stopping = False  # drain, or the lease is lost: begin nothing more
        before = tried or {}
        self.open_lines = {line.index: LineRun(line, self, before.get(line.index)) for line in lines}
        self.in_air = 0  # lines in the air, or at the gate
        self.unrecorded = 0
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def tried(self) -> dict[int, Tried]:
        """Return what was tried of the lines that have no result, for the run that comes after this one."""
        runs = [run for run in self.open_lines.values() if run.attempts]
        return {run.line.index: Tried(tuple(run.attempts), run.failures) for run in runs}

    def recorded(self, index: int) -> None:
        """Note that a line's result is in Redis."""
        self.unrecorded -= 1
        self.open_lines.pop(index, None)
        self.end_if_over()

    def end_if_over(self) -> None:
        """Resolve `ended` when every line is recorded, or when the run stops and nothing of it is on its way."""
        if self.ended.done() or self.in_air or self.unrecorded:
            return
        if not self.open_lines:
            self.ended.set_result(Ending.DONE)
        elif self.stopping:
            self.ended.set_result(Ending.GIVE_BACK)
