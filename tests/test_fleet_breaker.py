"""One model is down while others work: they are unhurt, it is left alone, and comes back by itself."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import msgspec
import pytest

from batchmill.config.policy import Breaker, Policy
from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.producer import Batch
from batchmill.store import keys, policy

from .fleet_helpers import Scene, gather, lines, scene
from .waiting import wait_until

pytestmark = pytest.mark.drill

DEAD, WELL = "openai/gpt-4o-mini", "anthropic/claude-haiku-4.5"
DOWN = {"models": {DEAD: {"rates": {"503": 1.0}}}}
SECONDS = 20.0


class Call(msgspec.Struct, frozen=True):
    t: float
    model: str
    status: str


async def set_faults(at: Scene, faults: Mapping[str, object]) -> None:
    async with httpx.AsyncClient() as client:
        reply = await client.post(at.simulator.base_url.removesuffix("/api/v1") + "/_sim/faults", json=faults)
    assert reply.status_code == 200


async def calls_of(at: Scene, model: str) -> list[Call]:
    async with httpx.AsyncClient() as client:
        reply = await client.get(at.simulator.base_url.removesuffix("/api/v1") + "/_sim/calls")
    return [call for call in msgspec.json.decode(reply.content, type=list[Call]) if call.model == model]


async def is_open(at: Scene) -> bool:
    state = await at.store.redis.execute_command("HGET", keys.model(at.settings.upstream_name, DEAD), "state")
    return bool(state == b"open")


async def done(batch: Batch, count: int) -> bool:
    return (await batch.status()).succeeded >= count


@pytest.mark.timeout(120)
async def test_a_dead_model_is_probed_and_nobody_else_is_hurt(tmp_path: Path) -> None:
    options = SimulatorOptions(latency="200", record=True, mean_output_tokens=10)
    breaker = Breaker(min_calls=10, open_seconds=1.0, max_open_seconds=3.0, probes=2)
    async with scene(tmp_path, options, processes=4, concurrency=10) as at:
        await policy.apply(at.store.redis, at.settings.upstream_name, Policy(breaker=breaker), "test")
        alone = await at.producer.submit(lines(400, models=(WELL,)), name="alone")
        await gather(alone)
        times = sorted(call.t for call in await calls_of(at, WELL))
        undisturbed = (len(times) - 1) / (times[-1] - times[0])

        await set_faults(at, DOWN)
        sick = await at.producer.submit(lines(200, models=(DEAD,)), name="sick")
        await wait_until(lambda: is_open(at), "the breaker opens")
        opened, before = time.time(), len(await calls_of(at, DEAD))
        well = await at.producer.submit(
            ({**line, "custom_id": f"b{n}"} for n, line in enumerate(lines(7000, models=(WELL,)))), name="well"
        )
        await wait_until(lambda: done(well, 200), "the others work")
        started = time.time()
        await wait_until(lambda: time.time() - started > SECONDS, "the end of the watch", patience=30)
        ended = time.time()
        mine = [call.t for call in await calls_of(at, WELL) if started < call.t < ended]
        probes = len(await calls_of(at, DEAD)) - before
        assert (await sick.status()).succeeded == 0

        await set_faults(at, {})
        async with asyncio.timeout(30):  # within seconds, when the machine is not busy with other things
            results = await gather(sick)
        await well.cancel()

    assert len(mine) / (ended - started) >= 0.95 * undisturbed
    assert probes <= 2 * (ended - opened) / 1.0 + 4 * 10, "more than the lines in the air at the time, and some probes"
    assert len(results) == 200
