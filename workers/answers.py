"""The answer cache at work: lines of batches that want it are looked up on their way to the gate.

on the way to the gate ── an answer is kept ────► its result is recorded, at $0; nothing is held
                       ├─ nobody leads ─────────► it leads: on to the gate, and sent
                       └─ another line leads ───► aside, until there is an answer or nobody leads

A line leads while it is at the gate or in the air, and no longer: what is refused, fails or is given up lets the next
one go, whoever has it. The lead is leased, so a leader that dies strands nobody.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Protocol, TypeVar

import msgspec
import structlog
from redis.exceptions import RedisError

from batchmill.config.settings import CacheSettings
from batchmill.openrouter.outcomes import Answer, Outcome
from batchmill.store.answers import Kept, Landing, Lead, Look, Sought
from batchmill.store.connection import outlive
from batchmill.store.model import Result
from batchmill.workers import journey
from batchmill.workers.flights import Blocked
from batchmill.workers.gatekeeper import Question
from batchmill.workers.line import LineRun
from batchmill.workers.reasons import Reason

_LOOK_EVERY = 0.1  # seconds, while lines wait for others
_RENEWALS = 3  # in the time of a lease
_SAY_EVERY = 1.0
_SAID = 3.0  # seconds that a reason stands
_MOST_SOUGHT = 200  # lines a call, so that neither side handles too much at once
_MOST_BYTES = 64 << 20  # of answers that wait to be kept, while Redis is away
_NAME_BYTES = 20
_CUT_SHORT = ("content_filter", "error")  # finish reasons of answers that are not whole

_Any = TypeVar("_Any")
_encode = msgspec.msgpack.Encoder().encode
log = structlog.get_logger()


class Shelf(Protocol):
    """Where answers are kept: `store.answers.Answers`."""

    async def secret(self) -> bytes:
        """Return the bytes by which lines are named."""

    async def seek(self, leads: Sequence[Lead]) -> list[Sought]:
        """Return what there is for each line."""

    async def keep(self, landings: Sequence[Landing]) -> None:
        """End leads, and keep the answers that they brought."""

    async def renew(self, leads: Sequence[Lead]) -> int:
        """Go on leading."""

    async def look(self, names: Sequence[str]) -> dict[str, Look]:
        """Return what there is for lines that wait."""


class Desk(Protocol):
    """Where lines come from and go back to: the dispatcher."""

    def aside(self, question: Question, run: LineRun, result: Result | None) -> None:
        """Take a line off the way to the gate: with its result, or to wait for another line's."""

    def resume(self, run: LineRun) -> bool:
        """Have a line that waits take its turn again; False when it waits no more."""

    def pump(self) -> None:
        """Have free places filled."""


class AnswerDesk:
    """Looks lines up, and keeps what comes. `run()` is its one task; everything happens on one event loop."""

    def __init__(self, shelf: Shelf, desk: Desk, cache: CacheSettings, *, lease: float, on_blocked: Blocked) -> None:
        self._shelf = shelf
        self._desk = desk
        self._cache = cache
        self._renew_every = lease / _RENEWALS
        self._on_blocked = on_blocked
        self._secret: bytes | None = None
        self._leading: dict[LineRun, Lead] = {}
        self._following: dict[str, list[LineRun]] = {}
        self._landings: list[Landing] = []
        self._bytes = 0  # of answers among these
        self._renewed = self._told = time.monotonic()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def sift(self, questions: list[Question]) -> list[Question]:
        """Return the questions without the lines that need not be sent now."""
        asked = [
            (question, place)
            for question in questions
            for place, run in enumerate(question.runs)
            if run.shard.terms.cache and not run.line.live
        ]
        if not asked:
            return questions
        out: set[LineRun] = set()
        for start in range(0, len(asked), _MOST_SOUGHT):
            out |= await self._look_up(asked[start : start + _MOST_SOUGHT])
        if not out:
            return questions
        self._desk.pump()  # their places are free
        sifted = [_without(question, out) for question in questions]
        return [question for question in sifted if question.runs]

    def landed(self, run: LineRun, outcome: Outcome | None) -> None:
        """Note that a line is in the air, or at the gate, no more; with the outcome of its call, if it had one."""
        lead = self._leading.pop(run, None)
        if lead is None:
            return
        claim, kept = run.shard.claim, None
        if isinstance(outcome, Answer) and self._worth_keeping(outcome):
            self._bytes += len(outcome.body)
            kept = Kept(
                outcome.body, run.model, outcome.model, outcome.provider, outcome.generation_id, outcome.finish_reason
            )
        self._landings.append(Landing(lead, run.shard.terms.project, claim.batch_id, kept))
        self._stir()

    async def run(self) -> None:
        """Keep, renew and look for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY if self._following else self._renew_every):
                    await self._work.wait()
            self._work.clear()
            await self.tend()
            if not self._landings:
                self._idle.set()

    async def drained(self) -> None:
        """Wait until all that landed is kept."""
        await self._idle.wait()

    async def tend(self) -> None:
        """Do what is due: end leads, renew the others, and have those go on that waited."""
        await self._keep()
        now = time.monotonic()
        if self._leading and now - self._renewed >= self._renew_every:
            self._renewed = now
            leads = list(self._leading.values())
            await self._trying(lambda: self._shelf.renew(leads))
        if self._following:
            names = list(self._following)
            self._go_on(await self._trying(lambda: self._shelf.look(names)) or {})
            self._say(now)

    async def _look_up(self, asked: Sequence[tuple[Question, int]]) -> set[LineRun]:
        """Look lines up; return those that are not to be sent now, for which all is done."""
        runs = [question.runs[place] for question, place in asked]
        tokens = [question.holds[place].id for question, place in asked]
        secret = self._secret = self._secret or await self._trying(self._shelf.secret)
        if secret is None:
            return set()
        leads = [Lead(self._name(run, secret), token) for run, token in zip(runs, tokens, strict=True)]
        found = await self._trying(lambda: self._shelf.seek(leads))
        out: set[LineRun] = set()
        if found is None:
            return out
        for (question, _), run, lead, sought in zip(asked, runs, leads, found, strict=True):
            if sought.leads:
                self._leading[run] = lead
                continue
            out.add(run)
            if sought.kept is not None:
                self._desk.aside(question, run, journey.from_cache(run, sought.kept))
            else:
                self._following.setdefault(lead.name, []).append(run)
                self._desk.aside(question, run, None)
        if self._following:
            self._stir()
        return out

    async def _keep(self) -> None:
        landings, self._landings, self._bytes = self._landings, [], 0
        if not landings:
            return
        await self._trying(lambda: self._shelf.keep(landings))

    def _go_on(self, looks: dict[str, Look]) -> None:
        """Have lines take their turn again: all, where there is an answer; the first, where nobody leads."""
        resumed = False
        for name, look in looks.items():
            if look.led and not look.kept:
                continue
            waiting = self._following.pop(name, [])
            while waiting:
                went = self._desk.resume(waiting.pop(0))
                resumed |= went
                if went and not look.kept:
                    break
            if waiting:
                self._following[name] = waiting
        if resumed:
            self._desk.pump()

    def _say(self, now: float) -> None:
        if now - self._told < _SAY_EVERY:
            return
        self._told = now
        batches = {run.shard.claim.batch_id for waiting in self._following.values() for run in waiting}
        for batch_id in batches:
            text = "lines like its own are in the air, and it wants their answers (--cache)"
            self._on_blocked(Reason(batch_id, "answer", text), _SAID)

    async def _trying(self, step: Callable[[], Awaitable[_Any]]) -> _Any | None:
        """Do what may be done twice; without the cache, should it be unusable, lines only cost more."""
        try:
            return await outlive(step)
        except RedisError as error:
            log.error("answers.unusable", error=repr(error))
            return None

    def _stir(self) -> None:
        self._idle.clear()
        self._work.set()

    def _worth_keeping(self, answer: Answer) -> bool:
        size = len(answer.body)
        return (
            size <= self._cache.max_answer_bytes
            and self._bytes + size <= _MOST_BYTES
            and answer.finish_reason not in _CUT_SHORT
        )

    def _name(self, run: LineRun, secret: bytes) -> str:
        """Name what makes lines alike, so that nothing of them can be read or guessed from it."""
        return blake2b(self._kind(run) + run.line.body, key=secret, digest_size=_NAME_BYTES).hexdigest()

    def _kind(self, run: LineRun) -> bytes:
        """Return what makes lines alike beside their bodies: whose they are, and who may answer them.

        Not the price that we allow at most: it says what a call may cost, and an answer that is there costs nothing.
        """
        terms = run.shard.terms
        scope = None if self._cache.across_projects else terms.project
        if terms.route is None:
            return _encode([scope, run.model, terms.provider])
        roads = [(road.model, road.provider) for road in terms.route.roads]
        return _encode([scope, terms.route.asked, terms.route.strategy, roads])


def _without(question: Question, out: set[LineRun]) -> Question:
    kept = [pair for pair in zip(question.runs, question.holds, strict=True) if pair[0] not in out]
    runs, holds = tuple(run for run, _ in kept), tuple(hold for _, hold in kept)
    return msgspec.structs.replace(question, runs=runs, holds=holds)
