"""A dispatcher between a scripted gate and a scripted upstream, for tests of the worker's parts without any server."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import fakeredis

from batchmill.config.settings import CacheSettings, RetrySettings
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Fault, Outcome, Retry, Scope, Usage
from batchmill.store.answers import Kept, Landing, Lead, Look, Sought
from batchmill.store.gate import Caller, Reply, Why
from batchmill.store.lanes import Claim
from batchmill.store.model import Fare, Line, Result, Terms
from batchmill.store.pauses import Pause
from batchmill.store.rules import Rules
from batchmill.store.settlement import Settlement
from batchmill.workers.answers import AnswerDesk
from batchmill.workers.dispatcher import Dispatcher
from batchmill.workers.gatekeeper import Gatekeeper, Question
from batchmill.workers.line import LineRun, ShardRun
from batchmill.workers.reasons import Reason

OK = Answer(body=b'{"id":"gen-1"}', model="m", usage=Usage(3, 5), cost=700, latency_ms=12, generation_id="gen-1")


def failure(retry: Retry, **fields: object) -> Failure:
    """Return a failure of that kind."""
    given = {
        "code": "some_code",
        "message": "it went wrong",
        "fault": Fault.PROVIDER,
        "billed": Billed.NO,
        "status": 500,
        "scope": Scope.MODEL,
        **fields,
    }
    return Failure(retry=retry, **given)  # type: ignore[arg-type]  # the fields are the struct's own


class Upstream:
    """Answers calls when the test says so, or at once with what `script` returns for a body."""

    def __init__(self, script: Callable[[bytes], Outcome] | None = None) -> None:
        self.script = script
        self.calls: list[bytes] = []
        self.open: list[tuple[bytes, asyncio.Future[Outcome]]] = []

    async def send(self, run: LineRun) -> Outcome:
        body = run.line.body
        self.calls.append(body)
        if self.script is not None:
            return self.script(body)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.open.append((body, future))
        return await future

    def answer(self, outcome: Outcome = OK, *, match: bytes = b"") -> None:
        """Answer the first open call whose body begins with `match`."""
        for number, (body, future) in enumerate(self.open):
            if body.startswith(match):
                del self.open[number]
                future.set_result(outcome)
                return
        raise LookupError(match)

    def in_air(self, match: bytes = b"") -> int:
        """Return how many calls are open."""
        return sum(body.startswith(match) for body, _ in self.open)


class Ledger:
    """Stands in for the recorder: keeps results and settlements, at once unless told to hold them back."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.settled: list[Settlement] = []
        self.generations: dict[str, str] = {}
        self.healthy = True
        self.user_key: bytes | None = None
        self.holding = False
        self.held: list[tuple[ShardRun, Result]] = []
        self.unsettled: list[tuple[Rules, Settlement]] = []
        self.in_air = 0
        self.on_healthy: Callable[[], None] = lambda: None
        self.on_settled: Callable[[set[str]], None] = lambda _: None

    def sent(self, batch_id: str) -> None:
        self.in_air += 1

    def back(self, batch_id: str) -> None:
        self.in_air -= 1

    def put(self, shard: ShardRun, result: Result, *, was_sent: bool = True) -> None:
        self.in_air -= was_sent
        shard.unrecorded += 1
        self.held.append((shard, result))
        if not self.holding:
            self.flush()

    def settle(self, rules: Rules, settlement: Settlement) -> None:
        self.unsettled.append((rules, settlement))
        if not self.holding:
            self.flush()

    def note(self, hold: str, generation: str) -> None:
        self.generations[hold] = generation

    def flush(self) -> None:
        """Record and settle what was held back."""
        for shard, result in self.held:
            self.results.append(result)
            shard.recorded(result.index)
        self.held.clear()
        if self.unsettled:
            self.settled += [settlement for _, settlement in self.unsettled]
            models = {rules.model for rules, _ in self.unsettled}
            self.unsettled.clear()
            asyncio.get_running_loop().call_soon(self.on_settled, models)


class Gate(Gatekeeper):
    """A stand-in for the gate: answers in the next turn of the loop, and admits all unless `script` knows better.

    `script` returns None for a question that stays at the gate until the test says `answer`. Scopes that the
    dispatcher had paused are refused until their time is over.
    """

    def __init__(self) -> None:
        super().__init__(fakeredis.FakeAsyncRedis(), Caller("upstream", "worker-1", 15.0))
        self.script: Callable[[Question], Reply | None] = admit_all
        self.questions: list[Question] = []
        self.waiting: list[Question] = []
        self.holds: list[str] = []  # all that were ever taken
        self.bounds: dict[str, int] = {}  # what each of them holds
        self.paused: dict[str, float] = {}  # scope -> until when (monotonic)
        self._dispatcher: Dispatcher | None = None
        self._due = False
        self._sifting: asyncio.Task[None] | None = None
        self._again = False

    def serve(self, dispatcher: Dispatcher) -> None:
        """Answer this dispatcher."""
        self._dispatcher = dispatcher

    def wake(self) -> None:
        if self._sifting is not None:
            self._again = True
        elif not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._ask_all)

    def hurry(self) -> None:
        self.wake()

    def answer(self, reply: Callable[[Question], Reply | None] | None = None) -> None:
        """Answer the first question that stays at the gate."""
        question = self.waiting.pop(0)
        told = (reply or admit_all)(question)
        assert told is not None
        self._tell(question, told)

    def _ask_all(self) -> None:
        self._due = False
        assert self._dispatcher is not None
        questions = self._dispatcher.questions()
        if any(run.shard.terms.cache for question in questions for run in question.runs):
            self._sifting = asyncio.create_task(self._sift(questions))
        else:
            self._ask_for(questions)

    async def _sift(self, questions: list[Question]) -> None:
        sifted = await self.sift(questions)
        self._sifting = None
        self._ask_for(sifted)
        if self._again:
            self._again = False
            self.wake()

    def _ask_for(self, questions: list[Question]) -> None:
        for question in questions:
            self.questions.append(question)
            reply = self._paused(question) or self.script(question)
            if reply is None:
                self.waiting.append(question)
            else:
                self._tell(question, reply)

    def _tell(self, question: Question, reply: Reply) -> None:
        assert self._dispatcher is not None
        self.holds += [hold.id for place, hold in enumerate(question.holds) if reply.admitted(place)]
        self.bounds |= {hold.id: run.bound for run, hold in zip(question.runs, question.holds, strict=True)}
        self._dispatcher.told(question, reply)

    def _paused(self, question: Question) -> Reply | None:
        now = time.monotonic()
        for which, scope in enumerate(question.rules.scopes, start=1):
            if self.paused.get(scope, 0.0) > now:
                return refusal(Why.PAUSE, which=which, wait=round((self.paused[scope] - now) * 1000) + 1)
        return None


def admit_all(question: Question) -> Reply:
    """Hold every line that is asked for."""
    return Reply(len(question.runs), Why.NOTHING, 0, 0, 0)


def refusal(why: Why, *, looked: int = 0, which: int = 1, wait: int = -1, skipped: tuple[int, ...] = ()) -> Reply:
    """Refuse all but the first `looked` lines, and of these the ones at the places `skipped`."""
    return Reply(looked, why, which, wait, 0, skipped)


def no_budget(question: Question) -> Reply:
    """Refuse every line because a budget is full."""
    count = len(question.runs)
    return refusal(Why.BUDGET, looked=count, skipped=tuple(range(count)))


class Shelf:
    """Stands in for the answers in Redis: what it is asked comes after `delay()` turns of the loop."""

    def __init__(self) -> None:
        self.answers: dict[str, Kept] = {}
        self.leads: dict[str, str] = {}
        self.names: dict[str, None] = {}  # all that were ever sought
        self.delay: Callable[[], int] = lambda: 0

    async def secret(self) -> bytes:
        await self._turns()
        return b"secret"

    async def seek(self, leads: Sequence[Lead]) -> list[Sought]:
        await self._turns()
        self.names |= dict.fromkeys(lead.name for lead in leads)
        found = [self._sought(lead) for lead in leads]
        await self._turns()
        return found

    async def keep(self, landings: Sequence[Landing]) -> None:
        await self._turns()
        for landing in landings:
            name = landing.lead.name
            if landing.kept is not None:
                self.answers[name] = landing.kept
            if self.leads.get(name) == landing.lead.token:
                del self.leads[name]

    async def renew(self, leads: Sequence[Lead]) -> int:
        await self._turns()
        return sum(self.leads.get(lead.name) == lead.token for lead in leads)

    async def look(self, names: Sequence[str]) -> dict[str, Look]:
        await self._turns()
        return {name: Look(name in self.answers, name in self.leads) for name in names}

    def _sought(self, lead: Lead) -> Sought:
        if lead.name in self.answers:
            return Sought(kept=self.answers[lead.name])
        return Sought(leads=self.leads.setdefault(lead.name, lead.token) == lead.token)

    async def _turns(self) -> None:
        for _ in range(self.delay()):
            await asyncio.sleep(0)


class Desk:
    """A dispatcher between a scripted gate, a scripted upstream and a ledger."""

    def __init__(
        self,
        *,
        concurrency: int = 4,
        script: Callable[[bytes], Outcome] | None = None,
        retry: RetrySettings | None = None,
        cache: CacheSettings | None = None,
    ) -> None:
        self.upstream = Upstream(script)
        self.ledger = Ledger()
        self.gate = Gate()
        self.blocked: list[tuple[Reason, float]] = []
        self.slowed: list[str] = []
        self.rests: list[tuple[str, str, float | None]] = []
        self.dispatcher = Dispatcher(
            self.upstream.send,
            self.ledger,  # type: ignore[arg-type]  # the same face as Recorder
            self.gate,
            retry or RetrySettings(first_delay=0.001, max_delay=0.002),
            concurrency=concurrency,
            on_blocked=lambda reason, seconds: self.blocked.append((reason, seconds)),
            restraint=self,
        )
        self.gate.serve(self.dispatcher)
        self.shelf = Shelf()
        self.answers = AnswerDesk(
            self.shelf,
            self.dispatcher,
            cache or CacheSettings(),
            lease=0.003,
            on_blocked=lambda reason, seconds: self.blocked.append((reason, seconds)),
        )
        self.gate.sift = self.answers.sift
        self.dispatcher.on_landed = self.answers.landed

    def shard(
        self,
        model: str,
        lines: Iterable[str],
        *,
        batch: str = "batch_1",
        number: int = 0,
        terms: Terms | None = None,
        body_of: Callable[[bytes], bytes] = bytes,
        live: bool = False,
    ) -> ShardRun:
        """Hand over a shard of lines with these ids, which are their bodies, too, unless `body_of` knows others."""
        bodies = [line.encode() for line in lines]
        claim = Claim("upstream", model, f"{batch}.{number}.{len(bodies)}", "run-1", "1")
        shard = ShardRun(
            claim,
            [
                Line(index, body.decode(), body_of(body), 100, 10, fares_of(terms), live)
                for index, body in enumerate(bodies)
            ],
            terms=terms or Terms(),
        )
        self.dispatcher.add(shard)
        return shard

    def check_books(self) -> None:
        """Fail unless every place is free and every hold was settled exactly once."""
        assert self.dispatcher.free == self.dispatcher.concurrency
        assert sorted(settlement.hold for settlement in self.ledger.settled) == sorted(self.gate.holds)
        assert all(settlement.bound == self.gate.bounds[settlement.hold] for settlement in self.ledger.settled)
        assert self.ledger.in_air == 0

    async def rest(self, model: str, scope: str, failure: Failure, seconds: float | None) -> Pause:
        self.rests.append((model, scope, seconds))
        begun = scope not in self.gate.paused
        self.gate.paused[scope] = time.monotonic() + (seconds or 0.01)
        return Pause(seconds or 0.01, begun)

    async def slow_down(self, model: str) -> None:
        self.slowed.append(model)


def fares_of(terms: Terms | None) -> tuple[Fare, ...]:
    """Return what a line may cost on each road of its route, each something else."""
    roads = terms.route.roads if terms and terms.route else ()
    return tuple(Fare(100 * place, 10 * place, 50 * place) for place, _ in enumerate(roads, start=1))


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)
