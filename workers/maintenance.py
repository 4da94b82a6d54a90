"""The fleet's upkeep, done by one worker at a time: shards that fell between two steps, batches that expired, holds of
workers that fell silent, suspects whose fate the upstream's own books tell, usage records that are too many or too
old, the catalogue, how endpoints are, the account's own limits, and alerts.
"""

import asyncio

import structlog
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.openrouter.client import Upstream
from batchmill.store import batch_index, batches, endings, keys, ledger, pauses, suspects
from batchmill.store.clock import now_ms
from batchmill.store.connection import outlive
from batchmill.store.staging import requeue_lost
from batchmill.workers.account import AccountWatch
from batchmill.workers.alerts import AlertWatch
from batchmill.workers.discovery import Discovery
from batchmill.workers.forecaster import BudgetForecaster
from batchmill.workers.health import EndpointChecks
from batchmill.workers.reconciler import Reconciler
from batchmill.workers.webhooks import Webhooks

log = structlog.get_logger()

_EVERY = 5.0  # seconds
_TURN_MS = 15_000  # a keeper that died is followed by another after this


class Maintenance:
    """Takes its turn when nobody else has it."""

    def __init__(self, redis: Redis, upstream: Upstream, settings: Settings, worker_id: str) -> None:
        self._redis = redis
        self._reconciler = Reconciler(redis, upstream, settings.upstream_name)
        self._discovery = Discovery(redis, settings)
        self._checks = EndpointChecks(redis, upstream, settings)
        self._account = AccountWatch(redis, upstream, settings, worker_id)
        self._alerts = AlertWatch(redis, settings, BudgetForecaster())
        self._webhooks = Webhooks(redis, settings)
        self._settings = settings
        self._worker_id = worker_id
        self._ours = False
        self._dropped = 0  # the day on which old roll-ups were dropped last (days since 1970)

    async def run(self) -> None:
        """Keep things in order for ever, whenever it is our turn."""
        while True:
            await asyncio.sleep(_EVERY)
            self._ours = await outlive(self._our_turn)
            if self._ours:
                await outlive(self.sweep)

    async def reconcile(self) -> None:
        """Look suspects up for ever, whenever it is our turn; beside the rest, for the upstream may be slow."""
        while True:
            await asyncio.sleep(_EVERY)
            if self._ours:
                await outlive(self._reconciler.look)

    async def discover(self) -> None:
        """Keep the catalogue fresh for ever, whenever it is our turn; beside the rest, as `reconcile`."""
        while True:
            await asyncio.sleep(_EVERY)
            if self._ours:
                await outlive(self._discovery.look)

    async def check_endpoints(self) -> None:
        """Ask for the endpoints of models in use for ever, whenever it is our turn; beside the rest, as `reconcile`."""
        while True:
            await asyncio.sleep(_EVERY)
            if self._ours:
                await outlive(self._checks.look)

    async def watch_account(self) -> None:
        """Look at the key as a worker starts, then for ever, whenever it is our turn; beside the rest, as above."""
        await outlive(self._account.look)
        while True:
            await asyncio.sleep(min(_EVERY, self._settings.account.interval))
            if self._ours:
                await outlive(self._account.look)

    async def end_late_batches(self) -> None:
        """End batches whose completion window is over for ever, whenever it is our turn; beside the rest, as above."""
        while True:
            await asyncio.sleep(_EVERY)
            if self._ours:
                await outlive(self._end_late_batches)

    async def _end_late_batches(self) -> None:
        ended = await endings.sweep(self._redis, retention_days=self._settings.results.retention_days)
        if ended:
            log.info("batches.ended", batches=ended)

    async def alert(self) -> None:
        """Raise alerts for ever, whenever it is our turn; beside the rest, as `reconcile`."""
        while True:
            await asyncio.sleep(_EVERY)
            if self._ours:
                await outlive(self._alerts.look)

    async def tell(self) -> None:
        """Tell webhooks of alerts for ever, whenever it is our turn; beside the rest, for receivers may be slow."""
        while True:
            await asyncio.sleep(_EVERY)
            if self._ours:
                await outlive(self._webhooks.deliver)

    async def last_look(self) -> None:
        """Raise what is due before we leave: nobody else may be there. Each is raised once all the same."""
        await self._alerts.look()
        await self._webhooks.deliver()

    async def sweep(self) -> None:
        """Keep live batches and queue their lost shards; drop from the lists what is no more; make suspects."""
        upstream = self._settings.upstream_name
        for owner in await suspects.silent_owners(self._redis, upstream):
            moved = await suspects.abandon(self._redis, upstream, owner)
            if moved:
                log.warning("holds.suspect", owner=owner, holds=moved)
        await pauses.drop_over(self._redis, upstream)
        retention = self._settings.results.retention_days
        for batch_id in await batches.live(self._redis):
            facts = await self._redis.execute_command("HGET", keys.batch(batch_id), "upstream")
            if facts is None:
                await self._redis.execute_command("SREM", keys.live(), batch_id)
                await self._redis.execute_command("ZREM", keys.batches(), batch_id)
            elif facts.decode() == upstream:
                await batches.keep(self._redis, batch_id, retention)
                lost = await requeue_lost(self._redis, upstream, batch_id, retention_days=retention)
                if lost:
                    log.warning("shards.requeued", batch=batch_id, shards=len(lost))
        await batch_index.drop_expired(self._redis, retention)
        spend = self._settings.spend
        await ledger.trim(self._redis, upstream, keep_records=spend.keep_records, keep_days=spend.keep_days)
        await self._drop_rollups(upstream, spend.rollup_days)

    async def _drop_rollups(self, upstream: str, keep_days: int) -> None:
        """Drop roll-ups that are too old, as a keeper begins and once a day."""
        today = await now_ms(self._redis) // ledger.DAY_MS
        if today != self._dropped:
            await ledger.drop_rollups(self._redis, upstream, today, keep_days)
            self._dropped = today

    async def _our_turn(self) -> bool:
        name = keys.maintenance(self._settings.upstream_name)
        if await self._redis.execute_command("SET", name, self._worker_id, "NX", "PX", _TURN_MS):
            return True
        if await self._redis.execute_command("GET", name) != self._worker_id.encode():
            return False
        await self._redis.execute_command("PEXPIRE", name, _TURN_MS)
        return True
