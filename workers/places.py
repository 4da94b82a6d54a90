"""The lanes of one process: their lines in the order of their turn, and what the gate last said about them."""

import asyncio
import time
from collections.abc import Collection, Iterator

from batchmill.store.gate import NEVER, Reply, Why
from batchmill.workers.line import LineRun, ShardRun
from batchmill.workers.turns import Turns

WIDEST = 256
"""Lines of a lane that one call of the gate is asked about, at most."""

_LONGEST_BLOCK = 2.0  # seconds until we ask again, whatever we were told: limits may be changed meanwhile
_UNKNOWN_WAIT = 0.25
_FEED_EVERY = 0.1
_MOST_STRANGERS = 16  # batches of one lane here, when its limits let little through
_AT_ONCE = (Why.NOTHING, Why.POLICY, Why.WINDOW, Why.BUDGET)


class Lane:
    """The lines of one model in this process. `width` narrows when the gate refuses and widens when it does not."""

    __slots__ = ("asked", "fed", "in_air", "landing", "model", "starved", "turns", "until", "waiting", "width")

    def __init__(self, model: str) -> None:
        self.model = model
        self.turns = Turns()
        self.waiting: dict[LineRun, asyncio.TimerHandle] = {}  # lines to be tried again
        self.in_air = 0
        self.asked = 0  # lines at the gate
        self.until = 0.0  # monotonic; nothing is asked before
        self.landing = False  # what is waited for may come with a line that lands
        self.width = WIDEST
        self.starved: dict[str, float] = {}  # batch that a budget holds up -> since when (monotonic)
        self.fed = 0.0

    @property
    def limited(self) -> bool:
        """Whether the gate lets less through than there is: then more lines here are of no use."""
        return self.width < WIDEST

    @property
    def here(self) -> int:
        """Lines that are here, wherever."""
        return len(self.turns) + self.asked + self.in_air + len(self.waiting)

    def may_ask(self, now: float) -> bool:
        """Whether a line of it may be asked for now."""
        return self.asked < self.width and self.until <= now and len(self.turns) > 0

    def learn(self, reply: Reply, admitted: int) -> float:
        """Take the gate's answer to heart; return in how many seconds to ask again (0: at once)."""
        self.landing = False
        if reply.why in _AT_ONCE:
            if reply.why is Why.NOTHING:
                self.width = min(WIDEST, 2 * self.width)
            self.until = 0.0
            return 0.0
        self.width = max(1, min(self.width, 2 * admitted))
        self.landing = reply.wait == NEVER
        wait = _UNKNOWN_WAIT if reply.wait == NEVER else min(_LONGEST_BLOCK, reply.wait / 1000)
        self.until = time.monotonic() + wait
        return wait

    def starve(self, batch_id: str) -> float:
        """Note that a budget holds up a batch; return for how many seconds it has."""
        now = time.monotonic()
        return now - self.starved.setdefault(batch_id, now)

    def feed(self, *, landed: bool) -> None:
        """Let what waited for places or money be asked for again: some came back. `landed`: of this lane's own."""
        if landed and self.landing:
            self.until = 0.0
        now = time.monotonic()
        if self.starved and now - self.fed > _FEED_EVERY:
            self.fed = now
            for batch_id in self.starved:
                self.turns.block(batch_id, 0.0)


class Lanes:
    """All lanes of the process, and which of them is next."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}

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
        return self._lanes.setdefault(model, Lane(model))

    @property
    def ready(self) -> int:
        """Lines that wait for their turn."""
        return sum(len(lane.turns) for lane in self._lanes.values())

    def next(self, now: float, dry: Collection[str]) -> Lane | None:
        """The lane with the fewest lines in the air among those that may ask; not one of the `dry`."""
        best: Lane | None = None
        for lane in self._lanes.values():
            if (best is None or lane.in_air + lane.asked < best.in_air + best.asked) and lane.may_ask(now):
                best = lane if lane.model not in dry else best
        return best

    def withdraw(self, shard: ShardRun) -> list[LineRun]:
        """Take a shard's lines that are neither in the air nor at the gate out of their lane."""
        lane = self._lanes[shard.claim.model]
        withdrawn = lane.turns.withdraw(shard)
        for run in [run for run in lane.waiting if run.shard is shard]:
            lane.waiting.pop(run).cancel()
            withdrawn.append(run)
        return withdrawn

    def known(self, model: str) -> list[str] | None:
        """Return the batches of a lane here, when one that is not among them is welcome; None when none is.

        A lane whose limits let little through takes few lines in; but no batch may wait behind another's backlog.
        """
        lane = self._lanes.get(model)
        if lane is None or not lane.limited:
            return None
        batches = lane.turns.batches()
        return sorted(batches) if 0 < len(batches) < _MOST_STRANGERS else None
