"""How models do, out of all that Redis knows, and the outlook that has it at hand."""

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError  # noqa: A004 - redis's own name

from batchmill.routing.health import FOR_EVER, EndpointHealth, ModelHealth, Stated, Tally
from batchmill.store import keys, operators, statistics
from batchmill.store.health import HealthReader, health_of, keep_stated, stated_of
from batchmill.store.statistics import SLOT, Counted, count, models_seen
from batchmill.workers import outlook as module
from batchmill.workers.outlook import Outlook
from batchmill.workers.tasks import end

from .gate_helpers import Clock
from .store_helpers import MODEL, UPSTREAM
from .waiting import wait_until


@pytest.fixture(autouse=True)
def time_stands_still(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own clock goes as that of the server does."""
    own = SimpleNamespace(monotonic=lambda: clock.now / 1000)
    monkeypatch.setattr(statistics, "time", own)
    monkeypatch.setattr(module, "time", own)


async def counted(redis: Redis, clock: Clock, calls: int, *, failures: int = 0, model: str = MODEL) -> None:
    """Count answers of 200 ms, and failures."""
    tally = Tally()
    for _ in range(calls - failures):
        tally.answered(200, None, 10)
    for _ in range(failures):
        tally.failed()
    await count(redis, UPSTREAM, [Counted(model, clock.now // (SLOT * 1000), clock.now, {"One": tally})])


async def health(redis: Redis, model: str = MODEL) -> ModelHealth:
    return (await health_of(redis, UPSTREAM, [model]))[model]


async def breaker(redis: Redis, state: str, until: int) -> None:
    name = keys.model(UPSTREAM, MODEL)
    await redis.execute_command("HSET", name, "state", state, "until", until)
    await redis.execute_command("EXPIRE", name, 60)


async def test_of_a_stranger_nothing_is_known(redis: Redis) -> None:
    assert await health_of(redis, UPSTREAM, [MODEL, "a/b"]) == {
        MODEL: ModelHealth(model=MODEL),
        "a/b": ModelHealth(model="a/b"),
    }
    assert await health_of(redis, UPSTREAM, []) == {}


async def test_it_looks_as_far_back_as_it_must(redis: Redis, clock: Clock) -> None:
    await counted(redis, clock, 30, failures=30)
    first = await health(redis)
    assert (first.calls, first.failures, first.seconds, first.latency_ms) == (30, 30, 60, None)
    await clock.forward(120_000)
    await counted(redis, clock, 19)
    assert (await health(redis)).seconds == 300  # 19 calls of the last minute are not enough
    assert (await health(redis)).calls == 49
    await counted(redis, clock, 1)
    recovered = await health(redis)
    assert (recovered.calls, recovered.failures, recovered.seconds) == (20, 0, 60)
    assert recovered.latency_ms == pytest.approx(200, rel=0.05)
    assert recovered.tokens_per_second == pytest.approx(50)
    assert recovered.measured_at == clock.now
    await clock.forward(2 * 3_600_000)
    assert ((await health(redis)).calls, (await health(redis)).seconds) == (50, 86_400)
    await clock.forward(26 * 3_600_000)
    assert await health(redis) == ModelHealth(model=MODEL)


@pytest.mark.parametrize(
    ("state", "until", "open_until", "half_open"),
    [
        ("closed", 0, 0, False),
        ("open", 5000, 5000, False),
        ("open", 0, 0, True),  # its time is over: the gate lets probes through
        ("half", 0, 0, True),
    ],
)
async def test_a_breaker_says_until_when(
    redis: Redis, clock: Clock, state: str, until: int, open_until: int, half_open: bool
) -> None:
    await breaker(redis, state, clock.now + until)
    found = await health(redis)
    assert found.open == (clock.now + open_until if open_until else 0)
    assert found.half_open is half_open


async def test_a_breaker_that_an_operator_tripped_is_open_for_ever(redis: Redis) -> None:
    await redis.execute_command("SADD", keys.lanes(UPSTREAM), MODEL)
    await operators.trip(redis, UPSTREAM, MODEL, "me")
    assert (await health(redis)).open == FOR_EVER
    await operators.reset(redis, UPSTREAM, MODEL, "me")
    assert (await health(redis)).open == 0


async def test_what_endpoints_state_is_kept_for_a_while(redis: Redis, clock: Clock) -> None:
    stated = Stated(clock.now, (EndpointHealth("One", "one", 0, 0.98, 310.0, 42.0),))
    await keep_stated(redis, UPSTREAM, MODEL, stated, seconds=30)
    assert await stated_of(redis, UPSTREAM, MODEL) == stated
    assert 0 < await redis.pttl(keys.endpoints_health(UPSTREAM, MODEL)) <= 30_000
    found = await health(redis)
    assert (found.uptime, found.stated_latency_ms, found.stated_tokens_per_second) == (0.98, 310, 42)
    assert (found.stated_at, found.calls) == (clock.now, 0)


async def test_what_another_version_kept_is_not_known(redis: Redis) -> None:
    await redis.execute_command("SET", keys.endpoints_health(UPSTREAM, MODEL), b"\xc1?", "EX", 60)
    assert await stated_of(redis, UPSTREAM, MODEL) is None
    assert await health(redis) == ModelHealth(model=MODEL)


class Reads:
    """Counts how often health is read, and can be an outage."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.away = False
        self._read = HealthReader.read
        reads = self

        async def read(reader: HealthReader, models: Sequence[str]) -> dict[str, ModelHealth]:
            return await reads.read(reader, models)

        patch.setattr(HealthReader, "read", read)

    async def read(self, reader: HealthReader, models: Sequence[str]) -> dict[str, ModelHealth]:
        self.asked.append(tuple(models))
        if self.away:
            raise ConnectionError("nobody is there")
        return await self._read(reader, models)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
async def outlook(redis: Redis) -> Any:
    outlook = Outlook(redis, UPSTREAM)
    running = asyncio.create_task(outlook.run())
    yield outlook
    await end([running])


async def test_nothing_is_read_while_nothing_is_watched(outlook: Outlook, reads: Reads) -> None:
    for _ in range(20):
        await asyncio.sleep(0)
    assert reads.asked == []
    assert outlook.health == {}


async def test_a_watched_model_is_there_within_a_round_trip(
    redis: Redis, clock: Clock, outlook: Outlook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_EVERY", 3600.0)  # only news make it read
    await counted(redis, clock, 5)
    outlook.watch([MODEL])
    await wait_until(lambda: MODEL in outlook.health)
    assert outlook.health[MODEL].calls == 5
    outlook.watch([MODEL, "a/b"])
    await wait_until(lambda: "a/b" in outlook.health)


async def test_it_is_read_again_and_replaced_only_when_it_changed(
    redis: Redis, clock: Clock, outlook: Outlook, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_EVERY", 0.001)
    outlook.watch([MODEL])
    await wait_until(lambda: MODEL in outlook.health)
    first, before = outlook.health, len(reads.asked)
    await wait_until(lambda: len(reads.asked) > before + 5)
    assert outlook.health is first
    kept: Mapping[str, ModelHealth] = dict(first)
    await counted(redis, clock, 7)
    await wait_until(lambda: outlook.health[MODEL].calls == 7)
    assert first == kept  # who still looks at it sees what it was


async def test_it_stays_through_an_outage(
    redis: Redis, clock: Clock, outlook: Outlook, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_EVERY", 0.001)
    outlook.watch([MODEL])
    await wait_until(lambda: MODEL in outlook.health)
    reads.away = True
    before = len(reads.asked)
    await wait_until(lambda: len(reads.asked) > before + 1)
    assert MODEL in outlook.health
    reads.away = False
    await counted(redis, clock, 7)
    await wait_until(lambda: outlook.health[MODEL].calls == 7)


async def test_who_is_not_watched_again_is_forgotten(redis: Redis, clock: Clock) -> None:
    outlook = Outlook(redis, UPSTREAM)
    outlook.watch(["a/b", "c/d"])
    await outlook.refresh()
    await clock.forward(3_000_000)
    outlook.watch(["c/d"])
    await clock.forward(600_000)
    await outlook.refresh()
    assert set(outlook.health) == {"c/d"}
    await clock.forward(3_000_000)
    await outlook.refresh()
    assert outlook.health == {}


async def test_candidates_count_as_in_use_while_they_are_watched(redis: Redis, clock: Clock) -> None:
    outlook = Outlook(redis, UPSTREAM)
    for _ in range(4):
        outlook.watch(["a/b"])
        await outlook.refresh()
        await clock.forward(1_800_000)
    assert await models_seen(redis, UPSTREAM) == ["a/b"]
    await clock.forward(3_600_000)
    await outlook.refresh()
    assert await models_seen(redis, UPSTREAM) == []
