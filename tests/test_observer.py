"""The process's own counting: what it takes from an outcome, and that an outage of Redis costs it little."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import structlog.testing
from redis.asyncio import Redis
from redis.exceptions import ConnectionError  # noqa: A004 - redis's own name

from batchmill.config.settings import RetrySettings
from batchmill.openrouter.outcomes import Answer, Fault, Retry, Usage
from batchmill.routing.health import Window
from batchmill.store import keys, statistics
from batchmill.store.model import Terms
from batchmill.store.statistics import traffic
from batchmill.workers import statistics as module
from batchmill.workers.dispatcher import Dispatcher
from batchmill.workers.statistics import MOST_SLOTS, Observer
from batchmill.workers.tasks import end

from .store_helpers import MODEL, UPSTREAM
from .waiting import wait_until
from .workers_helpers import Desk, failure

OK = Answer(b"{}", MODEL, Usage(3, 50), 700, 812, provider="One", first_token_ms=120)


class Away:
    """Stands between an observer and Redis, and can be away."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.away = False
        self.tries = 0
        self.counted = 0
        self.open = asyncio.Event()  # replies stay on their way until then
        self.open.set()
        self._count = statistics.count
        patch.setattr(statistics, "count", self.count)

    async def count(self, *given: Any) -> statistics.Flushed:
        self.tries += 1
        if self.away:
            raise ConnectionError("nobody is there")
        flushed = await self._count(*given)
        self.counted += 1
        await self.open.wait()
        return flushed


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Away:
    return Away(monkeypatch)


class Time:
    """What the observer takes for the time."""

    def __init__(self) -> None:
        self.now = 5_000_000.0

    def set(self, patch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now)
        patch.setattr(module, "time", clock)


async def test_only_what_the_provider_did_counts(redis: Redis) -> None:
    observer = Observer(redis, UPSTREAM)
    observer.saw(MODEL, OK)
    observer.saw(MODEL, failure(Retry.BACKOFF, provider="One"))
    observer.saw(MODEL, failure(Retry.LATER, fault=Fault.LIMIT, status=429))
    observer.saw(MODEL, failure(Retry.NEVER, fault=Fault.CALLER, status=400))
    observer.saw(MODEL, failure(Retry.ACCOUNT, fault=Fault.ACCOUNT, status=402))
    await observer.flush()
    found = (await traffic(redis, UPSTREAM, [MODEL], Window.MINUTE))[MODEL]
    assert (found.calls, found.failures, found.limited) == (2, 1, 1)
    assert (found.providers["One"].calls, found.providers[""].limited) == (2, 1)
    assert found.first_token is not None
    assert found.first_token.p50 == pytest.approx(120, rel=0.05)
    assert found.tokens_per_second == pytest.approx(50 / 0.692)


async def test_nothing_is_counted_twice(redis: Redis) -> None:
    observer = Observer(redis, UPSTREAM)
    observer.saw(MODEL, OK)
    for _ in range(3):
        await observer.flush()
    assert (await traffic(redis, UPSTREAM, [MODEL], Window.HOUR))[MODEL].calls == 1


async def test_what_came_in_an_outage_is_counted_after_it(
    redis: Redis, link: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_EVERY", 0.001)
    observer = Observer(redis, UPSTREAM)
    with structlog.testing.capture_logs() as logged:
        running = asyncio.create_task(observer.run())
        try:
            link.away = True
            observer.saw(MODEL, OK)
            await wait_until(lambda: link.tries > 2)
            observer.saw(MODEL, OK)
            link.away = False
            await wait_until(lambda: not observer._gathered)
        finally:
            await end([running])
    assert (await traffic(redis, UPSTREAM, [MODEL], Window.HOUR))[MODEL].calls == 2
    assert [entry["event"] for entry in logged].count("statistics.wait") == 1


async def test_the_end_waits_for_the_flush_on_its_way_and_counts_the_rest(
    redis: Redis, link: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_EVERY", 0.001)
    observer = Observer(redis, UPSTREAM)
    running = asyncio.create_task(observer.run())
    link.open.clear()
    observer.saw(MODEL, OK)
    await wait_until(lambda: link.counted > 0)
    await end([running])
    observer.saw(MODEL, OK)
    closing = asyncio.create_task(observer.close(15))
    await asyncio.sleep(0)
    link.open.set()
    await closing
    assert (await traffic(redis, UPSTREAM, [MODEL], Window.HOUR))[MODEL].calls == 2


async def test_the_end_does_not_wait_for_ever(redis: Redis, link: Away) -> None:
    observer = Observer(redis, UPSTREAM)
    observer.saw(MODEL, OK)
    link.open.clear()
    await observer.close(0.01)
    assert observer._flight is None
    link.open.set()
    link.away = True
    observer.saw(MODEL, OK)
    await observer.close(15)
    assert observer._flight is None


async def test_a_long_outage_leaves_the_last_minutes(redis: Redis, link: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    time.set(monkeypatch)
    observer = Observer(redis, UPSTREAM)
    link.away = True
    for _ in range(10 * MOST_SLOTS):
        observer.saw(MODEL, OK)
        with pytest.raises(ConnectionError):
            await observer.flush()
        time.now += statistics.SLOT
    kept = observer._gathered.values()
    assert len(kept) == MOST_SLOTS
    assert max(one.at for one in kept) == (time.now - statistics.SLOT) * 1000


async def test_what_a_slot_refuses_waits_alone(redis: Redis) -> None:
    observer = Observer(redis, UPSTREAM)
    observer.saw("a/good", OK)
    observer.saw("a/bad", OK)
    for slot, model in observer._gathered:
        if model == "a/bad":
            name = keys.traffic(UPSTREAM, model, 10, slot)
            await redis.execute_command("SET", name, "no hash", "EX", 60)
    for _ in range(2):
        with pytest.raises(Exception, match="WRONGTYPE"):
            await observer.flush()
    assert [model for _, model in observer._gathered] == ["a/bad"]
    assert (await traffic(redis, UPSTREAM, ["a/good"], Window.MINUTE))["a/good"].calls == 1


async def test_providers_without_end_are_nobody_in_particular(redis: Redis) -> None:
    observer = Observer(redis, UPSTREAM)
    for number in range(500):
        observer.saw(MODEL, Answer(b"{}", MODEL, Usage(), 0, 1, provider=f"{number} " + "x" * 1000))
    await observer.flush()
    providers = (await traffic(redis, UPSTREAM, [MODEL], Window.HOUR))[MODEL].providers
    assert len(providers) == 65
    assert max(map(len, providers)) == 64
    assert sum(one.calls for one in providers.values()) == 500


async def test_each_call_is_seen_under_the_model_of_its_hold() -> None:
    told: list[tuple[str, object]] = []
    desk = Desk(script=lambda _: OK)
    desk.dispatcher = Dispatcher(
        desk.upstream.send,
        desk.ledger,  # type: ignore[arg-type]  # the same face as Recorder
        desk.gate,
        RetrySettings(),
        concurrency=4,
        on_blocked=lambda _reason, _seconds: None,
        restraint=desk,
        observe=lambda model, outcome: told.append((model, outcome)),
    )
    desk.gate.serve(desk.dispatcher)
    shard = desk.shard(MODEL, ["one", "two"], terms=Terms())
    await shard.ended
    assert told == [(MODEL, OK), (MODEL, OK)]
