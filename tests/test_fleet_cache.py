"""The answer cache in a fleet of real processes: lines that are alike cost one call, also when its worker is killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchmill.openrouter.simulator import SimulatorOptions

from .fleet_helpers import Scene, gather, lines, scene, when_done


def alike(count: int, kinds: int) -> Iterator[dict[str, Any]]:
    """Yield lines of so many kinds; those of one kind differ in nothing but their ids."""
    bodies = [line["body"] for line in lines(kinds)]
    for number in range(count):
        yield {**next(lines(1)), "custom_id": f"line-{number}", "body": bodies[number % kinds]}


async def calls_of(stage: Scene) -> list[int]:
    return sorted(len(calls) for calls in (await stage.calls()).values())


async def test_two_workers_send_each_kind_of_line_once(tmp_path: Path) -> None:
    async with scene(tmp_path, SimulatorOptions(latency="150", record=True), concurrency=20) as stage:
        first = await stage.producer.submit(alike(120, 12), cache=True)
        second = await stage.producer.submit(alike(60, 12), cache=True, name="second")
        results = [*(await gather(first)).values(), *(await gather(second)).values()]
        assert await calls_of(stage) == [1] * 12
        assert sum(result.cached for result in results) == 180 - 12
        status = [await first.status(), await second.status()]
        assert sum(one.cached for one in status) == 180 - 12
        assert sum(one.succeeded for one in status) == 180
        paid = sum(result.cost or 0 for result in results if not result.cached)
        assert sum(one.cost for one in status) == paid > 0


async def test_lines_that_wait_for_a_killed_worker_s_line_are_answered(tmp_path: Path) -> None:
    options = SimulatorOptions(latency="300", record=True)
    async with scene(tmp_path, options, processes=2, concurrency=10, lease=2.0, heartbeat=0.5) as stage:
        batch = await stage.producer.submit(alike(200, 40), cache=True)
        await when_done(batch, 10)
        os.kill(stage.fleet.pids[0], signal.SIGKILL)
        results = await gather(batch)
        assert len(results) == 200
        assert all(result.succeeded for result in results.values())
        calls = await calls_of(stage)
        assert len(calls) == 40
        assert sum(calls) <= 40 + 10, "only what was in the air is sent again"
