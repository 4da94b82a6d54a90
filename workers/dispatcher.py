"""Which line goes next: the places in the air of one process, shared between its lanes.

    ready ──► at the gate ──► in the air ──► recorded, settled
      ▲          │ refused       │ to be tried again
      └──────────┴───────────────┘

A free place goes to the lane that has the fewest lines in the air, so that a slow model can't fill the process; within
a lane, whose turn it is decides. Lines that wait to be tried again hold no place. Nothing is sent without a hold.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import structlog

from batchmill.config.settings import RetrySettings
from batchmill.openrouter.outcomes import Failure, Outcome, Retry
from batchmill.store.gate import Reply, Why
from batchmill.store.pauses import Pause
from batchmill.store.rules import Rules
from batchmill.store.settlement import Settlement
from batchmill.workers import booking, journey
from batchmill.workers.gatekeeper import Gatekeeper, Question
from batchmill.workers.line import Hold, LineRun, ShardRun
from batchmill.workers.places import Lane, Lanes
from batchmill.workers.reasons import Reason, reason_of
from batchmill.workers.recorder import Recorder

log = structlog.get_logger()

_SAID = 2.0  # seconds that a reason stands longer than the wait, until the next one
_MOST_BYTES = 256 << 20  # of lines here; a shard more is taken only by a lane that has none
_STARVED = 1.5  # seconds that a batch waits for a budget here, before its shards go back to their lane
_PARKED = 2.0  # seconds that nobody takes them up again
_STARVED_LOOK = 0.25

Send = Callable[[LineRun], Awaitable[Outcome]]
Blocked = Callable[[Reason, float], None]
"""Told why lines of a scope wait, and for how many seconds."""
Rest = Callable[[str, str, Failure, float | None], Awaitable[Pause]]
"""Pauses a scope for the fleet: model, scope, the refusal, seconds that it told."""


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
        rest: Rest,
    ) -> None:
        self._send = send
        self._recorder = recorder
        self._gatekeeper = gatekeeper
        self._retry = retry
        self._on_blocked = on_blocked
        self._rest = rest
        self._lanes = Lanes()
        self._bytes = 0  # of the lines of all shards here
        self._tasks: dict[asyncio.Task[None], LineRun] = {}
        self._shards: set[ShardRun] = set()
        self.concurrency = concurrency
        self.free = concurrency
        self.draining = False
        self.on_hungry: Callable[[], None] = lambda: None  # set by the watch
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
            return 0 if lane.turns else 1
        if not lane.turns and lane.here < wanted:
            return max(1, wanted - here)
        return min(wanted - here, wanted - lane.here)

    def known(self, model: str) -> list[str] | None:
        """Return the batches of a lane here, when one that is not among them is welcome; None when none is."""
        return None if self.draining or self._bytes > _MOST_BYTES else self._lanes.known(model)

    def add(self, shard: ShardRun) -> None:
        """Take a shard's lines over; `shard.ended` tells how it went."""
        self._shards.add(shard)
        size = sum(len(run.line.body) for run in shard.open_lines.values())
        self._bytes += size
        shard.ended.add_done_callback(lambda _: self._let_go(shard, size))
        self._lanes.open(shard.claim.model).turns.add(shard)
        if shard.cancelled:
            self.cancel(shard.claim.batch_id)
        elif self.draining:
            self._stop(shard)
        else:
            self.pump()

    def pump(self) -> None:
        """Have free places filled."""
        if self.draining or not self._recorder.healthy:
            return
        if self.free > 0:
            self._gatekeeper.wake()
        if self._lanes.ready < self.concurrency // 8 + 1:
            self.on_hungry()

    def questions(self) -> list[Question]:
        """Take out the lines that fill the free places, and ask for them together."""
        if self.draining or not self._recorder.healthy:
            return []
        groups: dict[int, tuple[Rules, list[LineRun]]] = {}
        for run in self._take():
            terms, batch_id = run.shard.terms, run.shard.claim.batch_id
            rules = self._gatekeeper.rules(run.shard.claim.model, terms.project, batch_id if terms.capped else None)
            groups.setdefault(rules.number, (rules, []))[1].append(run)
        return [self._gatekeeper.question(rules, runs) for rules, runs in groups.values()]

    def told(self, question: Question, reply: Reply) -> None:
        """Send what is held, and put the rest back to where it was."""
        lane = self._lanes[question.rules.model]
        refused: list[LineRun] = []
        for place, (run, hold) in enumerate(zip(question.runs, question.holds, strict=True)):
            lane.asked -= 1
            if reply.admitted(place):
                self._start(run, hold, lane)
            else:
                refused.append(run)
        for run in reversed(refused):
            self._unask(run)
            self._wait(run, lane, sent=False)
        admitted = len(question.runs) - len(refused)
        wait = lane.learn(reply, admitted)
        if refused:
            self._tell(question.rules, reply, {run.shard.claim.batch_id for run in refused}, lane)
        if reply.why is Why.BUDGET:
            self._starve(lane, [question.runs[place] for place in reply.skipped])
        elif wait:
            self._gatekeeper.wake_in(wait)
        elif lane.turns:
            self._gatekeeper.wake()

    def cancel(self, batch_id: str) -> None:
        """Record the lines of a batch that are not in the air as cancelled; the others come back as they come."""
        for shard in [shard for shard in self._shards if shard.claim.batch_id == batch_id]:
            shard.cancelled = True
            for run in self._lanes.withdraw(shard):
                self._recorder.put(shard, journey.cancelled(run), was_sent=False)
            shard.end_if_over()

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
        for task in self._tasks:
            task.cancel()

    def note_generations(self) -> None:
        """Have it kept which generation a call in the air is, where that is known by now."""
        for run in self._tasks.values():
            if run.generation is not None and run.hold is not None and not run.noted:
                run.noted = True
                self._recorder.note(run.hold.id, run.generation)

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
        self._lanes.withdraw(shard)
        shard.end_if_over()

    def _take(self) -> Iterator[LineRun]:
        """Take lines out for the free places."""
        now, dry = time.monotonic(), set[str]()
        while self.free > 0 and (lane := self._lanes.next(now, dry)) is not None:
            run = lane.turns.pop()
            if run is None:  # all that are ready wait for a budget
                dry.add(lane.model)
                continue
            lane.asked += 1
            run.shard.in_air += 1
            self.free -= 1
            yield run

    def _unask(self, run: LineRun) -> None:
        self.free += 1
        run.shard.in_air -= 1

    def _start(self, run: LineRun, hold: Hold, lane: Lane) -> None:
        if run.shard.cancelled or run.shard.stopping:  # while it was at the gate
            self._recorder.settle(hold.rules, Settlement(hold.id, run.line.bound, 0, 0))
            self._unask(run)
            self._wait(run, lane, sent=False)
            return
        lane.in_air += 1
        lane.starved.pop(run.shard.claim.batch_id, None)
        run.hold, run.generation, run.noted = hold, None, False
        self._recorder.sent(run.shard.claim.batch_id)
        task = asyncio.create_task(self._fly(run, hold))
        self._tasks[task] = run
        task.add_done_callback(self._tasks.pop)

    async def _fly(self, run: LineRun, hold: Hold) -> None:
        lane = self._lanes[run.shard.claim.model]
        try:
            outcome = await self._send(run)
        except asyncio.CancelledError:
            self._recorder.settle(hold.rules, booking.unknown(run, hold))
            journey.abandoned(run)
            self._land(run, lane)
            self._recorder.back(run.shard.claim.batch_id)
            run.shard.end_if_over()
            return
        except Exception as error:
            log.exception("send.broke", shard=run.shard.claim.reference, line=run.line.index)
            outcome = journey.broken(error)
        outcome = booking.priced(outcome, run.shard.terms)
        settlement = booking.settlement(run, hold, outcome)
        self._land(run, lane)
        rest = self._follow(run, lane, outcome)
        self._recorder.settle(hold.rules, settlement)  # after the result
        self.pump()
        if rest is not None:
            await self._rest_scope(run, lane, rest)

    def _land(self, run: LineRun, lane: Lane) -> None:
        self.free += 1
        run.hold = None
        run.shard.in_air -= 1
        lane.in_air -= 1

    def _follow(self, run: LineRun, lane: Lane, outcome: Outcome) -> journey.RestScope | None:
        match journey.judge(run, outcome, self._retry):
            case journey.Settled(result):
                self._recorder.put(run.shard, result)
            case journey.TryAgain(failure, delay):
                self._recorder.back(run.shard.claim.batch_id)
                self._wait(run, lane, delay)
                if lane.waiting and not lane.turns and not lane.in_air:
                    text = f"{lane.model} fails ({failure.code}), trying again"
                    self._on_blocked(Reason(lane.model, "retry", text), delay + _SAID)
            case journey.RestScope() as rest:
                self._recorder.back(run.shard.claim.batch_id)
                return rest
        return None

    async def _rest_scope(self, run: LineRun, lane: Lane, rest: journey.RestScope) -> None:
        """Have the fleet pause what the refusal covers; only then the line waits for its turn again."""
        failure, scope = rest.failure, journey.scope_of(lane.model, rest.failure)
        run.shard.in_air += 1  # still ours: the shard must not end meanwhile
        try:
            pause = await self._rest(lane.model, scope, failure, rest.delay)
        finally:
            run.shard.in_air -= 1
            self._wait(run, lane)
        self._on_blocked(Reason(scope, "pause", _refusal(scope, failure)), pause.seconds)
        if pause.begun:
            seconds = round(pause.seconds, 1)
            log.warning("scope.rests", scope=scope, seconds=seconds, code=failure.code, status=failure.status)

    def _tell(self, rules: Rules, reply: Reply, batch_ids: set[str], lane: Lane) -> None:
        for batch_id in batch_ids:
            reason = reason_of(rules, reply, batch_id)
            if reason is not None and not lane.in_air:
                self._on_blocked(reason, _PARKED + 2 * _SAID)

    def _starve(self, lane: Lane, runs: Sequence[LineRun]) -> None:
        """Let batches wait for a budget; for long, somewhere else: their shards go back, their places are others'."""
        for batch_id in {run.shard.claim.batch_id for run in runs}:
            own = [shard for shard in self._shards if shard.claim.batch_id == batch_id]
            here = [shard for shard in own if shard.claim.model == lane.model]
            if lane.starve(batch_id) < _STARVED or any(shard.in_air for shard in own):
                lane.turns.block(batch_id, time.monotonic() + _STARVED_LOOK)
                self._gatekeeper.wake_in(_STARVED_LOOK)
                continue
            lane.starved.pop(batch_id, None)
            for shard in here:
                shard.parked = _PARKED
                self._stop(shard)

    def _settled(self, models: set[str]) -> None:
        """Places and money came back: who waited for either may ask again."""
        for lane in self._lanes:
            lane.feed(landed=lane.model in models)
        self.pump()

    def _wait(self, run: LineRun, lane: Lane, delay: float = 0.0, *, sent: bool = True) -> None:
        """Have a line sent again after a delay; with none, as soon as its lane may."""
        shard = run.shard
        if shard.cancelled:
            self._recorder.put(shard, journey.cancelled(run), was_sent=False)
        elif shard.stopping:
            shard.end_if_over()
        elif delay:
            lane.waiting[run] = asyncio.get_running_loop().call_later(delay, self._ready_again, run, lane)
        else:
            lane.turns.push_back(run, was_sent=sent)

    def _ready_again(self, run: LineRun, lane: Lane) -> None:
        del lane.waiting[run]
        lane.turns.push_back(run, was_sent=True)
        self.pump()


def _refusal(scope: str, failure: Failure) -> str:
    what = "the upstream refuses the account" if failure.retry is Retry.ACCOUNT else f"limit of {scope}"
    return f"{what}: {failure.message}"
