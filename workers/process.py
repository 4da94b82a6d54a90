"""One worker process: its parts put together, its signals, its end.

first SIGTERM/SIGINT: pull and begin nothing more, let what is in the air finish (`grace`), record, give shards
                      back, exit 0
second:               give up what is in the air, record what came, exit 0
Redis away meanwhile: leave after `grace` and a lease all the same; the leases say the rest
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time

import structlog
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.outcomes import Outcome
from batchmill.store import alerts, batches
from batchmill.store.answers import Answers
from batchmill.store.connection import connect, outlive
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.gate import Caller
from batchmill.store.model import Result
from batchmill.workers import broadcast, journey
from batchmill.workers.answers import AnswerDesk
from batchmill.workers.archiver import Archiver
from batchmill.workers.broadcast import Broadcaster
from batchmill.workers.dispatcher import Dispatcher
from batchmill.workers.gatekeeper import Gatekeeper
from batchmill.workers.heartbeat import Heartbeat
from batchmill.workers.line import LineRun
from batchmill.workers.maintenance import Maintenance
from batchmill.workers.meter import Meter
from batchmill.workers.outlook import Outlook
from batchmill.workers.reasons import Reason
from batchmill.workers.recorder import Recorder
from batchmill.workers.restraint import FleetRestraint
from batchmill.workers.statistics import Observer
from batchmill.workers.tasks import end
from batchmill.workers.tracing import tracer_of
from batchmill.workers.watch import LaneWatch

log = structlog.get_logger()

_DAY = 86_400
_ORPHAN_CHECK = 1.0  # seconds
_LEAVE_TIMEOUT = 1.0
_LAST_LOOK_TIMEOUT = 2.0
_MOST_SAID = 1000  # reasons that we remember to have said; then those that are over are forgotten
_NOTE_EVERY = 0.5  # seconds; a call that takes longer is worth knowing by its generation id


class WorkerProcess:
    """A worker, from its first heartbeat to its last record.

    `server` is the embedded server when it is the one in use, `supervisor` the process whose end is ours, too.
    """

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        *,
        server: EmbeddedServer | None = None,
        supervisor: int | None = None,
    ) -> None:
        self._settings = settings
        self._server = server
        self._supervisor = supervisor
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        worker = settings.worker
        self._redis = connect(redis_url, max_connections=64)
        self._upstream = Upstream(settings.upstream, settings.api_key, max_connections=worker.concurrency)
        caller = Caller(settings.upstream_name, self.worker_id, worker.lease)
        self._recorder = Recorder(self._redis, caller, retention=settings.results.retention_days * _DAY)
        self._gatekeeper = Gatekeeper(self._redis, caller)
        self._observer = Observer(self._redis, settings.upstream_name)
        self._meter = Meter(self._redis, settings.upstream_name)
        self._tracer = tracer_of(settings.tracing)
        self._outlook = Outlook(self._redis, settings.upstream_name)
        self._dispatcher = Dispatcher(
            self._send,
            self._recorder,
            self._gatekeeper,
            settings.retry,
            concurrency=worker.concurrency,
            on_blocked=self._blocked,
            restraint=FleetRestraint(self._redis, settings.upstream_name),
            observe=self._saw,
            outlook=self._outlook,
        )
        answers = _answers(self._redis, settings)
        self._answers = AnswerDesk(
            answers, self._dispatcher, settings.cache, lease=worker.lease, on_blocked=self._blocked
        )
        self._dispatcher.on_landed = self._landed_call
        self._dispatcher.on_begun, self._dispatcher.on_refused = self._meter.begun, self._meter.refused
        self._recorder.on_result, self._recorder.on_booking = self._ended, self._meter.booked
        self._gatekeeper.sift = self._answers.sift
        self._watch = LaneWatch(self._redis, self._dispatcher, self._gatekeeper, settings, self.worker_id)
        self._heartbeat = Heartbeat(
            self._redis, self._watch, self._dispatcher, self._gatekeeper, settings, meter=self._meter
        )
        self._broadcaster = Broadcaster(self._redis, settings)
        self._maintenance = Maintenance(self._redis, self._upstream, settings, self.worker_id)
        self._archiver = Archiver(self._redis, settings)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._notes: set[asyncio.Task[None]] = set()
        self._said: dict[str, tuple[Reason | None, float]] = {}

    async def run(self) -> None:
        """Work until told to stop. Raises what a part of us died of, if one did."""
        structlog.contextvars.bind_contextvars(worker=self.worker_id)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        log.info("worker.up", upstream=self._settings.upstream_name, concurrency=self._settings.worker.concurrency)
        parts = {
            "recorder": self._recorder.run(),
            "answers": self._answers.run(),
            "gatekeeper": self._gatekeeper.run(self._dispatcher),
            "broadcast": self._broadcaster.run(),
            "generations": self._note_generations(),
            "statistics": self._observer.run(),
            "outlook": self._outlook.run(),
            "heartbeat": self._heartbeat.run(),
            "look": self._watch.look(),
            "listen": self._watch.listen(),
            "maintenance": self._maintenance.run(),
            "reconciliation": self._maintenance.reconcile(),
            "discovery": self._maintenance.discover(),
            "endpoints": self._maintenance.check_endpoints(),
            "account": self._maintenance.watch_account(),
            "alerts": self._maintenance.alert(),
            "webhooks": self._maintenance.tell(),
            "late batches": self._maintenance.end_late_batches(),
            "orphanhood": self._notice_orphanhood(),
        }
        if self._settings.archive.kind != "memory":
            parts["archive"] = self._archiver.run()
        tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            self._look_for_dead_parts(tasks)
            await self._drain()
        finally:
            await self._close([stopping, *tasks])
        for task in tasks:
            if not task.cancelled() and (error := task.exception()):
                raise error

    def stop(self) -> None:
        """Ask for the end; asked twice, at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _look_for_dead_parts(self, tasks: "list[asyncio.Task[None]]") -> None:
        """A part that died can't be waited for: leave at once, and let the supervisor begin anew."""
        for task in tasks:
            if task.done() and not task.cancelled():
                log.error("part.died", part=task.get_name(), error=repr(task.exception()))
                self._hurry.set()

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
        if not landing.done():
            log.error("worker.leaves_unrecorded", results=self._recorder.unrecorded)
        await end([hurry, landing])

    async def _landed(self) -> None:
        """Wait until all is recorded and every shard is finished or given back."""
        while self._dispatcher.busy or self._watch.busy:  # noqa: ASYNC110 - the end of runs is arq's
            await asyncio.sleep(0.01)
        await self._recorder.drained()
        await self._answers.drained()

    async def _close(self, tasks: "list[asyncio.Task[bool] | asyncio.Task[None]]") -> None:
        await self._watch.close()
        await end([*tasks, *self._notes])
        await self._broadcaster.flush()
        with contextlib.suppress(Exception):  # who comes next looks, too
            await asyncio.wait_for(self._maintenance.last_look(), _LAST_LOOK_TIMEOUT)
        with contextlib.suppress(Exception):  # the lease and the silence say the same, only later
            await asyncio.wait_for(self._heartbeat.leave(), _LEAVE_TIMEOUT)
        await self._observer.close(_LEAVE_TIMEOUT)
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        await self._upstream.aclose()
        await self._redis.aclose()
        log.info("worker.down")

    async def _send(self, run: LineRun) -> Outcome:
        if broadcast.streams(run, self._settings.stream):
            body, model = journey.payload(run), run.model
            return await broadcast.stream(self._upstream, self._broadcaster, run, body, model)

        def told(generation: str) -> None:
            run.generation = generation

        return await self._upstream.complete(journey.payload(run), told)

    def _landed_call(self, run: LineRun, outcome: Outcome | None) -> None:
        self._answers.landed(run, outcome)
        if self._tracer is not None and outcome is not None:
            self._tracer.called(run, outcome)

    def _ended(self, batch_id: str, result: Result) -> None:
        self._meter.ended(result)
        if self._tracer is not None:
            self._tracer.ended(batch_id, result)

    def _saw(self, model: str, outcome: Outcome) -> None:
        self._observer.saw(model, outcome)
        self._meter.called(model, outcome)

    async def _note_generations(self) -> None:
        while True:
            await asyncio.sleep(_NOTE_EVERY)
            self._dispatcher.note_generations()

    def _blocked(self, reason: Reason, seconds: float) -> None:
        """Let people see why lines wait; said again only when it would be forgotten, or is another reason."""
        now = time.monotonic()
        said, until = self._said.get(reason.scope, (None, 0.0))
        if said == reason and until - now > seconds / 2:
            return
        if len(self._said) > _MOST_SAID:
            self._said = {scope: kept for scope, kept in self._said.items() if kept[1] > now}
        self._said[reason.scope] = (reason, now + seconds)
        note = asyncio.create_task(outlive(lambda: self._say(reason, seconds)))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def _say(self, reason: Reason, seconds: float) -> None:
        upstream = self._settings.upstream_name
        await batches.say_blocked(self._redis, upstream, reason.scope, reason.kind, reason.text, seconds)
        if reason.budget is not None:
            await alerts.note_waiting(self._redis, upstream, reason.budget, seconds)

    async def _notice_orphanhood(self) -> None:
        """Drain when the supervisor is gone: nobody would stop us, or look after the embedded server, any more."""
        while self._supervisor in (None, os.getppid()):  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(_ORPHAN_CHECK)
        log.warning("worker.orphaned")
        self.stop()
        while True:
            if self._server is not None:
                await asyncio.to_thread(self._server.ensure_running)
            await asyncio.sleep(_ORPHAN_CHECK)


def _answers(redis: Redis, settings: Settings) -> Answers:
    cache = settings.cache
    lease, life = round(settings.worker.lease * 1000), max(1, round(cache.ttl * 1000))
    return Answers(redis, settings.upstream_name, lease=lease, life=life, most=cache.max_answers)
