"""A whole worker against a simulator: what it sends is counted, what it watches is at hand, endpoints are asked for."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from batchmill.config.settings import Settings
from batchmill.openrouter.simulator import Simulator, SimulatorOptions
from batchmill.producer import Producer
from batchmill.routing.health import Window
from batchmill.store.connection import Store, open_store
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.health import stated_of
from batchmill.store.statistics import models_seen, traffic
from batchmill.workers import maintenance, process

from .conftest import check_leaks
from .fleet_helpers import MODELS, gather, lines
from .test_worker_process import at_work, settings_for
from .waiting import wait_until


@pytest.fixture
async def opened(server: EmbeddedServer, settings: Settings) -> AsyncIterator[Store]:
    """An empty real server, opened as every command does."""
    async with open_store(msgspec.structs.replace(settings, redis_url=server.url)) as store:
        await store.redis.flushall()
        yield store
        await check_leaks(store.redis)


async def test_a_worker_counts_what_it_sends_and_knows_what_it_watches(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "_EVERY", 0.05)
    monkeypatch.setattr(process, "_LEAVE_TIMEOUT", 15.0)
    redis = opened.redis
    async with Simulator(SimulatorOptions(latency="5")) as simulator:
        there = settings_for(simulator, lease=10.0)  # on a busy machine, too, no line is sent twice
        upstream = there.upstream_name

        async def endpoints_said() -> bool:
            return await stated_of(redis, upstream, MODELS[0]) is not None

        async with at_work(opened, there) as worker:
            outlook = worker._outlook
            batch = await Producer(redis, there).submit(lines(60))
            await gather(batch)
            outlook.watch(MODELS)
            await wait_until(lambda: all(m in outlook.health and outlook.health[m].calls == 30 for m in MODELS))
            await wait_until(endpoints_said)
            await wait_until(lambda: outlook.health[MODELS[0]].stated_at > 0)
            again = await Producer(redis, there).submit(lines(20, max_tokens=21))
            await gather(again)
        found = await traffic(redis, upstream, MODELS, Window.FIVE_MINUTES)
        assert set(await models_seen(redis, upstream)) == set(MODELS)
    for model in MODELS:
        assert found[model].calls == 40  # the last ones, too: the worker counts them as it leaves
        assert found[model].latency is not None
        assert "" not in found[model].providers
