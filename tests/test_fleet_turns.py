"""Whose turn it is, over a fleet: small batches behind giant ones, and projects by their weights."""

import asyncio
from pathlib import Path

import pytest

from batchmill.config.policy import Limit, Policy, Project
from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.producer import Batch
from batchmill.store import policy

from .fleet_helpers import gather, lines, scene
from .waiting import wait_until

pytestmark = pytest.mark.drill

MODEL = "openai/gpt-4o-mini"
A_SECOND = 20  # lines that the limit lets through
LIMIT = Limit(match="*", requests_per_minute=60 * A_SECOND, burst_seconds=1.0)
OPTIONS = SimulatorOptions(latency="50", mean_output_tokens=10)


async def succeeded(batch: Batch) -> int:
    return (await batch.status()).succeeded


async def more_than(batch: Batch, count: int) -> bool:
    return await succeeded(batch) > count


@pytest.mark.timeout(180)
async def test_a_small_batch_is_not_stuck_behind_a_giant_one(tmp_path: Path) -> None:
    async with scene(tmp_path, OPTIONS, processes=2, concurrency=50) as at:
        await policy.apply(at.store.redis, at.settings.upstream_name, Policy(limits=(LIMIT,)), "test")
        giant = await at.producer.submit(lines(20_000, models=(MODEL,)), name="giant")
        await wait_until(lambda: more_than(giant, 50), "the giant runs", patience=60)
        before = await succeeded(giant)
        small = await at.producer.submit(lines(10, models=(MODEL,)), name="small", anew=True)
        await wait_until(lambda: more_than(small, 0), "the small one starts", patience=60)
        until_its_first = await succeeded(giant) - before
        await gather(small)
        until_its_last = await succeeded(giant) - before
        assert (await giant.status()).pending > 15_000
        await giant.cancel()
    assert until_its_first < 5 * A_SECOND, "it did not start within a few seconds' worth of lines"
    assert until_its_last < 10 * A_SECOND


@pytest.mark.timeout(180)
async def test_projects_share_a_limited_model_by_their_weights(tmp_path: Path) -> None:
    projects = (Project(name="heavy", weight=3.0), Project(name="light", weight=1.0))
    async with scene(tmp_path, OPTIONS, processes=3, concurrency=20) as at:
        await policy.apply(
            at.store.redis, at.settings.upstream_name, Policy(limits=(LIMIT,), projects=projects), "test"
        )
        work = [
            (
                project,
                number,
                at.producer.submit(lines(1500, models=(MODEL,)), project=project, name=f"{project}{number}", anew=True),
            )
            for project, number in (("light", 0), ("heavy", 0), ("light", 1))
        ]
        batches = {(project, number): await submitting for project, number, submitting in work}
        heavy = batches["heavy", 0]
        await wait_until(lambda: more_than(heavy, 60), "both work", patience=60)
        before = await asyncio.gather(*(succeeded(batch) for batch in batches.values()))
        await wait_until(lambda: more_than(heavy, 60 + 300), "enough to count", patience=90)
        after = await asyncio.gather(*(succeeded(batch) for batch in batches.values()))
        for batch in batches.values():
            await batch.cancel()
    gained = {key: ended - began for key, began, ended in zip(batches, before, after, strict=True)}
    share = gained["heavy", 0] / sum(gained.values())
    assert share == pytest.approx(0.75, rel=0.1), gained
