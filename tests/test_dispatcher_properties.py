"""No line is ever left nowhere: any order of answers of the gate, outcomes, cancels, losses, drains and outages."""

import asyncio
import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchmill.config.policy import EVERY_TROUBLE, Trouble
from batchmill.config.settings import RetrySettings
from batchmill.config.strategy import Strategy
from batchmill.openrouter.outcomes import Billed, Outcome, Retry
from batchmill.store.answers import Kept
from batchmill.store.gate import Reply, Why
from batchmill.store.lanes import Ending
from batchmill.store.model import LineState, Road, Route, Terms
from batchmill.workers import answers, dispatcher, flights, places, valves
from batchmill.workers.gatekeeper import Question
from batchmill.workers.line import ShardRun

from .workers_helpers import OK, Desk, admit_all, failure, no_budget, refusal, settle

MODELS = ("a/one", "a/two", "b/three")
ROADS = tuple(Road(model) for model in MODELS)
ROUTES = (
    Route("first", Strategy.ORDER, ROADS[:2], max_attempts=3, fallback_on=EVERY_TROUBLE),
    Route("cheap", Strategy.COST, ROADS, max_attempts=4, retry_delay=0.0005, fallback_on=(Trouble.BUDGET,)),
    Route("quick", Strategy.PERFORMANCE, ROADS, max_attempts=9, fallback_on=tuple(Trouble)),
    Route("alone", Strategy.ROUND_ROBIN, ROADS[:1], fallback_on=EVERY_TROUBLE),
)
LATER = failure(Retry.LATER, status=429, retry_after=0.0005)
OUTCOMES: tuple[Outcome, ...] = (
    OK,
    OK,
    failure(Retry.NEVER),
    failure(Retry.NEVER, code="context_length_exceeded"),
    failure(Retry.BACKOFF, billed=Billed.MAYBE),
    LATER,
    failure(Retry.ACCOUNT, retry_after=0.0005),
)
DEEDS = (
    "answer",
    "answer",
    "answer",
    "gate",
    "gate",
    "add",
    "cancel",
    "lose",
    "away",
    "back",
    "abandon",
    "hold",
    "tick",
    "another leads",
    "another lands",
    "lease over",
    "expire",
)
BODIES = (b"same", b"alike")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every wait a matter of a thousandth of a second."""
    for module, name in (
        (valves, "_LONGEST_BLOCK"),
        (valves, "_UNKNOWN_WAIT"),
        (places, "_STARVED_LOOK"),
        (places, "_STARVED_SLACK"),
        (dispatcher, "_STARVED"),
        (answers, "_LOOK_EVERY"),
    ):
        monkeypatch.setattr(module, name, 0.001)
    monkeypatch.setattr(flights.log, "warning", lambda *_, **__: None)


class Play:
    """One random story. What is drawn by chance is drawn from its own seed, so that it can be told again."""

    def __init__(self, seed: int, concurrency: int) -> None:
        self.random = random.Random(seed)
        self.chance = random.Random(seed + 1)  # of the answer cache
        self.desk = Desk(concurrency=concurrency, retry=RetrySettings(3, 0.0005, 0.001))
        self.desk.gate.script = self.gate
        self.shards: list[ShardRun] = []
        self.peaceful = False
        self.desk.shelf.delay = lambda: self.chance.choice((0, 0, 1, 3))
        self.tending = asyncio.create_task(self.desk.answers.run())

    def gate(self, question: Question) -> Reply | None:
        """Answer as it comes; in the end, as it must."""
        if self.peaceful:
            return admit_all(question)
        return self.random.choice((self.partly, self.partly, admit_all, no_budget_if_any, self.refuse, later))(question)

    def partly(self, question: Question) -> Reply:
        looked = self.random.randint(0, len(question.runs))
        skipped = tuple(place for place in range(looked) if question.rules.budgets and self.random.random() < 0.3)
        if looked < len(question.runs):
            return refusal(Why.SHARE, looked=looked, wait=self.random.choice((-1, 0, 1)), skipped=skipped)
        return refusal(Why.BUDGET, looked=looked, skipped=skipped) if skipped else admit_all(question)

    def refuse(self, _: Question) -> Reply:
        return refusal(self.random.choice((Why.POLICY, Why.WINDOW, Why.BREAKER, Why.ALARM)), wait=1)

    def add(self) -> None:
        number = len(self.shards)
        count = self.random.randint(1, 6)
        route = self.random.choice((None, *ROUTES))
        cache = self.chance.random() < 0.6
        self.shards.append(
            self.desk.shard(
                self.random.choice(MODELS) if route is None else f"{route.asked}#0",
                [f"{number}/{index}" for index in range(count)],
                batch=f"batch_{self.random.randrange(3)}",
                number=number,
                terms=Terms(
                    project=self.random.choice("pq"), capped=self.random.random() < 0.5, route=route, cache=cache
                ),
                body_of=self.alike if cache else bytes,
                live=self.chance.random() < 0.1,
            )
        )

    def alike(self, body: bytes) -> bytes:
        return self.chance.choice((*BODIES, *BODIES, body))

    def elsewhere(self, deed: str) -> None:
        """Do what other processes do to the answers that they share with this one."""
        shelf = self.desk.shelf
        if not shelf.names:
            return
        name = self.chance.choice(list(shelf.names))
        match deed:
            case "another leads":
                shelf.leads.setdefault(name, "another")
            case "another lands" if shelf.leads.get(name) == "another":
                del shelf.leads[name]
                if self.chance.random() < 0.5:
                    shelf.answers[name] = Kept(b"{}", "a/one")
            case "lease over":
                shelf.leads.pop(name, None)
            case "expire":
                shelf.answers.pop(name, None)

    async def do(self, deed: str) -> None:
        desk = self.desk
        match deed:
            case "answer" if desk.upstream.open:
                desk.upstream.answer(self.random.choice(OUTCOMES))
            case "gate" if desk.gate.waiting:
                desk.gate.answer(lambda question: self.gate(question) or admit_all(question))
            case "add":
                self.add()
            case "cancel":
                desk.dispatcher.stop(f"batch_{self.random.randrange(3)}", LineState.CANCELLED)
            case "lose" if desk.dispatcher.shards():
                desk.dispatcher.lose(self.random.choice(sorted(desk.dispatcher.shards(), key=self.shards.index)))
            case "away":
                desk.ledger.healthy, desk.ledger.holding = False, True
            case "back":
                self.back()
            case "hold":
                desk.ledger.holding = True
            case "abandon" if self.random.random() < 0.2:
                desk.upstream.open.clear()
                desk.dispatcher.abandon()
            case _:
                self.elsewhere(deed)
                await asyncio.sleep(0)

    def back(self) -> None:
        ledger = self.desk.ledger
        ledger.holding = False
        ledger.flush()
        if not ledger.healthy:
            ledger.healthy = True
            ledger.on_healthy()

    async def end(self) -> None:
        """Let the gate and the upstream be kind, until every shard has ended."""
        self.peaceful = True
        self.back()
        for name in [name for name, token in self.desk.shelf.leads.items() if token == "another"]:
            del self.desk.shelf.leads[name]  # whoever it was is dead, or landed without an answer
        while not all(shard.ended.done() for shard in self.shards):
            while self.desk.gate.waiting:
                self.desk.gate.answer()
            while self.desk.upstream.open:
                self.desk.upstream.answer()
            await asyncio.sleep(0)
        await settle()
        await self.desk.answers.drained()
        self.tending.cancel()

    def check(self) -> None:
        desk = self.desk
        desk.check_books()
        assert not desk.dispatcher.busy
        assert desk.dispatcher._lanes.ready == 0
        assert desk.dispatcher._bytes == 0
        for lane in desk.dispatcher._lanes:
            assert (lane.ready, lane.asked, lane.in_air, len(lane.waiting), len(lane._starved)) == (0, 0, 0, 0, 0)
            assert lane.following == {}
            assert (lane._stuck, [valve.asked for valve in lane.valves.values() if valve.asked]) == ([], [])
        recorded = [result.custom_id for result in desk.ledger.results]
        assert len(recorded) == len(set(recorded)), "a line got two results"
        assert all(result.cost == 0 for result in desk.ledger.results if result.cached and len(result.attempts) == 1)
        assert desk.answers._leading == {}
        assert desk.shelf.leads == {}
        for shard in self.shards:
            assert (shard.in_air, shard.unrecorded) == (0, 0)
            assert bool(shard.open_lines) is (shard.ended.result() is Ending.GIVE_BACK)


def later(_: Question) -> Reply | None:
    """Leave the question at the gate."""
    return None


def no_budget_if_any(question: Question) -> Reply:
    return no_budget(question) if question.rules.budgets else admit_all(question)


@example(["answer", "lose", "gate"], 268435457, 1, False)  # lost at the gate, and then there is no budget
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(DEEDS), max_size=60),
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.booleans(),
)
def test_no_line_is_ever_left_nowhere(deeds: list[str], seed: int, concurrency: int, drained: bool) -> None:
    async def story() -> None:
        play = Play(seed, concurrency)
        play.add()
        for deed in deeds:
            await play.do(deed)
            await asyncio.sleep(0)
        if drained:
            play.desk.dispatcher.drain()
        await asyncio.wait_for(play.end(), 20)
        play.check()

    asyncio.run(story())
