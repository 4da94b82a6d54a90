"""The lanes of one process: their lines in the order of their turn, and what the gate last said about them.

A wait ends by its timer or by what was waited for, never by a look at a clock: a timer may come before its time.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Iterator

from batchmill.store.gate import NEVER, Reply, Why
from batchmill.workers.line import LineRun, ShardRun
from batchmill.workers.turns import Turns

WIDEST = 256
"""Lines of a lane that one call of the gate is asked about, at most."""

_LONGEST_BLOCK = 2.0  # seconds until we ask again, whatever we were told: limits may be changed meanwhile
_UNKNOWN_WAIT = 0.25
_STARVED_LOOK = 0.25
_STARVED_SLACK = 0.05  # by how much a block outlasts the timer that ends it
_FEED_EVERY = 0.1
_FEW = 4  # lines of a batch that are as good as none when the next shard takes a round trip or two
_MOST_STRANGERS = 16  # batches of one lane here, when its limits let little through
_AT_ONCE = (Why.NOTHING, Why.POLICY, Why.WINDOW, Why.BUDGET)

Wake = Callable[[], None]


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
    """The lines of one model in this process. `width` narrows when the gate refuses and widens when it does not."""

    __slots__ = (
        "_fed", "_landing", "_ready", "_rest", "_starved", "_turns", "asked", "in_air", "model", "waiting", "width",
    )  # fmt: skip

    def __init__(self, model: str, ready: Count) -> None:
        self.model = model
        self.waiting: dict[LineRun, asyncio.TimerHandle] = {}  # lines to be tried again
        self.in_air = 0
        self.asked = 0  # lines at the gate
        self.width = WIDEST
        self._ready = ready
        self._turns = Turns()
        self._rest: asyncio.TimerHandle | None = None  # nothing is asked until it ends
        self._landing = False  # what is waited for may come with a line that lands
        self._starved: dict[str, _Starved] = {}
        self._fed = 0.0

    @property
    def ready(self) -> int:
        """Lines that wait for their turn, those of batches that a budget holds up too."""
        return len(self._turns)

    @property
    def limited(self) -> bool:
        """Whether the gate lets less through than there is: then more lines here are of no use."""
        return self.width < WIDEST

    @property
    def here(self) -> int:
        """Lines that are here, wherever."""
        return self.ready + self.asked + self.in_air + len(self.waiting)

    @property
    def load(self) -> int:
        """Places that it has."""
        return self.in_air + self.asked

    @property
    def may_ask(self) -> bool:
        """Whether a line of it may be asked for now."""
        return self._rest is None and self.asked < self.width and self.ready > 0

    def add(self, shard: ShardRun) -> None:
        """Take in a shard's lines."""
        self._turns.add(shard)
        self._ready.lines += len(shard.open_lines)

    def pop(self) -> LineRun | None:
        """Take out the line whose turn it is; None when all that are ready wait for a budget."""
        run = self._turns.pop()
        self._ready.lines -= run is not None
        return run

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
        batch_id = shard.claim.batch_id
        if batch_id in self._starved and not self.has(batch_id):
            self.sated(batch_id)
        return withdrawn

    def learn(self, reply: Reply, admitted: int, wake: Wake) -> None:
        """Take the gate's answer to heart: ask for fewer lines, and not before it is of use."""
        self._end_rest()
        if reply.why in _AT_ONCE:
            if reply.why is Why.NOTHING:
                self.width = min(WIDEST, 2 * self.width)
            return
        self.width = max(1, min(self.width, 2 * admitted))
        self._landing = reply.wait == NEVER
        wait = _UNKNOWN_WAIT if reply.wait == NEVER else min(_LONGEST_BLOCK, reply.wait / 1000)
        self._rest = asyncio.get_running_loop().call_later(wait, self._rested, wake)

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

    def landed(self) -> None:
        """Note that a line came back and is settled: if places were waited for, there may be one."""
        if self._landing:
            self._end_rest()

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

    def _rested(self, wake: Wake) -> None:
        self._rest = None
        wake()

    def _end_rest(self) -> None:
        self._landing = False
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _look_again(self, batch_id: str, wake: Wake) -> None:
        self._turns.block(batch_id, 0.0)
        wake()


class Lanes:
    """All lanes of the process, and which of them is next."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._ready = Count()

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
            lane = self._lanes[model] = Lane(model, self._ready)
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
            run = lane.pop()
            if run is None:
                heapq.heappop(queue)
                continue
            lane.asked += 1
            places -= 1
            yield lane, run
            if lane.may_ask:
                heapq.heapreplace(queue, (lane.load, number, lane))
            else:
                heapq.heappop(queue)
