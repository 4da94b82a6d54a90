"""Suspects brought to what they cost, by the upstream's own books."""

from collections.abc import AsyncIterator
from decimal import Decimal

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Budget, Policy
from batchmill.config.settings import load
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.money import to_nano
from batchmill.openrouter.outcomes import Answer
from batchmill.openrouter.simulator import Simulator, SimulatorOptions
from batchmill.store import keys, policy
from batchmill.store.clock import now_ms
from batchmill.store.gate import Ask, Caller, Candidate, admit
from batchmill.store.rules import Rulebook
from batchmill.store.settlement import Settlement, Settling, settle
from batchmill.store.suspects import suspects
from batchmill.workers import reconciler as module
from batchmill.workers.reconciler import Reconciler

BOUND = 1_000_000
CALLER = Caller("upstream", "worker-1", 15.0)
BODY = msgspec.json.encode({"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]})


class Scene:
    """An upstream whose clock stands still until told, and suspects of calls that it answered."""

    def __init__(self, redis: Redis, simulator: Simulator, upstream: Upstream, now: list[float]) -> None:
        self.redis = redis
        self.simulator = simulator
        self.upstream = upstream
        self.now = now
        self.reconciler = Reconciler(redis, upstream, "upstream")

    async def call(self) -> str:
        """Make a call; return its generation id."""
        answer = await self.upstream.complete(BODY)
        assert isinstance(answer, Answer)
        assert answer.generation_id is not None
        return answer.generation_id

    async def suspect(self, *generations: str | None) -> None:
        """Have calls held whose fate is unknown."""
        await policy.apply(self.redis, "upstream", Policy(budgets=(Budget("all", Decimal(1)),)), "file")
        book = Rulebook("upstream")
        book.learn(await policy.live(self.redis, "upstream"))
        rules = book.rules("m", "default", None, await now_ms(self.redis))
        holds = [f"batch_1.{index}.h" for index in range(len(generations))]
        await admit(self.redis, CALLER, 1, [Ask(rules, tuple(Candidate(hold, BOUND, 1) for hold in holds))])
        settled = [Settlement(h, BOUND, None, generation=g) for h, g in zip(holds, generations, strict=True)]
        await settle(self.redis, CALLER, [Settling(1, rules, tuple(settled))])

    async def books(self) -> dict[str, int]:
        fields = await self.redis.execute_command("HGETALL", keys.budget("upstream", "all", "total"))
        return {name.decode(): int(value) for name, value in fields.items() if int(value)}


@pytest.fixture
async def at(redis: Redis) -> AsyncIterator[Scene]:
    now = [1_000_000.0]
    async with Simulator(SimulatorOptions(generation_delay=9.5), clock=lambda: now[0]) as simulator:
        settings = load(environ={"BATCHMILL_BASE_URL": simulator.base_url, "OPENROUTER_API_KEY": "sk-or-v1-test"})
        upstream = Upstream(settings.upstream, settings.api_key, max_connections=8)
        yield Scene(redis, simulator, upstream, now)
        await upstream.aclose()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Our own clock, which stands still as well."""
    now = [0.0]
    monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    return now


async def test_a_suspect_comes_to_what_the_upstream_billed_as_soon_as_it_tells(at: Scene, clock: list[float]) -> None:
    await at.suspect(await at.call())
    assert await at.reconciler.look() == 0, "the upstream does not know it yet"
    assert await at.books() == {"suspect": BOUND}
    at.now[0] += 10
    assert await at.reconciler.look() == 0, "it was just looked up"
    clock[0] += 5
    assert await at.reconciler.look() == 1
    assert await at.books() == {"spent": at.simulator.stats.billed_nano}
    assert await suspects(at.redis, "upstream") == []


async def test_what_is_never_found_is_looked_up_less_and_less_often(at: Scene, clock: list[float]) -> None:
    await at.suspect("gen-nobody")
    looked: list[float] = []
    original = at.upstream.generation

    async def counted(generation: str) -> object:
        looked.append(clock[0])
        return await original(generation)

    at.upstream.generation = counted  # type: ignore[method-assign,assignment]
    for _ in range(100):
        await at.reconciler.look()
        clock[0] += 5
    assert looked == [0, 5, 15, 35, 75, 155, 315]
    assert await at.books() == {"suspect": BOUND}


async def test_a_suspect_without_an_id_waits_for_an_operator(at: Scene) -> None:
    await at.suspect(None)
    assert await at.reconciler.look() == 0
    assert len(await suspects(at.redis, "upstream")) == 1


async def test_many_are_looked_up_in_one_go_and_one_that_fails_holds_up_none(at: Scene) -> None:
    known = [await at.call() for _ in range(11)]
    at.now[0] += 10
    await at.suspect(*known[:5], "gen-nobody", *known[5:])
    assert await at.reconciler.look() == 11
    assert await at.books() == {"suspect": BOUND, "spent": at.simulator.stats.billed_nano}


async def test_an_upstream_that_is_away_is_asked_again(at: Scene, clock: list[float]) -> None:
    generation = await at.call()
    at.now[0] += 10
    await at.suspect(generation)
    nowhere = load(environ={"BATCHMILL_BASE_URL": "http://127.0.0.1:9/api/v1", "OPENROUTER_API_KEY": "sk-or-v1-test"})
    async_upstream = Upstream(nowhere.upstream, nowhere.api_key, max_connections=1)
    assert await Reconciler(at.redis, async_upstream, "upstream").look() == 0
    await async_upstream.aclose()
    assert await at.reconciler.look() == 1


async def test_a_cost_beyond_the_bound_is_debt(at: Scene) -> None:
    generation = await at.call()
    at.now[0] += 10
    await at.suspect(generation)
    info = await at.upstream.generation(generation)
    assert info is not None
    dear = msgspec.structs.replace(info, total_cost=Decimal("0.5"))

    async def told(_: str) -> object:
        return dear

    at.upstream.generation = told  # type: ignore[method-assign,assignment]
    assert await at.reconciler.look() == 1
    assert await at.books() == {"spent": BOUND, "debt": to_nano(Decimal("0.5")) - BOUND}
