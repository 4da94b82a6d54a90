"""Asks the gate for the process: gathers what all lanes want while the last question is on the wire, like the recorder.

work to do ──► candidates of all lanes ──► one call ──► what is held is sent, what is refused waits where it was
                                            │
                                            ├─ policy is old: read it, ask again
                                            ├─ a window has turned: make the rules anew, ask again
                                            └─ Redis is away: the same call again until it answers (promise 7)
"""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
import structlog
from redis.asyncio import Redis

from batchmill.store import policy
from batchmill.store.clock import now_ms
from batchmill.store.connection import outlive
from batchmill.store.gate import Ask, Caller, Candidate, Reply, Why, admit
from batchmill.store.rules import Rulebook, Rules
from batchmill.workers.line import Hold, LineRun

PACE = 0.004
"""Seconds between two calls under load: places that come free meanwhile share a round trip."""

_UNPRICED = 2**53  # nano-dollars: more than any budget
_LOOK_EVERY = 1.0  # seconds; whatever nobody woke us for

log = structlog.get_logger()


class Question(msgspec.Struct, frozen=True):
    """Lines of one batch and model that want to be sent, in the order of their turn, and the holds they would have."""

    rules: Rules
    runs: tuple[LineRun, ...]
    holds: tuple[Hold, ...]
    lane: str


Sift = Callable[[list[Question]], Awaitable[list[Question]]]
"""Takes the lines out of questions that need not be sent, and sees to them."""


class Desk(Protocol):
    """Where lines wait for their turn: the dispatcher."""

    def questions(self) -> list[Question]:
        """Take out the lines that may be asked for now."""

    def told(self, question: Question, reply: Reply) -> None:
        """Send what is held, and put the rest back."""


class Gatekeeper:
    """The process's way through the gate. `run()` is its one task."""

    def __init__(self, redis: Redis, caller: Caller) -> None:
        self._redis = redis
        self._caller = caller
        self._calls = itertools.count(1)
        self._numbers = itertools.count(1)
        self._suffix = secrets.token_hex(4)  # hold ids are unique over all workers that ever were
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._ahead_ms = 0.0  # by how much the clock of Redis is ahead of our monotonic one
        self.rulebook = Rulebook(caller.upstream)
        self.sift: Sift = _all  # set by who knows answers already

    @property
    def caller(self) -> Caller:
        """Who we are to the gate."""
        return self._caller

    def saw(self, epoch: int) -> None:
        """Note the epoch of the books: the gate refuses by ones that are older."""
        self._caller = msgspec.structs.replace(self._caller, epoch=epoch)

    def wake(self) -> None:
        """Ask soon: a place is free, or a line is ready."""
        self._work.set()

    def hurry(self) -> None:
        """Ask now: a line that failed on one model goes on with the next, and was through the gate before."""
        self._work.set()
        self._hurry.set()

    def question(self, rules: Rules, runs: Sequence[LineRun]) -> Question:
        """Return the question for these lines of one lane, under new hold ids."""
        holds = tuple(Hold(self._hold_id(run), rules) for run in runs)
        return Question(rules, tuple(runs), holds, runs[0].shard.claim.model)

    def rules(self, model: str, project: str, capped: str | None, key: str | None = None) -> Rules:
        """Return the rules for such lines, as far as we know them."""
        return self.rulebook.rules(model, project, capped, self.now(), key)

    def now(self) -> int:
        """Return the clock of Redis (ms), as far as we know it."""
        return round(time.monotonic() * 1000 + self._ahead_ms)

    async def run(self, desk: Desk) -> None:
        """Ask for ever."""
        await self.read_policy()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await self._work.wait()
            started = time.monotonic()
            self._work.clear()
            self._hurry.clear()
            questions = await self.sift(desk.questions())
            if questions:
                await self._ask(desk, questions)
            await self._pace(started + PACE - time.monotonic())

    async def _pace(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    async def read_policy(self) -> None:
        """Learn the policy that is in force, and what the clock of Redis says."""
        live = await outlive(lambda: policy.live(self._redis, self._caller.upstream))
        self._clock(await outlive(lambda: now_ms(self._redis)))
        if live.version != self.rulebook.policy.version:
            log.info("policy.read", version=live.version, source=live.source)
        self.rulebook.learn(live)

    async def _ask(self, desk: Desk, questions: Sequence[Question]) -> None:
        call = next(self._calls)
        asks = [Ask(question.rules, _candidates(question)) for question in questions]
        replies = await outlive(lambda: admit(self._redis, self._caller, call, asks))
        self._clock(replies[-1].now)
        if any(reply.why is Why.POLICY for reply in replies):
            await self.read_policy()
        if any(reply.why is Why.WINDOW for reply in replies):
            self.rulebook.turn()
        for question, reply in zip(questions, replies, strict=True):
            desk.told(question, reply)

    def _clock(self, now_ms: int) -> None:
        self._ahead_ms = now_ms - time.monotonic() * 1000

    def _hold_id(self, run: LineRun) -> str:
        return f"{run.shard.claim.batch_id}.{run.line.index}.{self._suffix}{next(self._numbers)}"


async def _all(questions: list[Question]) -> list[Question]:
    return questions


def _bound(run: LineRun, rules: Rules) -> int:
    """Return what a line may cost. One without a price, enqueued under no budget, fits into none that came since."""
    return _UNPRICED if rules.budgets and run.pricing is None else run.bound


def _candidates(question: Question) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(hold.id, _bound(run, question.rules), run.tokens)
        for run, hold in zip(question.runs, question.holds, strict=True)
    )
