"""A supervisor of worker processes: starts them, starts dead ones again, stops them in order.

Each worker is `python -m batchmill.workers` in a session of its own, so that Ctrl-C in the terminal reaches only the
supervisor. Settings travel through standard input, never through arguments: those are for all to see.
"""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from types import TracebackType
from typing import IO, Self

import msgspec
import structlog

from batchmill.config.errors import BatchmillError
from batchmill.config.settings import Secret, Settings
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.errors import StoreError

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
    embedded: bool  # whether the server is that of the data folder: then the worker is one of its users
    supervisor: int  # our process id


def pack_handover(settings: Settings, redis_url: str, *, embedded: bool) -> bytes:
    """Return what goes to a worker's standard input."""
    key = settings.api_key.reveal() if settings.api_key else None
    bare = msgspec.msgpack.encode(msgspec.structs.replace(settings, api_key=None), enc_hook=str)
    return msgspec.msgpack.encode(Handover(bare, key, redis_url, embedded, os.getpid()))


def unpack_handover(data: bytes) -> tuple[Settings, Handover]:
    """Read what `pack_handover` wrote; the settings come with the key."""
    handover = msgspec.msgpack.decode(data, type=Handover)
    settings = msgspec.msgpack.decode(handover.settings, type=Settings, dec_hook=lambda kind, value: kind(value))
    key = Secret(handover.api_key) if handover.api_key else None
    return msgspec.structs.replace(settings, api_key=key), handover


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
        self._handover = pack_handover(settings, redis_url, embedded=server is not None)
        self._server = server
        self._workers: list[Process] = []
        self._watch: asyncio.Task[None] | None = None

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
        if self._watch is None:
            return
        await asyncio.wait([self._watch])
        if not self._watch.cancelled() and (failed := self._watch.exception()):
            raise failed.exceptions[0] if isinstance(failed, ExceptionGroup) else failed

    async def stop(self) -> None:
        """Drain all workers and wait for them."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
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
        parts = [self._look_after_worker(number) for number in range(len(self._workers))]
        if self._server is not None:
            parts.append(self._look_after_server(self._server))
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)

    async def _look_after_server(self, server: EmbeddedServer) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                await asyncio.to_thread(server.ensure_running)
            except StoreError as error:  # workers wait; the next look may find the disk free again
                log.error("server.is_away", error=str(error))

    async def _look_after_worker(self, number: int) -> None:
        deaths = 0
        while True:
            born = time.monotonic()
            worker = self._workers[number]
            code = await worker.wait()
            deaths = deaths + 1 if time.monotonic() - born < _QUICK_DEATH else 0
            if deaths >= _HOPELESS:
                raise FleetError(f"workers exit with code {code} as they start; see their log")
            pause = _RESTART_PAUSES[min(deaths, len(_RESTART_PAUSES) - 1)]
            log.error("worker.died", pid=worker.pid, code=code, again_in=pause)
            await asyncio.sleep(pause)
            self._workers[number] = await self._start()


def _environment() -> dict[str, str]:
    """Return our environment without the key: it is handed over, not inherited."""
    return {name: value for name, value in os.environ.items() if name != "OPENROUTER_API_KEY"}
