"""A dispatcher between a scripted gate and a scripted upstream, for tests of the worker's parts without any server."""

import asyncio
import time
from collections.abc import Callable, Iterable

import fakeredis

from batchmill.config.settings import RetrySettings
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Fault, Outcome, Retry, Scope, Usage
from batchmill.store.gate import Caller, Reply, Why
from batchmill.store.lanes import Claim
from batchmill.store.model import Fare, Line, Result, Terms
from batchmill.store.pauses import Pause
from batchmill.store.rules import Rules
from batchmill.store.settlement import Settlement
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

    def serve(self, dispatcher: Dispatcher) -> None:
        """Answer this dispatcher."""
        self._dispatcher = dispatcher

    def wake(self) -> None:
        if not self._due:
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
        for question in self._dispatcher.questions():
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


class Desk:
    """A dispatcher between a scripted gate, a scripted upstream and a ledger."""

    def __init__(
        self,
        *,
        concurrency: int = 4,
        script: Callable[[bytes], Outcome] | None = None,
        retry: RetrySettings | None = None,
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

    def shard(
        self, model: str, lines: Iterable[str], *, batch: str = "batch_1", number: int = 0, terms: Terms | None = None
    ) -> ShardRun:
        """Hand over a shard with these bodies."""
        bodies = [line.encode() for line in lines]
        claim = Claim("upstream", model, f"{batch}.{number}.{len(bodies)}", "run-1", "1")
        shard = ShardRun(
            claim,
            [Line(index, body.decode(), body, 100, 10, fares_of(terms)) for index, body in enumerate(bodies)],
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
