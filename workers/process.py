"""One worker process: its parts put together, its signals, its end.

first SIGTERM/SIGINT: pull and begin nothing more, let what is in the air finish (`grace`), record, give shards
                      back, exit 0
second:               give up what is in the air, record what came, exit 0
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Sequence
from typing import Any

import structlog

from batchmill.config.settings import Settings
from batchmill.openrouter.client import Upstream
from batchmill.store import batches
from batchmill.store.connection import connect, outlive
from batchmill.workers.dispatcher import Dispatcher
from batchmill.workers.heartbeat import Heartbeat
from batchmill.workers.maintenance import Maintenance
from batchmill.workers.recorder import Recorder
from batchmill.workers.watch import LaneWatch

log = structlog.get_logger()

_DAY = 86_400
_ORPHAN_CHECK = 1.0  # seconds
_CANCEL_AGAIN = 0.5


class WorkerProcess:
    """A worker, from its first heartbeat to its last record. Raises StoreError when Redis must not be used."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self._settings = settings
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        worker = settings.worker
        self._redis = connect(redis_url, max_connections=64)
        self._upstream = Upstream(settings.upstream, settings.api_key, max_connections=worker.concurrency)
        self._recorder = Recorder(self._redis, self.worker_id, retention=settings.results.retention_days * _DAY)
        self._dispatcher = Dispatcher(
            self._upstream.complete,
            self._recorder,
            settings.retry,
            concurrency=worker.concurrency,
            on_blocked=self._blocked,
        )
        self._watch = LaneWatch(self._redis, self._dispatcher, settings, self.worker_id)
        self._heartbeat = Heartbeat(self._redis, self._watch, self._dispatcher, settings, self.worker_id)
        self._maintenance = Maintenance(self._redis, settings, self.worker_id)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._notes: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until told to stop."""
        structlog.contextvars.bind_contextvars(worker=self.worker_id)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        log.info("worker.up", upstream=self._settings.upstream_name, concurrency=self._settings.worker.concurrency)
        parts = (
            self._recorder.run(), self._heartbeat.run(), self._watch.look(), self._watch.listen(),
            self._maintenance.run(), self._notice_orphanhood(),
        )  # fmt: skip
        tasks = [asyncio.create_task(part) for part in parts]
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            await self._drain()
        finally:
            self._watch.stop()
            await _end([stopping, *tasks])
            await self._close()
        for task in tasks:
            if not task.cancelled() and (error := task.exception()):
                raise error

    def stop(self) -> None:
        """Ask for the end; asked twice, at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _drain(self) -> None:
        log.info("worker.drains", in_air=self._dispatcher.in_air)
        self._dispatcher.drain()  # from here on lanes find no room, and claim nothing
        hurry = asyncio.create_task(self._hurry.wait())
        landing = asyncio.create_task(self._landed())
        await asyncio.wait([hurry, landing], timeout=self._settings.worker.grace, return_when=asyncio.FIRST_COMPLETED)
        if not landing.done():
            log.warning("worker.gives_up", in_air=self._dispatcher.in_air)
            self._dispatcher.abandon()
            await asyncio.wait([landing], timeout=self._settings.worker.lease)
        await _end([hurry, landing])

    async def _landed(self) -> None:
        """Wait until all is recorded and every shard is finished or given back."""
        while self._dispatcher.busy or self._watch.busy:  # noqa: ASYNC110 - the end of runs is arq's
            await asyncio.sleep(0.01)
        await self._recorder.drained()

    async def _close(self) -> None:
        with contextlib.suppress(Exception):  # the lease and the silence say the same, only later
            await asyncio.wait_for(self._heartbeat.leave(), 1.0)
        await self._upstream.aclose()
        await self._redis.aclose()
        log.info("worker.down")

    def _blocked(self, scope: str, reason: str, seconds: float) -> None:
        words = f"{'account refused' if scope == 'refused' else f'limit of {scope}'}: {reason}"
        upstream = self._settings.upstream_name
        note = asyncio.create_task(
            outlive(lambda: batches.say_blocked(self._redis, upstream, scope, words, seconds=seconds))
        )
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def _notice_orphanhood(self) -> None:
        """Drain when the supervisor is gone: nobody would stop or watch us any more."""
        parent = os.getppid()
        while os.getppid() == parent:  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(_ORPHAN_CHECK)
        log.warning("worker.orphaned")
        self.stop()
        await asyncio.Event().wait()


async def _end(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    """Cancel tasks until they are gone: a library below may swallow a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN)
