"""A process's sign of life: leases of shards and holds renewed, silent workers' shards taken back, batches that were
cancelled or expired noticed, and whether the books are still those that we know.

A beat is a round trip for the leases of all lanes, and one or two for each of its other duties.
"""

import asyncio
import time

import structlog
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.store import batches, epoch, keys, lanes, suspects
from batchmill.store.connection import outlive
from batchmill.store.model import LineState
from batchmill.workers.dispatcher import Dispatcher
from batchmill.workers.epoch_file import EpochFile
from batchmill.workers.gatekeeper import Gatekeeper
from batchmill.workers.meter import Meter
from batchmill.workers.watch import LaneWatch

log = structlog.get_logger()

_DAY = 86_400


class Heartbeat:
    """Beats every `settings.worker.heartbeat` seconds."""

    def __init__(
        self,
        redis: Redis,
        watch: LaneWatch,
        dispatcher: Dispatcher,
        gatekeeper: Gatekeeper,
        settings: Settings,
        *,
        meter: Meter | None = None,
    ) -> None:
        self._redis = redis
        self._watch = watch
        self._dispatcher = dispatcher
        self._gatekeeper = gatekeeper
        self._meter = meter
        self._settings = settings
        self._upstream = settings.upstream_name
        self._worker_id = gatekeeper.caller.owner
        self._memory = EpochFile(settings)
        self._seen = self._memory.read()
        gatekeeper.saw(self._seen.epoch)  # from the first line on: a gate that is older lets nothing through
        self._alarmed = False

    async def run(self) -> None:
        """Beat for ever. Begins with a beat, so that the fleet knows the worker before its first line."""
        while True:
            started = time.monotonic()
            await outlive(self.beat)
            await asyncio.sleep(max(0.0, self._settings.worker.heartbeat - (time.monotonic() - started)))

    async def beat(self) -> None:
        """Say that we live, renew, and look for what the other workers or people did."""
        await self._announce()
        await self._tend()
        lease = self._settings.worker.lease
        renewals = await lanes.renew(self._redis, self._upstream, self._watch.held(), lease=lease)
        for model, renewal in renewals.items():
            for reference in renewal.lost:
                self._lost(model, reference)
            if renewal.recovered:
                log.warning("shards.recovered", model=model, shards=len(renewal.recovered))
        shards = self._dispatcher.shards()
        here = sorted({shard.claim.batch_id for shard in shards if shard.unsent is not LineState.CANCELLED})
        for batch_id, state in (await batches.stopped_among(self._redis, here)).items():
            self._dispatcher.stop(batch_id, state)
        if self._meter is not None:
            await self._meter.tell()

    async def leave(self) -> None:
        """Say that we are gone, and hold nothing any more."""
        left = await suspects.leave(self._redis, self._upstream, self._worker_id)
        if left:
            log.warning("holds.left", suspects=left)
        await self._redis.execute_command("ZREM", keys.workers(self._upstream), self._worker_id)
        if self._meter is not None:
            await self._meter.tell()  # last: nobody waits for a count as for money

    async def _announce(self) -> None:
        seconds, microseconds = await self._redis.execute_command("TIME")
        now = int(seconds) * 1000 + int(microseconds) // 1000
        async with self._redis.pipeline(transaction=False) as pipe:
            name = keys.workers(self._upstream)
            pipe.execute_command("ZADD", name, now, self._worker_id)
            pipe.execute_command("ZREMRANGEBYSCORE", name, "-inf", now - _DAY * 1000)
            pipe.execute_command("EXPIRE", name, _DAY)
            await pipe.execute()

    async def _tend(self) -> None:
        sign = await epoch.tend(self._redis, self._gatekeeper.caller, self._seen)
        if sign.alarm and not self._alarmed:
            log.error("books.restored", alarm=sign.alarm, do="batchmill budgets accept-restored")
        self._alarmed = bool(sign.alarm)
        if sign.seen != self._seen:
            self._seen = sign.seen
            self._gatekeeper.saw(sign.seen.epoch)
            await asyncio.to_thread(self._memory.write, sign.seen)

    def _lost(self, model: str, reference: str) -> None:
        run = self._watch.run_of(model, reference)
        if run is None:
            return  # it ended while the renewal was on its way
        log.warning("lease.lost", shard=reference)
        self._dispatcher.lose(run)
