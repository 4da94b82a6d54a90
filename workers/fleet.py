"""A supervisor of worker processes: starts them, starts dead ones again, stops them in order.

Each worker is `python -m batchmill.workers` in a session of its own, so that Ctrl-C in the terminal reaches only the
supervisor. Settings travel through standard input, never through arguments: those are for all to see.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from types import TracebackType
from typing import IO, Self

import msgspec
import structlog

from batchmill.config.errors import BatchmillError
from batchmill.config.settings import Secret, Settings
from batchmill.store.embedded import EmbeddedServer

log = structlog.get_logger()

_LOOK_EVERY = 0.5
_QUICK_DEATH = 5.0  # seconds; a worker that dies sooner than this did not start
_RESTART_PAUSES = (0.2, 1.0, 3.0, 10.0)
_HOPELESS = 6  # quick deaths in a row


class Handover(msgspec.Struct):
    """What a worker process is told at birth."""

    settings: bytes
    api_key: str | None
    redis_url: str


def pack_settings(settings: Settings, redis_url: str) -> bytes:
    """Return what goes to a worker's standard input."""
    key = settings.api_key.reveal() if settings.api_key else None
    bare = msgspec.structs.replace(settings, api_key=None)
    return msgspec.msgpack.encode(Handover(msgspec.msgpack.encode(bare, enc_hook=str), key, redis_url))


def unpack_settings(data: bytes) -> tuple[Settings, str]:
    """Read what `pack_settings` wrote: the settings and the Redis URL."""
    handover = msgspec.msgpack.decode(data, type=Handover)
    settings = msgspec.msgpack.decode(handover.settings, type=Settings, dec_hook=lambda kind, value: kind(value))
    key = Secret(handover.api_key) if handover.api_key else None
    return msgspec.structs.replace(settings, api_key=key), handover.redis_url


class FleetError(BatchmillError):
    """The workers die as soon as they are started."""


class Fleet:
    """The worker processes of one command. Enter to start them, exit to drain them.

    `logs` is where they log to, by default our standard error.
    """

    def __init__(
        self, settings: Settings, redis_url: str, *, server: EmbeddedServer | None = None, logs: IO[str] | None = None
    ) -> None:
        self._settings = settings
        self._logs = logs
        self._handover = pack_settings(settings, redis_url)
        self._server = server
        self._workers: list[Process] = []
        self._deaths = 0
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._settings.worker.processes):
                self._workers.append(await self._start())
        except BaseException:
            await self.stop()
            raise
        self._watch = asyncio.create_task(self._look_after())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers]

    async def wait(self) -> None:
        """Wait until the workers have been stopped. Raises FleetError when they can't even start."""
        if self._watch is not None:
            await asyncio.wait([self._watch])
            if not self._watch.cancelled():
                self._watch.result()

    async def stop(self) -> None:
        """Drain all workers and wait for them."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
        self.signal(signal.SIGTERM)
        await asyncio.gather(*(worker.wait() for worker in self._workers))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every worker that lives."""
        for worker in self._workers:
            if worker.returncode is None:
                worker.send_signal(number)

    async def _start(self) -> Process:
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "batchmill.workers"),
            stdin=PIPE,
            stdout=self._logs,  # a worker says nothing there; what a library might print must not mix with results
            stderr=self._logs,
            start_new_session=True,
            env=_environment(),
        )
        if worker.stdin is not None:
            worker.stdin.write(self._handover)
            worker.stdin.close()
        return worker

    async def _look_after(self) -> None:
        """Start dead workers again, and the embedded server when somebody killed it."""
        born = [asyncio.get_running_loop().time()] * len(self._workers)
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if self._server is not None:
                await asyncio.to_thread(self._server.ensure_running)
            for number, worker in enumerate(self._workers):
                if worker.returncode is None or self._stopping:
                    continue
                now = asyncio.get_running_loop().time()
                self._deaths = self._deaths + 1 if now - born[number] < _QUICK_DEATH else 0
                pause = _RESTART_PAUSES[min(self._deaths, len(_RESTART_PAUSES) - 1)]
                if self._deaths >= _HOPELESS:
                    raise FleetError(f"workers exit with code {worker.returncode} as they start; see their log")
                log.error("worker.died", pid=worker.pid, code=worker.returncode, again_in=pause)
                await asyncio.sleep(pause)
                self._workers[number] = await self._start()
                born[number] = asyncio.get_running_loop().time()


def _environment() -> dict[str, str]:
    """Return our environment without the key: it is handed over, not inherited."""
    return {name: value for name, value in os.environ.items() if name != "OPENROUTER_API_KEY"}
