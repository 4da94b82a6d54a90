"""Discovery: the catalogue is kept fresh while the fleet works, and who uses a model that is to go is warned."""

import time
from datetime import UTC, datetime

import structlog
from redis.asyncio import Redis

from batchmill.config.policy import Policy
from batchmill.config.settings import Settings
from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError
from batchmill.openrouter.models import ModelFacts, find_model
from batchmill.store import catalogue, keys, lanes, policy
from batchmill.store.catalogue import Models, Refreshed, changes
from batchmill.store.errors import StoreError
from batchmill.store.model import LANE_OF_A_ROUTE

log = structlog.get_logger()

_PAUSE = 15.0  # seconds after a refresh that failed
_DAY = 86_400  # seconds


class Discovery:
    """Refreshes the catalogue whenever it is old; for the worker whose turn the upkeep is."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._next = 0.0  # monotonic
        self._failing: str | None = None
        self._models: Models | None = None  # as we saw them last

    async def look(self) -> None:
        """Refresh the catalogue when that is due, say what changed, and warn once a day of models in use that go."""
        settings = self._settings
        if settings.simulate or not settings.catalogue.auto_refresh or time.monotonic() < self._next:
            return
        try:
            refreshed = await catalogue.refresh(self._redis, settings)
        except (UpstreamUnavailableError, UpstreamRefusedError) as error:
            self._failed(str(error))
            return
        snapshot = refreshed.snapshot
        if snapshot.stale_reason is not None:
            self._failed(snapshot.stale_reason, round(snapshot.age_ms / 1000))
            return
        self._failing = None
        left = settings.catalogue.refresh - snapshot.age_ms / 1000
        self._next = time.monotonic() + max(1.0, left)
        self._tell(refreshed)
        await self._warn(snapshot.models)

    def _tell(self, refreshed: Refreshed) -> None:
        found = refreshed.added, refreshed.removed, refreshed.repriced
        if self._models is not None:  # whoever hands lines over may have refreshed it since
            found = changes(self._models, refreshed.snapshot.models)
        self._models = refreshed.snapshot.models
        if any(found):
            added, removed, repriced = map(len, found)
            log.info("catalogue.changed", added=added, removed=removed, repriced=repriced)
        drift = refreshed.drift
        if drift is not None and not drift.none:
            log.debug(
                "catalogue.drift",
                fields=len(drift.fields),
                values=len(drift.values),
                unreadable=len(drift.unreadable),
                missing=drift.missing,
            )

    def _failed(self, reason: str, age: int | None = None) -> None:
        """Say it once, until it works again; of an upstream that need not list models, only to who asks for it."""
        self._next = time.monotonic() + min(_PAUSE, self._settings.catalogue.refresh)
        say = log.warning if self._settings.speaks_openrouter and self._failing != reason else log.debug
        say("catalogue.not_refreshed", reason=reason, age=age)
        self._failing = reason

    async def _warn(self, models: Models) -> None:
        expiring = [facts for facts in await self._used(models) if facts.expires is not None]
        if not expiring:
            return
        upstream = self._settings.upstream_name
        if not await self._redis.execute_command("SET", keys.expiry_warned(upstream), "1", "NX", "EX", _DAY):
            return
        today = datetime.now(UTC).date().isoformat()
        for facts in expiring:
            log.warning("model.expires", model=facts.id, date=facts.expires, over=(facts.expires or today) < today)

    async def _used(self, models: Models) -> list[ModelFacts]:
        """Return the facts of models that lines wait for or run on; of a route those that its name tells."""
        upstream = self._settings.upstream_name
        try:
            rules = (await policy.live(self._redis, upstream)).policy
        except StoreError:  # written by a newer version; whom it concerns more says so
            rules = Policy()
        used: dict[str, ModelFacts] = {}
        for lane in await lanes.waiting(self._redis, upstream):
            asked, mark, _ = lane.rpartition(LANE_OF_A_ROUTE)
            name = asked if mark else lane
            alias = rules.alias(name)
            for model in alias.models if alias else (name,):
                facts = find_model(models, model)
                if facts is not None:
                    used[facts.id] = facts
        return list(used.values())
