"""Which line goes next: the places in the air of one process, shared between its lanes.

A free place goes to the lane that has the fewest lines in the air, so that a slow model can't fill the process.
Lines that wait to be tried again hold no place.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from batchmill.config.settings import RetrySettings
from batchmill.openrouter.outcomes import Answer, Failure, Outcome, Retry
from batchmill.workers import journey
from batchmill.workers.line import LineRun, ShardRun
from batchmill.workers.pacing import Pacing, Share
from batchmill.workers.recorder import Recorder

log = structlog.get_logger()

_SAID = 2.0  # seconds that a reason stands longer than the wait, until the next one
_MOST_BYTES = 256 << 20  # of lines here; a shard more is taken only by a lane that has none

Send = Callable[[bytes], Awaitable[Outcome]]
Blocked = Callable[[str, str, float], None]
"""Told why lines of a scope wait: scope, reason, seconds."""


class Lane:
    """The lines of one model in this process."""

    __slots__ = ("in_air", "model", "ready", "share", "waiting")

    def __init__(self, model: str, ceiling: int) -> None:
        self.model = model
        self.ready: deque[LineRun] = deque()
        self.waiting: dict[LineRun, asyncio.TimerHandle] = {}  # lines to be tried again
        self.in_air = 0
        self.share = Share(ceiling)


class Dispatcher:
    """Sends lines, as many at once as there are places. Everything happens on one event loop; no locks."""

    def __init__(
        self, send: Send, recorder: Recorder, retry: RetrySettings, *, concurrency: int, on_blocked: Blocked
    ) -> None:
        self._send = send
        self._recorder = recorder
        self._retry = retry
        self._on_blocked = on_blocked
        self._pacing = Pacing()
        self._lanes: dict[str, Lane] = {}
        self._ready = 0  # lines of all lanes that wait for a place
        self._bytes = 0  # of the lines of all shards here
        self._tasks: set[asyncio.Task[None]] = set()
        self._shards: set[ShardRun] = set()
        self.concurrency = concurrency
        self.free = concurrency
        self.draining = False
        self.on_hungry: Callable[[], None] = lambda: None  # set by the watch
        recorder.on_healthy = self.pump

    def room(self, model: str) -> int:
        """Return how many more lines of the model are worth having here, so that no place waits for Redis."""
        lane = self._lanes.get(model)
        if self.draining or not self._recorder.healthy or self._pacing.rests(model):
            return 0
        wanted = self.concurrency + self.concurrency // 4 + 1
        here = self.in_air + self._ready
        if lane is None:
            return max(1, wanted - here)  # another lane's backlog must not keep a model out
        if self._bytes > _MOST_BYTES:
            return 0
        own = len(lane.ready) + lane.in_air + len(lane.waiting)
        if not lane.ready and own < wanted:
            return max(1, wanted - here)
        return min(wanted - here, wanted - own)

    def add(self, shard: ShardRun) -> None:
        """Take a shard's lines over; `shard.ended` tells how it went."""
        self._shards.add(shard)
        size = sum(len(run.line.body) for run in shard.open_lines.values())
        self._bytes += size
        shard.ended.add_done_callback(lambda _: self._let_go(shard, size))
        lane = self._lanes.setdefault(shard.claim.model, Lane(shard.claim.model, self.concurrency))
        lane.ready.extend(shard.open_lines.values())
        self._ready += len(shard.open_lines)
        if shard.cancelled:
            self.cancel(shard.claim.batch_id)
        elif self.draining:
            self._stop(shard)
        else:
            self.pump()

    def pump(self) -> None:
        """Fill the free places."""
        if self.draining or not self._recorder.healthy:
            return
        while self.free > 0 and (run := self._next()) is not None:
            self._start(run)
        if self._ready < self.concurrency // 8 + 1:
            self.on_hungry()

    def cancel(self, batch_id: str) -> None:
        """Record the lines of a batch that are not in the air as cancelled; the others come back as they come."""
        for shard in [shard for shard in self._shards if shard.claim.batch_id == batch_id]:
            shard.cancelled = True
            for run in self._withdraw(shard):
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

    @property
    def in_air(self) -> int:
        """Lines in the air."""
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
        self._withdraw(shard)
        shard.end_if_over()

    def _withdraw(self, shard: ShardRun) -> list[LineRun]:
        """Take a shard's lines that are not in the air out of their lane."""
        lane = self._lanes[shard.claim.model]
        withdrawn = [run for run in lane.ready if run.shard is shard]
        if withdrawn:
            lane.ready = deque(run for run in lane.ready if run.shard is not shard)
            self._ready -= len(withdrawn)
        for run in [run for run in lane.waiting if run.shard is shard]:
            lane.waiting.pop(run).cancel()
            withdrawn.append(run)
        return withdrawn

    def _next(self) -> LineRun | None:
        best: Lane | None = None
        for lane in self._lanes.values():
            if not lane.ready or lane.in_air >= lane.share.limit or (best and best.in_air <= lane.in_air):
                continue
            if not self._pacing.rests(lane.model):
                best = lane
        if best is None:
            return None
        self._ready -= 1
        return best.ready.popleft()

    def _start(self, run: LineRun) -> None:
        self.free -= 1
        run.shard.in_air += 1
        self._lanes[run.shard.claim.model].in_air += 1
        self._recorder.sent(run.shard.claim.batch_id)
        task = asyncio.create_task(self._fly(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self, run: LineRun) -> None:
        lane = self._lanes[run.shard.claim.model]
        try:
            outcome = await self._send(run.line.body)
        except asyncio.CancelledError:
            journey.abandoned(run)
            self._land(run, lane)
            self._recorder.back(run.shard.claim.batch_id)
            run.shard.end_if_over()
            return
        except Exception as error:
            log.exception("send.broke", shard=run.shard.claim.reference, line=run.line.index)
            outcome = journey.broken(error)
        self._land(run, lane)
        self._follow(run, lane, outcome)
        self.pump()

    def _land(self, run: LineRun, lane: Lane) -> None:
        self.free += 1
        run.shard.in_air -= 1
        lane.in_air -= 1

    def _follow(self, run: LineRun, lane: Lane, outcome: Outcome) -> None:
        if isinstance(outcome, Answer):
            lane.share.grow()
            self._pacing.succeeded(lane.model)
        match journey.judge(run, outcome, self._retry):
            case journey.Settled(result):
                self._recorder.put(run.shard, result)
            case journey.TryAgain(failure, delay):
                self._recorder.back(run.shard.claim.batch_id)
                self._wait(run, lane, delay)
                if lane.waiting and not lane.ready and not lane.in_air:
                    self._on_blocked(lane.model, f"{lane.model} fails ({failure.code}), trying again", delay + _SAID)
            case journey.RestScope(failure, delay):
                self._recorder.back(run.shard.claim.batch_id)
                self._rest(lane, failure, delay)
                self._wait(run, lane, 0.0)

    def _rest(self, lane: Lane, failure: Failure, delay: float | None) -> None:
        rested = self._pacing.refuse(lane.model, failure, delay)
        if rested is None:
            return
        self._on_blocked(rested.scope, _reason(rested.scope, failure), rested.seconds)
        if not rested.begun:
            return
        if failure.retry is Retry.LATER:
            lane.share.cut(lane.in_air)
        seconds = round(rested.seconds, 1)
        log.warning("scope.rests", scope=rested.scope, seconds=seconds, code=failure.code, status=failure.status)
        asyncio.get_running_loop().call_later(rested.seconds, self._rest_over, lane.model)

    def _rest_over(self, model: str) -> None:
        """Go on, unless the rest has grown since, or the timer was early (uvloop's are, by up to a millisecond)."""
        left = self._pacing.rests(model)
        if left > 0:
            asyncio.get_running_loop().call_later(left + 0.001, self._rest_over, model)
        else:
            self.pump()

    def _wait(self, run: LineRun, lane: Lane, delay: float) -> None:
        """Have a line sent again after a delay; with none, as soon as its lane may."""
        shard = run.shard
        if shard.cancelled:
            self._recorder.put(shard, journey.cancelled(run), was_sent=False)
        elif shard.stopping:
            shard.end_if_over()
        elif delay:
            lane.waiting[run] = asyncio.get_running_loop().call_later(delay, self._ready_again, run, lane)
        else:
            lane.ready.appendleft(run)
            self._ready += 1

    def _ready_again(self, run: LineRun, lane: Lane) -> None:
        del lane.waiting[run]
        lane.ready.appendleft(run)
        self._ready += 1
        self.pump()


def _reason(scope: str, failure: Failure) -> str:
    what = "the upstream refuses the account" if failure.retry is Retry.ACCOUNT else f"limit of {scope}"
    return f"{what}: {failure.message}"
