"""Which line goes next: the places in the air of one process, shared between its lanes.

    ready ──► at the gate ──► in the air ──► recorded, settled
      ▲          │ refused       │ to be tried again
      └──────────┴───────────────┘

A free place goes to the lane that has the fewest lines in the air, so that a slow model can't fill the process; within
a lane, whose turn it is decides. Lines that wait to be tried again hold no place. Nothing is sent without a hold.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from batchmill.config.settings import RetrySettings
from batchmill.openrouter.outcomes import Outcome
from batchmill.store.gate import Reply, Why
from batchmill.store.model import LineState, Result
from batchmill.store.rules import Rules
from batchmill.store.settlement import Settlement
from batchmill.workers import journey
from batchmill.workers.flights import SAID, Blocked, Flights, Observe, Restraint, Send
from batchmill.workers.gatekeeper import Gatekeeper, Question
from batchmill.workers.line import Hold, LineRun, ShardRun
from batchmill.workers.places import Lane, Lanes
from batchmill.workers.reasons import as_asked, reason_of
from batchmill.workers.recorder import Recorder
from batchmill.workers.roads import Guide, NoOutlook, Outlook, trouble_at_gate

_MOST_BYTES = 256 << 20  # of lines here; a shard more is taken only by a lane that has none
_STARVED = 1.5  # seconds that a batch waits for a budget here, before its shards go back to their lane
_PARKED = 2.0  # seconds that nobody takes them up again
_REFUSED = 4.0  # seconds that a reason of the gate stands; it is asked again before

Landed = Callable[[LineRun, Outcome | None], None]
"""Told a line that has a place no more, and the outcome of its call, if there was one."""


class Dispatcher:
    """Sends lines, as many at once as there are places. Everything happens on one event loop; no locks."""

    def __init__(
        self,
        send: Send,
        recorder: Recorder,
        gatekeeper: Gatekeeper,
        retry: RetrySettings,
        *,
        concurrency: int,
        on_blocked: Blocked,
        restraint: Restraint,
        outlook: Outlook | None = None,
        observe: Observe = lambda _model, _outcome: None,
    ) -> None:
        self._recorder = recorder
        self._gatekeeper = gatekeeper
        self._on_blocked = on_blocked
        self._flights = Flights(
            send, recorder, retry, self, on_blocked=on_blocked, restraint=restraint, observe=observe
        )
        self._lanes = Lanes(
            Guide(
                outlook or NoOutlook(),
                gatekeeper.now,
                lambda: gatekeeper.rulebook.policy.policy.routing.prefer_models,
            )
        )
        self._bytes = 0  # of the lines of all shards here
        self._shards: set[ShardRun] = set()
        self.concurrency = concurrency
        self.free = concurrency
        self.draining = False
        self.on_hungry: Callable[[], None] = lambda: None  # set by the watch
        self.on_short: Callable[[str], None] = lambda _: None  # told the model; set by the watch
        self.on_landed: Landed = lambda _run, _outcome: None  # set by who keeps answers
        self.on_begun: Callable[[LineRun], None] = lambda _: None  # set by who counts
        self.on_refused: Callable[[Why], None] = lambda _: None  # likewise
        recorder.on_healthy = self.pump
        recorder.on_settled = self._settled

    def room(self, model: str) -> int:
        """Return how many more lines of the model are worth having here, so that no place waits for Redis."""
        lane = self._lanes.find(model)
        if self.draining or not self._recorder.healthy:
            return 0
        wanted = self.concurrency + self.concurrency // 4 + 1
        here = self.in_air + self._lanes.ready
        if lane is None:
            return max(1, wanted - here)  # another lane's backlog must not keep a model out
        if self._bytes > _MOST_BYTES:
            return 0
        if lane.limited:
            return 0 if lane.ready else 1
        if not lane.ready and lane.here < wanted:
            return max(1, wanted - here)
        return min(wanted - here, wanted - lane.here)

    def known(self, model: str) -> list[str] | None:
        """Return the batches of a lane here, when one that is not among them is welcome; None when none is."""
        lane = self._lanes.find(model)
        if lane is None or self.draining or not self._recorder.healthy or self._bytes > _MOST_BYTES:
            return None
        return lane.known()

    def add(self, shard: ShardRun) -> None:
        """Take a shard's lines over; `shard.ended` tells how it went."""
        self._shards.add(shard)
        size = sum(len(run.line.body) for run in shard.open_lines.values())
        self._bytes += size
        shard.ended.add_done_callback(lambda _: self._let_go(shard, size))
        self._lanes.open(shard.claim.model).add(shard)
        if shard.unsent is not None:
            self.stop(shard.claim.batch_id, shard.unsent)
        elif self.draining:
            self._stop(shard)
        else:
            self.pump()

    def pump(self) -> None:
        """Have free places filled."""
        if self.free > 0 and not self.draining and self._recorder.healthy:
            self._gatekeeper.wake()

    def hurry(self) -> None:
        """Have the gate asked at once."""
        if not self.draining and self._recorder.healthy:
            self._gatekeeper.hurry()

    def questions(self) -> list[Question]:
        """Take out the lines that fill the free places, and ask for them together."""
        if self.draining or not self._recorder.healthy:
            return []
        groups: dict[tuple[str, int], tuple[Rules, list[LineRun]]] = {}
        for lane, run in self._take():
            terms, batch_id = run.shard.terms, run.shard.claim.batch_id
            rules = self._gatekeeper.rules(run.model, terms.project, batch_id if terms.capped else None, terms.key)
            groups.setdefault((lane.model, rules.number), (rules, []))[1].append(run)
        if self._lanes.ready < self.concurrency // 8 + 1:
            self.on_hungry()
        return [self._gatekeeper.question(rules, runs) for rules, runs in groups.values()]

    def told(self, question: Question, reply: Reply) -> None:
        """Send what is held, and put the rest back to where it was."""
        lane, rules, skipped = self._lanes[question.lane], question.rules, frozenset(reply.skipped)
        lane.answered(rules.model, len(question.runs))
        refused: list[LineRun] = []
        starved: list[LineRun] = []
        for place, (run, hold) in enumerate(zip(question.runs, question.holds, strict=True)):
            if place < reply.looked and place not in skipped:
                self._start(run, hold, lane)
                continue
            refused.append(run)
            if place in skipped and (run.trip is None or not run.trip.broke()):
                starved.append(run)
        for run in reversed(refused):
            self._unask(run, lane)
        if refused:
            self.on_refused(reply.why)
        admitted = len(question.runs) - len(refused)
        lane.valve(rules.model).learn(reply, admitted, self._gatekeeper.wake, trouble_at_gate(rules, reply))
        if starved:
            self._starve(lane, rules, reply, starved)
        if refused and reply.why is not Why.BUDGET and not lane.in_air:
            self._say(rules, reply, refused[0])
        if self._lanes.ready:
            self.pump()  # for the lanes that had to leave their places to the refused

    def stop(self, batch_id: str, unsent: LineState) -> None:
        """Record the lines of a batch that are not in the air as cancelled or expired.

        The others come back as they come; but streamed calls of a cancelled batch are hung up.
        """
        for shard in [shard for shard in self._shards if shard.claim.batch_id == batch_id]:
            shard.unsent = unsent
            for run in self._lanes[shard.claim.model].withdraw(shard):
                self._recorder.put(shard, journey.unsent(run, unsent), was_sent=False)
            shard.end_if_over()
        if unsent is LineState.CANCELLED:
            self._flights.hang_up(batch_id)

    def lose(self, shard: ShardRun) -> None:
        """Begin nothing more of a shard that is another worker's now; what is in the air is recorded as it comes."""
        self._stop(shard)

    def drain(self) -> None:
        """Begin nothing more at all."""
        self.draining = True
        for shard in list(self._shards):
            self._stop(shard)

    def abandon(self) -> None:
        """Give up what is in the air; its outcome stays unknown."""
        self._flights.abandon()

    def note_generations(self) -> None:
        """Have it kept which generation a call in the air is, where that is known by now."""
        self._flights.note_generations()

    def landed(self, run: LineRun, outcome: Outcome | None) -> None:
        """Take a place back."""
        self.free += 1
        self.on_landed(run, outcome)

    def aside(self, question: Question, run: LineRun, result: Result | None) -> None:
        """Take a line off the way to the gate: with its result, or to wait for another line's answer."""
        lane, shard = self._lanes[question.lane], run.shard
        lane.answered(question.rules.model, 1)
        if shard.unsent or shard.stopping:  # while it was looked up
            self._unask(run, lane)
            return
        self.free += 1
        shard.in_air -= 1
        if not lane.has(shard.claim.batch_id):
            lane.sated(shard.claim.batch_id)
        if result is None:
            lane.following[run] = None
        else:
            self._recorder.put(shard, result, was_sent=False)

    def resume(self, run: LineRun) -> bool:
        """Have a line that waits for another's answer take its turn again; False when it waits no more."""
        return self._lanes[run.shard.claim.model].resume(run)

    def wait(self, run: LineRun, lane: Lane, delay: float = 0.0, *, sent: bool = True) -> None:
        """Have a line sent again after a delay; with none, as soon as its lane may."""
        shard = run.shard
        if shard.unsent is not None:
            self._recorder.put(shard, journey.unsent(run, shard.unsent), was_sent=False)
        elif shard.stopping:
            shard.end_if_over()
        elif delay:
            lane.waiting[run] = asyncio.get_running_loop().call_later(delay, self._ready_again, run, lane)
        else:
            lane.push_back(run, was_sent=sent)

    @property
    def in_air(self) -> int:
        """Lines in the air, or at the gate."""
        return self.concurrency - self.free

    @property
    def busy(self) -> bool:
        """Whether any shard has not ended."""
        return bool(self._shards)

    def shards(self) -> list[ShardRun]:
        """Return the shards that have not ended."""
        return list(self._shards)

    def _let_go(self, shard: ShardRun, size: int) -> None:
        self._shards.discard(shard)
        self._bytes -= size

    def _stop(self, shard: ShardRun) -> None:
        shard.stopping = True
        self._lanes[shard.claim.model].withdraw(shard)
        shard.end_if_over()

    def _take(self) -> Iterator[tuple[Lane, LineRun]]:
        for lane, run in self._lanes.take(self.free):
            run.shard.in_air += 1
            self.free -= 1
            yield lane, run

    def _unask(self, run: LineRun, lane: Lane) -> None:
        self.landed(run, None)
        run.shard.in_air -= 1
        self.wait(run, lane, sent=False)

    def _start(self, run: LineRun, hold: Hold, lane: Lane) -> None:
        if run.shard.unsent or run.shard.stopping:  # while it was at the gate
            self._recorder.settle(hold.rules, Settlement(hold.id, run.bound, 0, 0))
            self._unask(run, lane)
            return
        lane.sated(run.shard.claim.batch_id)
        if run.trip is not None:
            run.trip.admitted()
        self.on_begun(run)
        self._flights.begin(run, hold, lane)
        if lane.short_of(run):
            self.on_short(lane.model)

    def _say(self, rules: Rules, reply: Reply, run: LineRun) -> None:
        upstream = self._gatekeeper.rulebook.upstream
        reason = reason_of(rules, reply, run.shard.claim.batch_id, run.bound, upstream)
        if reason is not None:
            self._on_blocked(as_asked(reason, run), _REFUSED + SAID)

    def _starve(self, lane: Lane, rules: Rules, reply: Reply, runs: Iterable[LineRun]) -> None:
        """Let batches wait for a budget; for long, somewhere else: their shards go back, their places are others'."""
        starved = {run.shard.claim.batch_id: run for run in runs}
        for batch_id, run in starved.items():
            if not lane.has(batch_id):  # its shard was cancelled, lost or stopped while it was at the gate
                lane.sated(batch_id)
                continue
            seconds = lane.starve(batch_id, self._gatekeeper.wake)
            own = [shard for shard in self._shards if shard.claim.batch_id == batch_id]
            if any(shard.in_air for shard in own):
                continue  # what lands brings money back
            if reply.why is Why.BUDGET:
                self._say(rules, reply, run)
            if seconds < _STARVED:
                continue
            lane.sated(batch_id)
            for shard in [shard for shard in own if shard.claim.model == lane.model]:
                shard.parked = _PARKED
                self._stop(shard)

    def _settled(self, models: set[str]) -> None:
        """Places and money came back: who waited for either may ask again."""
        for lane in self._lanes:
            lane.landed(models)
            lane.feed()
        self.pump()

    def _ready_again(self, run: LineRun, lane: Lane) -> None:
        del lane.waiting[run]
        lane.push_back(run, was_sent=True)
        self.pump()
