"""Worker processes whose surroundings go away: the supervisor, the server, another user of the data folder."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from batchmill.config.settings import Settings, WorkerSettings, load
from batchmill.openrouter.simulator import FaultKind, Faults, Simulator, SimulatorOptions
from batchmill.producer import Producer
from batchmill.store.connection import open_store
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.presence import workers_alive
from batchmill.workers.__main__ import fit_open_files
from batchmill.workers.fleet import Fleet, FleetError, pack_handover
from batchmill.workers.lane import LaneWorker
from batchmill.workers.process import WorkerProcess

from .fleet_helpers import OPTIONS_OF_WORKERS, gather, lines, scene, when_done
from .test_worker_process import at_work, settings_for, store, until

__all__ = ["store"]


def born(settings: Settings, redis_url: str, *, supervisor: int | None = None) -> "subprocess.Popen[bytes]":
    """Start a worker process as a fleet does; by default we are its supervisor."""
    process = subprocess.Popen(
        [sys.executable, "-m", "batchmill.workers"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    handover = msgspec.msgpack.decode(pack_handover(settings, redis_url, embedded=False))
    assert process.stdin is not None
    process.stdin.write(msgspec.msgpack.encode({**handover, "supervisor": supervisor or os.getpid()}))
    process.stdin.close()
    process.stdin = None
    return process


async def test_a_bystander_that_leaves_does_not_stop_the_server_under_orphans(tmp_path: Path) -> None:
    """`batchmill worker` is killed, somebody looks at the status: what is in the air is recorded all the same."""
    async with Simulator(SimulatorOptions(latency="1500")) as simulator:
        environ = {
            "BATCHMILL_BASE_URL": simulator.base_url,
            "BATCHMILL_DATA_DIR": str(tmp_path),
            "OPENROUTER_API_KEY": "sk-or-v1-test",
        }
        settings = load(environ=environ)
        command = subprocess.Popen(  # noqa: ASYNC220 - quick
            [sys.executable, "-m", "batchmill.cli", "worker"], env={**os.environ, **environ}, stderr=subprocess.DEVNULL
        )
        async with open_store(settings) as opened:
            batch = await Producer(opened.redis, settings).submit(lines(20))
            await until(batch, lambda status: status.running == 20)
            (worker,) = psutil.Process(command.pid).children()
            command.kill()
            command.wait()
        await asyncio.to_thread(worker.wait, 30)
        async with open_store(settings) as opened:
            status = await (await Producer(opened.redis, settings).batch(batch.id)).status()
        assert simulator.stats.completions == status.succeeded == 20


async def test_a_worker_whose_supervisor_was_gone_before_it_looked_leaves(store: Any) -> None:
    async with Simulator(SimulatorOptions()) as simulator:
        worker = born(settings_for(simulator), store.url, supervisor=os.getppid())
        assert await asyncio.to_thread(worker.wait, 30) == 0


async def test_a_worker_leaves_even_when_redis_never_comes_back(tmp_path: Path) -> None:
    hanging = Faults(rates={FaultKind.HANG: 1.0})
    async with Simulator(SimulatorOptions(faults=hanging)) as simulator:
        settings = msgspec.structs.replace(settings_for(simulator, grace=0.5), data_dir=tmp_path)
        server = EmbeddedServer(tmp_path)
        server.join()
        worker = born(settings, server.url)
        async with open_store(settings) as opened:
            batch = await Producer(opened.redis, settings).submit(lines(20))
            await until(batch, lambda status: status.running)
        os.kill(int(server.pid_path.read_text()), signal.SIGKILL)
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 30) == 0
        server.leave()


async def test_a_drained_worker_exits_with_zero_whatever_is_submitted_meanwhile(tmp_path: Path) -> None:
    async with scene(tmp_path, SimulatorOptions(latency="1000"), **OPTIONS_OF_WORKERS) as at:
        await at.producer.submit(lines(20))
        batch = await at.producer.submit(lines(10, models=("openai/gpt-4o",)))
        await until(batch, lambda status: status.running)
        while await workers_alive(at.store.redis, at.settings.upstream_name) < 2:
            await asyncio.sleep(0.02)
        worker = at.fleet._workers[0]
        worker.terminate()
        while worker.returncode is None:
            await at.producer.submit(lines(1, models=("google/gemini-2.5-flash",)), anew=True)
            await asyncio.sleep(0.02)
        assert worker.returncode == 0


async def test_a_lane_that_breaks_is_pulled_again(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = 0
    original = LaneWorker._poll_iteration

    async def breaks_twice(self: LaneWorker) -> None:
        nonlocal broken
        if broken < 2:
            broken += 1
            raise ValueError("nobody foresaw this")
        await original(self)

    monkeypatch.setattr(LaneWorker, "_poll_iteration", breaks_twice)
    async with Simulator(SimulatorOptions()) as simulator:
        settings = settings_for(simulator)
        async with at_work(store, settings):
            batch = await Producer(store.redis, settings).submit(lines(10, models=("openai/gpt-4o-mini",)))
            assert len(await gather(batch)) == 10
    assert broken == 2


async def test_a_worker_whose_part_dies_ends_at_once_and_says_of_what(
    store: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def dies(self: object) -> None:
        raise ValueError("nobody foresaw this")

    monkeypatch.setattr("batchmill.workers.heartbeat.Heartbeat.beat", dies)
    async with Simulator(SimulatorOptions()) as simulator:
        worker = WorkerProcess(settings_for(simulator, grace=3600.0), store.url)
        with pytest.raises(ValueError, match="nobody foresaw"):
            await worker.run()
    assert "part.died" in capsys.readouterr().out


async def test_workers_that_can_not_start_are_given_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchmill.workers.fleet._RESTART_PAUSES", (0.0,))
    monkeypatch.setattr("batchmill.workers.fleet.pack_handover", lambda *_, **__: b"nonsense")
    with tempfile.TemporaryFile("w+") as logs:
        async with Fleet(settings, "redis://127.0.0.1:1", logs=logs) as fleet:
            with pytest.raises(FleetError, match="exit with code 1 as they start"):
                await fleet.wait()


async def test_a_dead_worker_is_replaced_while_another_is_waited_for(tmp_path: Path) -> None:
    async with scene(tmp_path, SimulatorOptions(latency="50"), **OPTIONS_OF_WORKERS) as at:
        first = list(at.fleet.pids)
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while set(at.fleet.pids) & set(first):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        batch = await at.producer.submit(lines(40))
        assert len(await gather(batch)) == 40


def test_open_files_are_raised_to_what_the_lines_need_or_the_lines_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [256, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limits.__setitem__(slice(None), given))
    settings = load(environ={})

    def fitted(concurrency: int) -> int:
        worker = WorkerSettings(concurrency=concurrency)
        return fit_open_files(msgspec.structs.replace(settings, worker=worker)).worker.concurrency

    assert (fitted(100), limits[0]) == (100, 256)
    assert (fitted(1000), limits[0]) == (1000, 1128)
    assert (fitted(9000), limits[0]) == (4096 - 128, 4096)


async def test_what_was_tried_before_a_drain_counts_after_it(store: Any) -> None:
    """Every call fails; two workers after another make no more calls of a line than one may."""
    failing = Faults(rates={FaultKind.BAD_GATEWAY: 1.0})
    async with Simulator(SimulatorOptions(faults=failing)) as simulator:
        settings = settings_for(simulator)
        slow = msgspec.structs.replace(
            settings, retry=msgspec.structs.replace(settings.retry, first_delay=3600.0, max_delay=3600.0)
        )
        producer = Producer(store.redis, settings)
        async with at_work(store, slow):
            batch = await producer.submit(lines(6))
            await until(batch, lambda status: "fails (" in (status.blocked_on or ""))
            while simulator.stats.requests < 6:
                await asyncio.sleep(0.01)
            await until(batch, lambda status: not status.running)
        async with at_work(store, settings):
            results = await gather(batch)
        assert {len(result.attempts) for result in results.values()} == {settings.retry.max_attempts}
        assert simulator.stats.requests == 6 * settings.retry.max_attempts


async def test_a_cancel_after_the_last_worker_was_killed_ends_the_batch(store: Any) -> None:
    async with Simulator(SimulatorOptions(latency="50")) as simulator:
        settings = settings_for(simulator, concurrency=4)
        producer = Producer(store.redis, settings)
        worker = born(settings, store.url)
        batch = await producer.submit(lines(200))
        await when_done(batch, 10)
        worker.kill()
        worker.wait()
        while (await batch.cancel()).value != "cancelled":
            await asyncio.sleep(0.2)
        assert len(await gather(batch)) == 200
