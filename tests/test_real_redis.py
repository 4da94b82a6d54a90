"""Redis itself, not only its fork: a whole batch over Debian's redis-server, on TCP, through a kill and a restart."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from batchmill.config.settings import Settings
from batchmill.openrouter.simulator import Simulator, SimulatorOptions
from batchmill.producer import Producer
from batchmill.store.connection import open_store
from batchmill.workers.process import WorkerProcess

from .fleet_helpers import gather, lines, when_done
from .test_worker_process import settings_for

PROGRAM = shutil.which("redis-server")


class RedisServer:
    """A redis-server as an operator would run it, on a free port."""

    def __init__(self, folder: Path) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self._folder = folder
        self.process = self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it has read its log and answers."""
        options = f"--port {self.port} --dir {self._folder} --appendonly yes --maxmemory-policy noeviction --save"
        self.process = subprocess.Popen([PROGRAM or "", *options.split(), ""], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline
        return self.process

    def kill(self) -> None:
        """Take it away without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A real Redis; at home it may be missing, in CI it may not."""
    if PROGRAM is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed; .ci/run installs it")
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path)
    yield server
    server.kill()


async def test_a_batch_over_redis_itself_survives_its_kill(redis_server: RedisServer, settings: Settings) -> None:
    async with Simulator(SimulatorOptions(latency="30", record=True)) as simulator:
        own = settings_for(simulator, lease=10.0, heartbeat=2.0)
        async with open_store(msgspec.structs.replace(settings, redis_url=redis_server.url)) as store:
            assert store.server is None
            assert store.facts.persistence == "append-only"
            worker = WorkerProcess(own, store.url)
            task = asyncio.create_task(worker.run())
            batch = await Producer(store.redis, own).submit(lines(600))
            await when_done(batch, 100)
            redis_server.kill()
            await asyncio.to_thread(redis_server.start)
            results = await gather(batch)
            worker.stop()
            await task
        assert len(results) == 600
        assert simulator.stats.answered_twice == 0
