"""Endpoints of models in use are asked how they are: which, how often, and what is said when they change."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import structlog.testing
from redis.asyncio import Redis

from batchmill.config.settings import HealthSettings, Settings, load
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.endpoints import Endpoint, Percentiles
from batchmill.openrouter.errors import UpstreamUnavailableError
from batchmill.openrouter.outcomes import Retry
from batchmill.openrouter.simulator import Simulator, SimulatorOptions
from batchmill.store import keys
from batchmill.store.health import health_of, stated_of
from batchmill.store.statistics import note_candidates
from batchmill.workers import health as module
from batchmill.workers.health import EndpointChecks

from .store_helpers import UPSTREAM, batch_of
from .workers_helpers import failure

GOOD = Endpoint(
    "One", "one", status=0, uptime_last_30m=99.0, latency_ms=Percentiles(250.0), throughput=Percentiles(40.0)
)
BAD = msgspec.structs.replace(GOOD, status=-2)
OTHER = Endpoint("Two", "two/fast", uptime_last_5m=97.5)


class Source:
    """An upstream that says what the test wants; `open` keeps it from answering."""

    def __init__(self) -> None:
        self.said: dict[str, tuple[Endpoint, ...] | Exception | None] = {}
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.silent = False

    async def endpoints(self, model_id: str) -> tuple[Endpoint, ...] | None:
        self.asked.append(model_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if self.silent:
                await asyncio.Event().wait()
        finally:
            self.at_once -= 1
        said = self.said.get(model_id, (GOOD,))
        if isinstance(said, Exception):
            raise said
        return said

    def since(self) -> list[str]:
        """Return whom it was asked for since the last time."""
        asked, self.asked = self.asked, []
        return asked


class Bench:
    """Checks of one upstream, and a clock."""

    def __init__(self, redis: Redis, settings: Settings, patch: pytest.MonkeyPatch) -> None:
        self.redis = redis
        self.source = Source()
        self.settings = settings
        self.now = 1000.0
        self.checks = EndpointChecks(redis, self.source, settings)
        patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    async def look(self) -> list[dict[str, Any]]:
        """Look; return what was logged for people."""
        with structlog.testing.capture_logs() as logged:
            await self.checks.look()
        return [dict(entry) for entry in logged if entry["log_level"] != "debug"]

    async def use(self, *models: str) -> None:
        await note_candidates(self.redis, self.settings.upstream_name, models)


@pytest.fixture
def bench(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(redis, load(environ={}), monkeypatch)  # OpenRouter, which nobody asks


async def test_each_model_in_use_is_asked_for_once_an_interval(bench: Bench) -> None:
    await bench.look()
    assert bench.source.since() == []
    await bench.use("a/b", "c/d")
    await bench.look()
    assert sorted(bench.source.since()) == ["a/b", "c/d"]
    bench.now += 59
    await bench.use("e/f")
    await bench.look()
    assert bench.source.since() == ["e/f"]
    bench.now += 1
    await bench.look()
    assert sorted(bench.source.since()) == ["a/b", "c/d"]


async def test_lanes_with_lines_are_in_use_and_those_of_routes_are_no_models(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(redis, load(environ={"BATCHMILL_BASE_URL": UPSTREAM}), monkeypatch)
    assert bench.settings.upstream_name == UPSTREAM
    await batch_of(redis, 3)
    name = keys.lane(UPSTREAM, "fast#1f3a9c20")
    await redis.execute_command("SADD", keys.lanes(UPSTREAM), "fast#1f3a9c20")
    await redis.execute_command("ZADD", name, 1, "batch_x.0.1")
    await bench.look()
    assert bench.source.since() == ["maker/model"]


async def test_what_they_say_is_kept(bench: Bench) -> None:
    await bench.use("a/b")
    bench.source.said["a/b"] = (GOOD, OTHER)
    assert await bench.look() == []
    upstream = bench.settings.upstream_name
    stated = await stated_of(bench.redis, upstream, "a/b")
    assert stated is not None
    assert [(one.tag, one.status, one.uptime, one.latency_ms) for one in stated.endpoints] == [
        ("one", 0, 0.99, 250.0),
        ("two/fast", None, 0.975, None),
    ]
    assert (await health_of(bench.redis, upstream, ["a/b"]))["a/b"].uptime == 0.99
    assert await bench.redis.pttl(keys.endpoints_health(upstream, "a/b")) > 3_500_000


async def test_who_goes_down_and_comes_back_is_said_once_whoever_has_the_turn(bench: Bench) -> None:
    await bench.use("a/b")
    bench.source.said["a/b"] = (GOOD, OTHER)
    assert await bench.look() == []
    bench.source.said["a/b"] = (BAD, OTHER)
    bench.now += 60
    assert await bench.look() == [
        {"event": "endpoints.down", "log_level": "warning", "model": "a/b", "endpoints": ["one"], "left": 1}
    ]
    bench.now += 60
    assert await bench.look() == []
    bench.checks = EndpointChecks(bench.redis, bench.source, bench.settings)  # another worker's turn
    assert await bench.look() == []
    bench.source.said["a/b"] = (GOOD, OTHER)
    bench.now += 60
    assert await bench.look() == [
        {"event": "endpoints.back", "log_level": "info", "model": "a/b", "endpoints": ["one"], "left": 2}
    ]


async def test_an_endpoint_that_is_gone_has_not_come_back(bench: Bench) -> None:
    await bench.use("a/b")
    bench.source.said["a/b"] = (BAD, OTHER)
    assert len(await bench.look()) == 1
    bench.source.said["a/b"] = (OTHER,)
    bench.now += 60
    assert await bench.look() == []


async def test_trouble_leaves_what_was_known_and_harms_no_other(bench: Bench) -> None:
    await bench.use("a/b", "c/d")
    await bench.look()
    bench.source.said["a/b"] = UpstreamUnavailableError(failure(Retry.BACKOFF))
    bench.source.said["c/d"] = (OTHER,)
    bench.now += 60
    assert await bench.look() == []
    upstream = bench.settings.upstream_name
    found = await health_of(bench.redis, upstream, ["a/b", "c/d"])
    assert (found["a/b"].uptime, found["c/d"].uptime) == (0.99, 0.975)


async def test_silence_ends_with_the_timeout(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = msgspec.structs.replace(load(environ={}), health=HealthSettings(timeout=0.01))
    bench = Bench(redis, settings, monkeypatch)
    bench.source.silent = True
    await bench.use("a/b")
    assert await bench.look() == []
    assert await stated_of(redis, settings.upstream_name, "a/b") is None
    assert bench.source.at_once == 0


async def test_a_model_that_openrouter_does_not_know_rests_alone(bench: Bench) -> None:
    bench.source.said["a/b"] = None
    await bench.use("a/b", "c/d")
    await bench.look()
    bench.source.since()
    bench.now += 60
    await bench.look()
    assert bench.source.since() == ["c/d"]
    bench.now += 3600
    await bench.look()
    assert sorted(bench.source.since()) == ["a/b", "c/d"]


async def test_an_upstream_without_the_call_is_left_alone_for_an_hour(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(redis, settings, monkeypatch)
    models = [f"a/{number}" for number in range(10)]
    bench.source.said = dict.fromkeys(models)
    await bench.use(*models)
    await bench.look()
    assert len(bench.source.since()) == 4  # the few that were on their way together
    bench.now += 3599
    await bench.look()
    assert bench.source.since() == []
    bench.now += 1
    await bench.look()
    assert bench.source.since()


async def test_a_few_at_a_time(bench: Bench) -> None:
    await bench.use(*(f"a/{number}" for number in range(25)))
    await bench.look()
    assert len(bench.source.since()) == 25
    assert bench.source.most_at_once == 4


async def test_it_can_be_switched_off(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = msgspec.structs.replace(load(environ={}), health=HealthSettings(check=False))
    bench = Bench(redis, settings, monkeypatch)
    await bench.use("a/b")
    await bench.look()
    assert bench.source.since() == []


async def test_the_simulator_answers_as_openrouter_does(redis: Redis, settings: Settings) -> None:
    model = "openai/gpt-4o-mini"
    async with Simulator(SimulatorOptions()) as simulator:
        upstream = msgspec.structs.replace(settings.upstream, base_url=simulator.base_url)
        there = msgspec.structs.replace(settings, upstream=upstream, simulate=True)
        await note_candidates(redis, there.upstream_name, [model])
        async with Upstream(upstream, None, max_connections=4) as client:
            await EndpointChecks(redis, client, there).look()
    stated = await stated_of(redis, there.upstream_name, model)
    assert stated is not None
    assert stated.endpoints
    assert not any(one.down for one in stated.endpoints)
