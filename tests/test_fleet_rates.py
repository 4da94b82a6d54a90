"""Limits over a fleet: never more than capacity + rate x window, and hardly less (DESIGN promise 5)."""

import time
from pathlib import Path

import pytest

from batchmill.config.policy import Limit, Policy
from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.producer import Batch
from batchmill.store import policy

from .fleet_helpers import Scene, lines, scene
from .waiting import wait_until

pytestmark = pytest.mark.drill

MODEL = "openai/gpt-4o-mini"
SECONDS = 12.0
A_MINUTE = 600
BURST = 30  # requests: three seconds' worth
JITTER = 0.3  # seconds between the gate's word and the upstream's record, on a busy machine


def most_in(times: list[float], window: float) -> int:
    """Return the most calls that fell into any window of that length."""
    most, first = 0, 0
    for last, moment in enumerate(times):
        while moment - times[first] > window:
            first += 1
        most = max(most, last - first + 1)
    return most


async def call_times(at: Scene) -> list[float]:
    return sorted(call.t for made in (await at.calls()).values() for call in made)


async def run_for(at: Scene, batch: Batch, seconds: float) -> None:
    """Let the fleet work for a while, from its first call on."""
    await wait_until(lambda: called(at), "the first call")
    started = time.monotonic()
    await wait_until(lambda: time.monotonic() - started > seconds, "the end of the watch", patience=2 * seconds)
    assert (await batch.status()).pending > 0, "there was too little work to show anything"


async def called(at: Scene) -> bool:
    return bool(await at.calls())


@pytest.mark.timeout(120)
async def test_eight_workers_share_one_bucket_of_requests(tmp_path: Path) -> None:
    limit = Limit(match="openai/*", requests_per_minute=A_MINUTE, burst_seconds=3.0)
    options = SimulatorOptions(latency="40", record=True, mean_output_tokens=10)
    async with scene(tmp_path, options, processes=8, concurrency=20) as at:
        await policy.apply(at.store.redis, at.settings.upstream_name, Policy(limits=(limit,)), "test")
        batch = await at.producer.submit(lines(1000, models=(MODEL,)))
        await run_for(at, batch, SECONDS)
        times = await call_times(at)
        await batch.cancel()

    rate = A_MINUTE / 60
    for window in (1.0, 2.0, 5.0, 10.0):
        assert most_in(times, window) <= BURST + rate * (window + JITTER)
    elapsed = times[-1] - times[0]
    assert len(times) >= 0.95 * (BURST + rate * elapsed)


@pytest.mark.timeout(120)
async def test_eight_workers_share_one_bucket_of_tokens(tmp_path: Path) -> None:
    """Lines reserve far more than they use; what they leave is used by others, and still no window holds too much."""
    a_minute = 60_000
    limit = Limit(match="*", tokens_per_minute=a_minute, shared=True, burst_seconds=3.0)
    options = SimulatorOptions(latency="uniform:50:400", record=True, mean_output_tokens=40)
    async with scene(tmp_path, options, processes=8, concurrency=20) as at:
        await policy.apply(at.store.redis, at.settings.upstream_name, Policy(limits=(limit,)), "test")
        batch = await at.producer.submit(lines(2000, models=(MODEL,), max_tokens=200))
        await run_for(at, batch, SECONDS)
        await batch.cancel()
        used = [result.usage async for result in batch.results(follow=True) if result.usage is not None]
        times = await call_times(at)

    rate, capacity = a_minute / 60, a_minute / 20
    elapsed = times[-1] - times[0]
    total = sum(usage.prompt_tokens + usage.completion_tokens for usage in used)
    assert total <= capacity + rate * (elapsed + JITTER)
    assert total >= 0.95 * rate * elapsed
