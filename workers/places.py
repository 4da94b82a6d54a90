"""The lanes of one process: their lines in the order of their turn, those that wait, and which lane is next."""

import asyncio
import heapq
import time
from collections.abc import Collection, Iterator

from batchmill.store.model import Route
from batchmill.workers.line import LineRun, ShardRun
from batchmill.workers.roads import Guide, Roads
from batchmill.workers.turns import Turns
from batchmill.workers.valves import Valve, Wake

_STARVED_LOOK = 0.25
_STARVED_SLACK = 0.05  # by how much a block outlasts the timer that ends it
_FEED_EVERY = 0.1
_FEW = 4  # lines of a batch that are as good as none when the next shard takes a round trip or two
_MOST_STRANGERS = 16  # batches of one lane here, when its limits let little through


class Count:
    """Lines that wait for their turn, over all lanes."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        self.lines = 0


class _Starved:
    """A batch that a budget holds up, since when (monotonic), and the timer that lets it ask again."""

    __slots__ = ("since", "timer")

    def __init__(self, since: float) -> None:
        self.since = since
        self.timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """End the wait."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Lane:
    """The lines of one lane in this process: those of one model, or of one route, which has a valve for each model."""

    __slots__ = (
        "_fed",
        "_guide",
        "_own",
        "_ready",
        "_roads",
        "_stalled",
        "_starved",
        "_stuck",
        "_turns",
        "asked",
        "following",
        "in_air",
        "model",
        "valves",
        "waiting",
    )  # fmt: skip

    def __init__(self, model: str, ready: Count, guide: Guide) -> None:
        self.model = model
        self._guide = guide
        self.waiting: dict[LineRun, asyncio.TimerHandle] = {}  # lines to be tried again
        self.following: dict[LineRun, None] = {}  # lines that wait for the answer of one like them, which has a place
        self.in_air = 0
        self.asked = 0  # lines at the gate
        self.valves: dict[str, Valve] = {}
        self._own = self.valve(model)
        self._roads: dict[Route, Roads] = {}
        self._stuck: list[LineRun] = []  # lines whose roads are all shut, though others' may be open
        self._stalled = False  # no road is open to any line
        self._ready = ready
        self._turns = Turns()
        self._starved: dict[str, _Starved] = {}
        self._fed = 0.0

    @property
    def ready(self) -> int:
        """Lines that wait for their turn, those of batches that a budget holds up too."""
        return len(self._turns)

    @property
    def limited(self) -> bool:
        """Whether the gate lets less through than there is: then more lines here are of no use."""
        if not self._roads:
            return self._own.limited
        return all(valve.limited for valve in self.valves.values() if valve is not self._own)

    @property
    def here(self) -> int:
        """Lines that are here, wherever, but for those that may need no place at all."""
        return self.ready + self.asked + self.in_air + len(self.waiting) + len(self._stuck)

    @property
    def load(self) -> int:
        """Places that it has."""
        return self.in_air + self.asked

    @property
    def may_ask(self) -> bool:
        """Whether a line of it may be asked for now."""
        if self._stalled or not self.ready:
            return False
        return self._own.open if not self._roads else True

    def valve(self, model: str) -> Valve:
        """Return the valve of one of its models."""
        valve = self.valves.get(model)
        if valve is None:
            valve = self.valves[model] = Valve(model, self._changed)
        return valve

    def add(self, shard: ShardRun) -> None:
        """Take in a shard's lines."""
        route = shard.terms.route
        if route is not None and route not in self._roads:
            self._roads[route] = Roads(route, self._guide, self.valve)
        self._turns.add(shard)
        self._ready.lines += len(shard.open_lines)

    def pop(self) -> LineRun | None:
        """Take out the line whose turn it is; None when all that are ready wait for a budget."""
        run = self._turns.pop()
        self._ready.lines -= run is not None
        return run

    def ask(self) -> LineRun | None:
        """Take out the next line that may be asked for, on its way to the gate; None when there is none now."""
        while (run := self.pop()) is not None:
            valve = self._own if run.trip is None else self._choose(run)
            if valve is not None:
                valve.asked += 1
                self.asked += 1
                return run
            if self._stalled:
                return None
        return None

    def answered(self, model: str, lines: int) -> None:
        """Take lines back from the gate, or from the way there: their valve may be open to others."""
        self.valve(model).asked -= lines
        self.asked -= lines
        self._changed()

    def push_back(self, run: LineRun, *, was_sent: bool) -> None:
        """Put a line first of its batch again; of several, the last one first."""
        self._turns.push_back(run, was_sent=was_sent)
        self._ready.lines += 1

    def withdraw(self, shard: ShardRun) -> list[LineRun]:
        """Take out a shard's lines that are neither in the air nor at the gate."""
        withdrawn = self._turns.withdraw(shard)
        self._ready.lines -= len(withdrawn)
        for run in [run for run in self.waiting if run.shard is shard]:
            self.waiting.pop(run).cancel()
            withdrawn.append(run)
        followed = [run for run in self.following if run.shard is shard]
        for run in followed:
            del self.following[run]
        withdrawn += followed
        withdrawn += [run for run in self._stuck if run.shard is shard]
        self._stuck = [run for run in self._stuck if run.shard is not shard]
        batch_id = shard.claim.batch_id
        if batch_id in self._starved and not self.has(batch_id):
            self.sated(batch_id)
        return withdrawn

    def resume(self, run: LineRun) -> bool:
        """Have a line that waited for another's answer take its turn again; False when it waits no more."""
        if run not in self.following:
            return False
        del self.following[run]
        self.push_back(run, was_sent=True)
        return True

    def landed(self, models: Collection[str]) -> None:
        """Note that lines of these models came back and are settled."""
        for valve in self.valves.values():
            if valve.model in models:
                valve.landed()

    def has(self, batch_id: str) -> bool:
        """Whether lines of a batch wait here for their turn."""
        return batch_id in self._turns.batches()

    def starve(self, batch_id: str, wake: Wake) -> float:
        """Let a batch that a budget holds up wait for a moment; return for how many seconds it is held up."""
        now = time.monotonic()
        starved = self._starved.setdefault(batch_id, _Starved(now))
        starved.stop()
        self._turns.block(batch_id, now + _STARVED_LOOK + _STARVED_SLACK)
        starved.timer = asyncio.get_running_loop().call_later(_STARVED_LOOK, self._look_again, batch_id, wake)
        return now - starved.since

    def sated(self, batch_id: str) -> None:
        """Note that no budget holds the batch up, or that it is not here any more."""
        starved = self._starved.pop(batch_id, None)
        if starved is not None:
            starved.stop()
            self._turns.block(batch_id, 0.0)

    def feed(self) -> None:
        """Let batches that a budget holds up ask again: some money came back."""
        now = time.monotonic()
        if not self._starved or now - self._fed < _FEED_EVERY:
            return
        self._fed = now
        for batch_id, starved in self._starved.items():
            starved.stop()
            self._turns.block(batch_id, 0.0)

    def known(self) -> list[str] | None:
        """Return the batches of which there are enough lines here, when others are welcome; None when none are.

        A lane whose rules let little through takes few lines in; but no batch may wait behind another's backlog.
        """
        if not self.limited and not self._starved:
            return None
        batches = self._turns.batches(_FEW)
        return sorted(batches) if len(batches) < _MOST_STRANGERS else None

    def short_of(self, run: LineRun) -> bool:
        """Whether so few lines of its batch are left in a limited lane that more must come, lest its turns are lost."""
        return self.limited and self._turns.left(run) < _FEW

    def _choose(self, run: LineRun) -> Valve | None:
        """Find the line's road; one that finds none waits for a valve, and all others with it if they would, too."""
        trip, fares = run.trip, run.line.fares
        if trip is None:
            return self._own
        valve = self._roads[trip.route].choose(trip, tuple(fare.estimate for fare in fares))
        if valve is None and trip.detours:
            self._stuck.append(run)
        elif valve is None:
            self._stalled = True
            self.push_back(run, was_sent=False)
        return valve

    def _changed(self) -> None:
        """A valve may be open: let lines that waited for one look for their road again."""
        self._stalled = False
        while self._stuck:
            self.push_back(self._stuck.pop(), was_sent=False)

    def _look_again(self, batch_id: str, wake: Wake) -> None:
        self._turns.block(batch_id, 0.0)
        wake()


class Lanes:
    """All lanes of the process, and which of them is next."""

    def __init__(self, guide: Guide | None = None) -> None:
        self._lanes: dict[str, Lane] = {}
        self._ready = Count()
        self._guide = guide or Guide()

    def __getitem__(self, model: str) -> Lane:
        """The lane of a model that was here before."""
        return self._lanes[model]

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def find(self, model: str) -> Lane | None:
        """The lane of a model, if lines of it ever were here."""
        return self._lanes.get(model)

    def open(self, model: str) -> Lane:
        """The lane of a model."""
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = Lane(model, self._ready, self._guide)
        return lane

    @property
    def ready(self) -> int:
        """Lines that wait for their turn."""
        return self._ready.lines

    def take(self, places: int) -> Iterator[tuple[Lane, LineRun]]:
        """Take out lines for so many places, each of the lane with the fewest of them among those that may ask."""
        queue = [(lane.load, number, lane) for number, lane in enumerate(self._lanes.values()) if lane.may_ask]
        heapq.heapify(queue)
        while queue and places > 0:
            _, number, lane = queue[0]
            run = lane.ask()
            if run is None:
                heapq.heappop(queue)
                continue
            places -= 1
            yield lane, run
            if lane.may_ask:
                heapq.heapreplace(queue, (lane.load, number, lane))
            else:
                heapq.heappop(queue)
