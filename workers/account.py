"""Looks at the key: what it may spend, so that work is parked before the upstream has to refuse it.

One look when a worker starts, then one each `[account] interval` by whoever has the turn of maintenance. Costs nothing.
"""

import time

import msgspec
import structlog
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.openrouter.account import Stop, stops
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError
from batchmill.openrouter.outcomes import Retry, Scope
from batchmill.openrouter.wire import KeyInfo
from batchmill.store import account
from batchmill.store.account import Standing

log = structlog.get_logger()

_NO_SUCH_CALL = 3600.0  # seconds until an upstream without `GET /key` is asked again
_SOON = 30.0  # after a look that failed
_SLACK = 30.0  # that a pause without an end outlasts the next look


class AccountWatch:
    """The fleet's eye on its account. `look()` is safe to call often: it asks only when that is due."""

    def __init__(self, redis: Redis, upstream: Upstream, settings: Settings, worker_id: str) -> None:
        self._redis = redis
        self._upstream = upstream
        self._settings = settings
        self._name = settings.upstream_name
        self._worker_id = worker_id

    async def look(self) -> None:
        """Look at the key if nobody did within the interval, and park or let go what follows from it."""
        settings = self._settings.account
        if not settings.check or self._settings.api_key is None:
            return
        if not await account.take_turn(self._redis, self._name, self._worker_id, settings.interval):
            return
        before = await account.standing(self._redis, self._name)
        try:
            key = await self._upstream.key()
        except UpstreamRefusedError as error:
            await self._refused(error, before)
        except UpstreamUnavailableError as error:
            await self._failed(str(error))
        else:
            await self._told(key, before)

    async def _told(self, key: KeyInfo | None, before: Standing) -> None:
        if key is None:
            await account.put_off(self._redis, self._name, _NO_SUCH_CALL)
            return
        # the label shows letters of the key, and another upstream may quote all of it there
        await account.keep(self._redis, self._name, msgspec.structs.replace(key, label=None))
        await self._park(stops(key, time.time()), before)

    async def _refused(self, error: UpstreamRefusedError, before: Standing) -> None:
        """A refused look is a refused account at OpenRouter; elsewhere it may be the call that we may not make."""
        failure = error.failure
        await account.keep_failure(self._redis, self._name, str(error))
        if failure.retry is not Retry.ACCOUNT or not self._settings.speaks_openrouter:
            return
        until = None if failure.retry_after is None else time.time() + failure.retry_after
        await self._park((Stop(Scope.ACCOUNT, failure.code, failure.message, until),), before)

    async def _failed(self, why: str) -> None:
        log.warning("account.unknown", error=why)
        await account.keep_failure(self._redis, self._name, why)
        await account.put_off(self._redis, self._name, min(_SOON, self._settings.account.interval))

    async def _park(self, found: tuple[Stop, ...], before: Standing) -> None:
        relook = self._settings.account.interval + _SLACK
        changed = await account.park(self._redis, self._name, found, before, relook)
        for scope in changed.begun:
            log.warning("account.parks", scope=scope, reason="; ".join(stop.reason for stop in found))
        for scope in changed.lifted:
            log.info("account.goes_on", scope=scope)
