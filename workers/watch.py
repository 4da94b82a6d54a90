"""Which lanes a process pulls: every lane of its upstream that has work, from the moment it has.

A notification starts a lane at once; a look at all lanes now and then catches what no notification told.
"""

import asyncio

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from batchmill.config.settings import Settings
from batchmill.store import keys, lanes
from batchmill.store.connection import OUTAGE, outlive
from batchmill.store.lanes import Claim
from batchmill.store.model import LineState
from batchmill.workers.dispatcher import Dispatcher
from batchmill.workers.gatekeeper import Gatekeeper
from batchmill.workers.lane import LaneWorker
from batchmill.workers.line import ShardRun
from batchmill.workers.tasks import end

log = structlog.get_logger()

_LOOK_EVERY = 1.0
_IDLE_LOOKS = 30  # a lane without work is left after so many looks
_PAUSE = 0.2


class LaneWatch:
    """The live lanes of one process."""

    def __init__(
        self, redis: ArqRedis, dispatcher: Dispatcher, gatekeeper: Gatekeeper, settings: Settings, worker_id: str
    ) -> None:
        self._redis = redis
        self._gatekeeper = gatekeeper
        self._dispatcher = dispatcher
        self._settings = settings
        self._upstream = settings.upstream_name
        self._worker_id = worker_id
        self._workers: dict[str, LaneWorker] = {}
        self._pulling: dict[str, asyncio.Task[None]] = {}
        self._idle: dict[str, int] = {}
        dispatcher.on_hungry = self._hungry
        dispatcher.on_short = self._short

    async def look(self) -> None:
        """Keep the set of live lanes right, for ever."""
        while True:
            depths = await outlive(lambda: lanes.waiting(self._redis, self._upstream))
            for model in depths:
                self._pull(model)
            for model, worker in list(self._workers.items()):
                busy = model in depths or worker.held
                self._idle[model] = 0 if busy else self._idle.get(model, 0) + 1
                if self._idle[model] > _IDLE_LOOKS:
                    self._leave(model)
            await asyncio.sleep(_LOOK_EVERY)

    async def listen(self) -> None:
        """Follow notifications, for ever."""
        while True:
            try:
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(keys.wake(self._upstream))
                    async for message in subscription.listen():
                        if message["type"] == "message":
                            self._told(message["data"].decode())
            except (*OUTAGE, RedisError):
                await asyncio.sleep(_PAUSE)

    @property
    def busy(self) -> bool:
        """Whether any shard is ours, or is just becoming so."""
        return any(worker.held or worker.claiming for worker in self._workers.values())

    async def close(self) -> None:
        """Pull nothing more, and let go of runs that could not end: their leases say the rest."""
        for worker in self._workers.values():
            worker.closing = True
        runs = [task for worker in self._workers.values() for task in worker.tasks.values()]
        await end([*self._pulling.values(), *runs])

    def held(self) -> dict[str, list[Claim]]:
        """Return what the process holds, by model."""
        return {model: list(worker.held.values()) for model, worker in self._workers.items()}

    def run_of(self, model: str, reference: str) -> ShardRun | None:
        """Return the running shard of that reference."""
        worker = self._workers.get(model)
        return worker.running.get(reference) if worker else None

    def _told(self, word: str) -> None:
        if word.startswith("!"):
            batch_id, _, unsent = word[1:].partition("|")
            self._dispatcher.stop(batch_id, LineState(unsent) if unsent else LineState.CANCELLED)
        else:
            self._pull(word)
            if word in self._workers:  # not when we drain
                self._workers[word].notify()

    def _pull(self, model: str) -> None:
        task = self._pulling.get(model)
        if self._dispatcher.draining or (task and not task.done()):
            return
        if task and not task.cancelled() and (error := task.exception()):
            log.error("lane.broke", model=model, error=repr(error))
        if model not in self._workers:
            self._workers[model] = LaneWorker(
                self._redis,
                self._dispatcher,
                self._gatekeeper,
                self._settings.worker,
                upstream=self._upstream,
                model=model,
                worker_id=self._worker_id,
            )
        self._pulling[model] = asyncio.create_task(self._workers[model].main(), name=f"lane {model}")

    def _leave(self, model: str) -> None:
        self._pulling.pop(model).cancel()
        del self._workers[model], self._idle[model]

    def _short(self, model: str) -> None:
        if model in self._workers:
            self._workers[model].notify()

    def _hungry(self) -> None:
        for worker in self._workers.values():
            worker.hungry()
