"""Redis comes back from an older snapshot: what was spent since is not in it, so the fleet stands still until told."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.producer import Batch
from batchmill.store import epoch, keys

from .fleet_helpers import Scene, gather, lines, scene
from .waiting import wait_until

pytestmark = pytest.mark.drill

MODEL = "openai/gpt-4o-mini"


@contextmanager
def server_down(at: Scene) -> Iterator[Path]:
    """Kill the server and keep everybody from starting it; yields the folder of its log."""
    server = at.store.server
    assert server is not None
    with server._starting():
        process = psutil.Process(int(server.pid_path.read_text()))
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        yield server.data_dir / "appendonlydir"


async def epoch_of(at: Scene) -> int:
    return int(await at.store.redis.execute_command("HGET", keys.books(at.settings.upstream_name), "epoch") or 0)


async def epoch_reached(at: Scene, number: int) -> bool:
    return await epoch_of(at) >= number


async def alarmed(at: Scene) -> bool:
    return await epoch.alarm(at.store.redis, at.settings.upstream_name) is not None


async def stands_still(batch: Batch) -> bool:
    return (await batch.status()).blocked_by == ("alarm",)


@pytest.mark.timeout(120)
async def test_restored_books_stop_the_fleet_until_an_operator_accepts_them(tmp_path: Path) -> None:
    options = SimulatorOptions(latency="50", record=True, mean_output_tokens=10)
    async with scene(tmp_path, options, processes=2, concurrency=5) as at:
        await gather(await at.producer.submit(lines(20, models=(MODEL,)), name="before"))
        with server_down(at) as log:
            shutil.copytree(log, tmp_path / "snapshot")
        begun = await epoch_of(at)
        await wait_until(lambda: epoch_reached(at, begun + 3), "the epoch grows", patience=60)

        with server_down(at) as log:
            shutil.rmtree(log)
            shutil.copytree(tmp_path / "snapshot", log)
        await wait_until(lambda: alarmed(at), "the fleet notices", patience=30)
        sent = sum(len(made) for made in (await at.calls()).values())
        batch = await at.producer.submit(lines(30, models=(MODEL,)), name="after", anew=True)
        await wait_until(lambda: stands_still(batch), "it says why", patience=30)
        assert "accept-restored" in ((await batch.status()).blocked_on or "")
        assert sum(len(made) for made in (await at.calls()).values()) == sent

        assert await epoch.accept(at.store.redis, at.settings.upstream_name, "tester")
        assert len(await gather(batch)) == 30
