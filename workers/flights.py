"""Lines in the air: a call begins with a hold and ends with exactly one settlement, whatever comes between.

held ──► sent ──► outcome ──► a result to record ─────┐
                    │   └───► to be tried again ──────┼──► settled, the place is free
                    └── given up: its fate is unknown ┘
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from batchmill.config.settings import RetrySettings
from batchmill.openrouter.outcomes import Failure, Outcome, Retry
from batchmill.store.pauses import Pause
from batchmill.store.settlement import Settlement
from batchmill.workers import booking, journey
from batchmill.workers.line import Hold, LineRun
from batchmill.workers.places import Lane
from batchmill.workers.reasons import Reason
from batchmill.workers.recorder import Recorder

log = structlog.get_logger()

_OVERLOADED = 529
SAID = 2.0
"""Seconds that a reason stands longer than the wait, until the next one is said."""

Send = Callable[[LineRun], Awaitable[Outcome]]
Blocked = Callable[[Reason, float], None]
"""Told why lines of a scope wait, and for how many seconds."""

Observe = Callable[[str, Outcome], None]
"""Told the model of a call, and how the call ended; must not raise."""


class Restraint(Protocol):
    """How the whole fleet holds back after a refusal."""

    async def rest(self, model: str, scope: str, failure: Failure, seconds: float | None) -> Pause:
        """Pause a scope, for as long as the upstream told."""

    async def slow_down(self, model: str) -> None:
        """Send less to a model at once: it is overloaded."""


class Ground(Protocol):
    """Where lines come from and go back to: the dispatcher."""

    def landed(self, run: LineRun, outcome: Outcome | None) -> None:
        """Take a place back; None is the outcome of a call that was given up."""

    def wait(self, run: LineRun, lane: Lane, delay: float = 0.0, *, sent: bool = True) -> None:
        """Have a line sent again after a delay, if it is still to be."""

    def pump(self) -> None:
        """Have free places filled."""

    def hurry(self) -> None:
        """Have them filled at once."""


class Flights:
    """The calls of one process."""

    def __init__(
        self,
        send: Send,
        recorder: Recorder,
        retry: RetrySettings,
        ground: Ground,
        *,
        on_blocked: Blocked,
        restraint: Restraint,
        observe: Observe,
    ) -> None:
        self._send = send
        self._observe = observe
        self._recorder = recorder
        self._retry = retry
        self._ground = ground
        self._on_blocked = on_blocked
        self._restraint = restraint
        self._tasks: dict[asyncio.Task[None], tuple[LineRun, Lane]] = {}

    def begin(self, run: LineRun, hold: Hold, lane: Lane) -> None:
        """Send a line that is held."""
        run.hold, run.generation, run.noted = hold, None, False
        run.streamed, run.told = False, None
        lane.in_air += 1
        self._recorder.sent(run.shard.claim.batch_id)
        task = asyncio.create_task(self._fly(run, hold, lane))
        self._tasks[task] = (run, lane)
        task.add_done_callback(self._over)

    def abandon(self) -> None:
        """Give up what is in the air; its outcome stays unknown."""
        for task in self._tasks:
            task.cancel()

    def hang_up(self, batch_id: str) -> None:
        """Give up the streamed calls of a batch: only these end, and cost nothing more, when nobody listens."""
        for task, (run, _) in self._tasks.items():
            if run.streamed and run.hold and run.shard.claim.batch_id == batch_id and not task.cancelling():
                task.cancel()

    def note_generations(self) -> None:
        """Have it kept which generation a call in the air is, where that is known by now."""
        for run, _ in self._tasks.values():
            if run.generation is not None and run.hold is not None and not run.noted:
                run.noted = True
                self._recorder.note(run.hold.id, run.generation)

    async def _fly(self, run: LineRun, hold: Hold, lane: Lane) -> None:
        try:
            outcome = await self._send(run)
        except Exception as error:
            log.exception("send.broke", shard=run.shard.claim.reference, line=run.line.index)
            outcome = journey.broken(error)
        self._observe(hold.rules.model, outcome)
        told, outcome = outcome.cost, booking.priced(outcome, run.pricing)
        settlement, model = self._settlement(run, hold, outcome, computed=outcome.cost != told), run.model
        self._land(run, lane, outcome)
        rest = self._follow(run, lane, outcome)
        self._recorder.settle(hold.rules, settlement)  # after the result
        self._ground.pump()
        if rest is not None:
            await self._rest_scope(run, lane, rest)
        elif isinstance(outcome, Failure) and outcome.status == _OVERLOADED:
            await self._restraint.slow_down(model)

    def _settlement(self, run: LineRun, hold: Hold, outcome: Outcome, *, computed: bool) -> Settlement:
        return booking.settlement(run, hold, outcome, computed=computed, user_key=self._recorder.user_key)

    def _over(self, task: "asyncio.Task[None]") -> None:
        """See to a call that was given up, also to one that had not begun yet."""
        run, lane = self._tasks.pop(task)
        hold = run.hold
        if hold is None or not task.cancelled():
            return
        self._recorder.settle(hold.rules, booking.unknown(run, hold, self._recorder.user_key))
        journey.abandoned(run)
        self._land(run, lane, None)
        self._recorder.back(run.shard.claim.batch_id)
        self._ground.wait(run, lane)
        self._ground.pump()

    def _land(self, run: LineRun, lane: Lane, outcome: Outcome | None) -> None:
        run.hold = None
        run.shard.in_air -= 1
        lane.in_air -= 1
        self._ground.landed(run, outcome)

    def _follow(self, run: LineRun, lane: Lane, outcome: Outcome) -> journey.RestScope | None:
        match journey.judge(run, outcome, self._retry):
            case journey.Settled(result):
                self._recorder.put(run.shard, result)
            case journey.TryAgain(failure, delay):
                self._recorder.back(run.shard.claim.batch_id)
                self._ground.wait(run, lane, delay)
                if not delay:
                    self._ground.hurry()
                if lane.waiting and not lane.ready and not lane.in_air:
                    text = f"{run.model} fails ({failure.code}), trying again"
                    self._on_blocked(Reason(run.asked, "retry", text), delay + SAID)
            case journey.RestScope() as rest:
                self._recorder.back(run.shard.claim.batch_id)
                return rest
        return None

    async def _rest_scope(self, run: LineRun, lane: Lane, rest: journey.RestScope) -> None:
        """Have the fleet pause what the refusal covers; only then the line waits for its turn again."""
        failure, model = rest.failure, run.model
        scope = journey.scope_of(model, failure)
        run.shard.in_air += 1  # still ours: the shard must not end meanwhile
        try:
            pause = await self._restraint.rest(model, scope, failure, rest.delay)
        finally:
            run.shard.in_air -= 1
            self._ground.wait(run, lane)
            self._ground.pump()
        waits = run.asked if scope == model else scope
        self._on_blocked(Reason(waits, "pause", _refusal(scope, failure)), pause.seconds)
        if pause.begun:
            seconds = round(pause.seconds, 1)
            log.warning("scope.rests", scope=scope, seconds=seconds, code=failure.code, status=failure.status)


def _refusal(scope: str, failure: Failure) -> str:
    what = "the upstream refuses the account" if failure.retry is Retry.ACCOUNT else f"limit of {scope}"
    return f"{what}: {failure.message}"
