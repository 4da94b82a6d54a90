"""One whole worker against a simulator, in this process: what it does in trouble, and how it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchmill.config.settings import RetrySettings, Settings, WorkerSettings, load
from batchmill.openrouter.simulator import FaultKind, Faults, Simulator, SimulatorOptions
from batchmill.producer import Batch, Producer
from batchmill.store import keys, service_keys
from batchmill.store.batches import account_refusal
from batchmill.store.connection import Store, open_store
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.model import BatchState, BatchStatus, LineState
from batchmill.workers.process import WorkerProcess

from .conftest import check_leaks
from .fleet_helpers import gather, lines, when_done


@pytest.fixture
async def store(server: EmbeddedServer, settings: Settings) -> AsyncIterator[Store]:
    """An empty real server, opened as every command does."""
    async with open_store(msgspec.structs.replace(settings, redis_url=server.url)) as opened:
        await opened.redis.flushall()
        yield opened
        await check_leaks(opened.redis)


def settings_for(simulator: Simulator, **worker: Any) -> Settings:
    """Return settings of a quick worker for that simulator."""
    settings = load(environ={"BATCHMILL_BASE_URL": simulator.base_url, "OPENROUTER_API_KEY": "sk-or-v1-test"})
    return msgspec.structs.replace(
        settings,
        worker=WorkerSettings(**{"concurrency": 20, "grace": 5.0, "heartbeat": 0.1, "lease": 1.0, **worker}),
        retry=RetrySettings(first_delay=0.001, max_delay=0.01),
    )


@asynccontextmanager
async def at_work(store: Store, settings: Settings) -> AsyncIterator[WorkerProcess]:
    """Run a worker for a while, and let it end in order."""
    worker = WorkerProcess(settings, store.url)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await task


async def until(batch: Batch, condition: Any) -> BatchStatus:
    """Wait for a status."""
    while not condition(status := await batch.status()):
        await asyncio.sleep(0.02)
    return status


async def test_everything_ends_well_over_all_kinds_of_transient_trouble(store: Store) -> None:
    """A third of the calls fails: every line has its answer, every attempt is kept, the sums are the upstream's."""
    options = SimulatorOptions(latency="2", faults=Faults(fail_rate=0.3), seed=7)
    async with Simulator(options) as simulator:
        settings = msgspec.structs.replace(
            settings_for(simulator), retry=RetrySettings(max_attempts=20, first_delay=0.001, max_delay=0.01)
        )
        producer = Producer(store.redis, settings)
        async with at_work(store, settings):
            batch = await producer.submit(lines(200))
            results = await gather(batch)
            status = await batch.status()
        stats = simulator.stats
    assert len(results) == 200
    assert status.succeeded == 200
    assert max(len(result.attempts) for result in results.values()) > 1
    told = sum(attempt.cost or 0 for result in results.values() for attempt in result.attempts)
    assert told == status.cost
    unknown = [a for result in results.values() for a in result.attempts if a.billed == "maybe" and a.cost is None]
    assert stats.billed_nano - status.cost >= 0
    assert stats.billed_nano == status.cost or unknown, "the bill is higher than the books, and nobody says why"


async def test_a_cancelled_batch_keeps_what_is_in_the_air_and_sends_nothing_more(store: Store) -> None:
    async with Simulator(SimulatorOptions(latency="150")) as simulator:
        settings = settings_for(simulator, concurrency=5)
        producer = Producer(store.redis, settings)
        async with at_work(store, settings):
            batch = await producer.submit(lines(300))
            await when_done(batch, 5)
            assert await batch.cancel() in (BatchState.CANCELLING, BatchState.CANCELLED)
            results = await gather(batch)
            status = await batch.status()
        completions = simulator.stats.completions
    assert status.state is BatchState.CANCELLED
    states = [result.state for result in results.values()]
    assert len(states) == 300
    assert status.succeeded == states.count(LineState.SUCCEEDED) == completions
    assert status.cancelled == states.count(LineState.CANCELLED) == 300 - completions
    assert completions < 100


async def test_a_batch_whose_time_is_over_ends_by_its_workers_alone(store: Store) -> None:
    async with Simulator(SimulatorOptions(latency="150")) as simulator:
        settings = settings_for(simulator, concurrency=5)
        producer = Producer(store.redis, settings)
        async with at_work(store, settings):
            batch = await producer.submit(lines(600), window="1h")
            await when_done(batch, 5)
            await store.redis.execute_command("HSET", keys.batch(batch.id), "expires_at", 1)
            await store.redis.execute_command("ZADD", service_keys.deadlines(), 1, batch.id)
            results = await gather(batch)
            status = await batch.status()
        completions = simulator.stats.completions
    assert status.state is BatchState.EXPIRED
    states = [result.state for result in results.values()]
    assert status.succeeded == states.count(LineState.SUCCEEDED) == completions
    assert status.expired == states.count(LineState.EXPIRED) == 600 - completions
    assert all(result.request for result in results.values() if result.state is LineState.EXPIRED)
    assert 0 < completions < 590


async def test_cancelling_needs_no_worker(store: Store, settings: Settings) -> None:
    producer = Producer(store.redis, settings)
    batch = await producer.submit(lines(130))
    assert (await batch.status()).blocked_on == f"no worker for {settings.upstream_name}; `batchmill worker` starts one"
    assert await batch.cancel() is BatchState.CANCELLED
    assert len(await gather(batch)) == 130
    assert await store.redis.keys("arq:*") == []
    assert await batch.cancel() is BatchState.CANCELLED


async def test_a_refused_account_is_said_and_costs_no_line_anything(store: Store) -> None:
    refusing = Faults(rates={FaultKind.OUT_OF_CREDITS: 1.0})
    async with Simulator(SimulatorOptions(faults=refusing)) as simulator:
        settings = settings_for(simulator)
        producer = Producer(store.redis, settings)
        async with at_work(store, settings):
            batch = await producer.submit(lines(50))
            status = await until(batch, lambda status: "refuses the account" in (status.blocked_on or ""))
            assert await account_refusal(store.redis, settings.upstream_name)
            assert status.done == 0
    assert (await batch.status()).pending == 50


async def test_a_rate_limit_is_waited_for_and_said(store: Store) -> None:
    async with Simulator(SimulatorOptions(rpm={"*": 60})) as simulator:
        settings = settings_for(simulator)
        producer = Producer(store.redis, settings)
        async with at_work(store, settings):
            batch = await producer.submit(lines(90, models=("openai/gpt-4o-mini",)))
            status = await until(batch, lambda status: "limit of openai" in (status.blocked_on or ""))
            assert status.failed == 0
            await batch.cancel()


async def test_what_hangs_beyond_the_grace_is_given_back_and_done_by_the_next(store: Store) -> None:
    async with Simulator(SimulatorOptions(faults=Faults(rates={FaultKind.HANG: 1.0}))) as simulator:
        settings = settings_for(simulator, grace=0.1)
        producer = Producer(store.redis, settings)
        async with at_work(store, settings):
            batch = await producer.submit(lines(40))
            await until(batch, lambda status: status.running)
        assert (await batch.status()).pending == 40
        simulator.set_faults(Faults())
        async with at_work(store, settings):
            assert len(await gather(batch)) == 40


async def models(batch: Batch) -> list[str]:
    """Return the models of a batch."""
    return list((await batch.status()).models)


async def test_a_second_signal_does_not_wait_for_what_hangs(store: Store) -> None:
    hanging = Faults(rates={FaultKind.HANG: 1.0})
    async with Simulator(SimulatorOptions(faults=hanging)) as simulator:
        settings = settings_for(simulator, grace=3600.0)
        producer = Producer(store.redis, settings)
        async with at_work(store, settings) as worker:
            batch = await producer.submit(lines(4))
            await until(batch, lambda status: status.running)
            worker.stop()
            worker.stop()
    assert (await batch.status()).pending == 4


async def test_a_worker_ends_whenever_it_is_told_to(store: Store) -> None:
    """Stopped at forty moments of its first tenth of a second, it always ends, and gives everything back."""
    async with Simulator(SimulatorOptions(faults=Faults(fail_rate=0.5))) as simulator:
        settings = settings_for(simulator)
        producer = Producer(store.redis, settings)
        for moment in range(40):
            async with at_work(store, settings):
                batch = await producer.submit(lines(50), anew=True)
                await asyncio.sleep(moment * 0.0025)
            status = await batch.status()
            assert status.running == 0
            assert status.done + status.pending == 50
            await batch.cancel()


async def test_lines_for_another_upstream_are_not_touched(store: Store, settings: Settings) -> None:
    for_another = await Producer(store.redis, settings).submit(lines(10))
    async with Simulator(SimulatorOptions()) as simulator:
        own = settings_for(simulator)
        async with at_work(store, own):
            await gather(await Producer(store.redis, own).submit(lines(10)))
        assert simulator.stats.completions == 10
    assert (await for_another.status()).pending == 10


async def test_a_shard_that_fell_between_two_steps_is_queued_again(store: Store) -> None:
    """A producer that died after the release, before it queued anything."""
    async with Simulator(SimulatorOptions()) as simulator:
        settings = settings_for(simulator)
        producer = Producer(store.redis, settings)
        batch = await producer.submit(lines(80))
        for model in await models(batch):
            await store.redis.delete(keys.lane(settings.upstream_name, model))
        async with at_work(store, settings):
            assert len(await gather(batch)) == 80


async def test_a_worker_that_overslept_its_lease_changes_nothing_of_its_successor(store: Store) -> None:
    async with Simulator(SimulatorOptions(latency="400")) as simulator:
        settings = settings_for(simulator, concurrency=50)
        producer = Producer(store.redis, settings)
        async with at_work(store, settings):
            batch = await producer.submit(lines(40, models=("openai/gpt-4o-mini",)))
            await until(batch, lambda status: status.running)
            runs = keys.runs(settings.upstream_name, "openai/gpt-4o-mini")
            held = await store.redis.execute_command("HGETALL", runs)
            for reference in held:
                await store.redis.execute_command("HSET", runs, reference, "another-worker.1")
            results = await gather(batch)
        assert len(results) == 40
        assert await store.redis.execute_command("HGETALL", runs) == dict.fromkeys(held, b"another-worker.1")
        await store.redis.delete(runs, keys.leases(settings.upstream_name, "openai/gpt-4o-mini"))


async def test_no_worker_goes_without_taking_its_name_off_the_list(store: Store) -> None:
    async with Simulator(SimulatorOptions()) as simulator:
        settings = settings_for(simulator)
        name = keys.workers(settings.upstream_name)
        async with at_work(store, settings) as worker:
            while await store.redis.zscore(name, worker.worker_id) is None:
                await asyncio.sleep(0.01)
        assert await store.redis.zcard(name) == 0


async def test_no_log_shows_a_prompt_or_the_key(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = Faults(rates={FaultKind.RATE_LIMIT: 0.3, FaultKind.MODERATION: 0.2})
    async with Simulator(SimulatorOptions(faults=faults, seed=3)) as simulator:
        settings = settings_for(simulator)
        producer = Producer(store.redis, settings)
        async with at_work(store, settings):
            await gather(await producer.submit(lines(60)))
        await producer.submit(lines(61))  # nobody works on these: prompts are in Redis, and the key is not
    out, err = capsys.readouterr()
    assert "worker.up" in out + err
    assert "What is special" not in out + err
    assert "sk-or-v1" not in out + err
    values = [await value_of(store, key.decode()) for key in await store.redis.keys("*")]
    assert "What is special" in str(values), "values are looked at as they are"
    assert "sk-or-v1" not in str(values)


async def value_of(store: Store, key: str) -> object:
    """Return what a key holds, unpacked (DUMP may compress)."""
    kind = (await store.redis.execute_command("TYPE", key)).decode()
    command = {
        "string": ("GET", key),
        "hash": ("HGETALL", key),
        "set": ("SMEMBERS", key),
        "zset": ("ZRANGE", key, 0, -1),
        "stream": ("XRANGE", key, "-", "+"),
    }[kind]
    return await store.redis.execute_command(*command)
