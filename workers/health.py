"""The endpoints of models in use are asked how they are, at an interval; it costs no money. Who recovers is noticed."""

import asyncio
import time
from collections.abc import Iterable
from typing import Protocol

import structlog
from redis.asyncio import Redis

from batchmill.config.errors import BatchmillError
from batchmill.config.settings import Settings
from batchmill.openrouter.endpoints import Endpoint
from batchmill.routing.health import EndpointHealth, Stated
from batchmill.store.clock import now_ms
from batchmill.store.health import keep_stated, stated_of
from batchmill.store.lanes import waiting
from batchmill.store.model import LANE_OF_A_ROUTE
from batchmill.store.statistics import models_seen

log = structlog.get_logger()

_AT_ONCE = 4
_KEPT_SECONDS = 3600.0  # and three intervals at least
_UNKNOWN_FOR = 3600.0  # seconds until an upstream without the call, or a model that it does not know, is asked again
_PERCENT = 100


class EndpointSource(Protocol):
    """Who is asked: the upstream."""

    async def endpoints(self, model_id: str) -> tuple[Endpoint, ...] | None:
        """Return who serves a model; None when nobody knows the model, or there is no such call."""


class EndpointChecks:
    """Asks for each model in use once an interval; for the worker whose turn the upkeep is."""

    def __init__(self, redis: Redis, source: EndpointSource, settings: Settings) -> None:
        self._redis = redis
        self._source = source
        self._settings = settings
        self._upstream = settings.upstream_name
        self._next: dict[str, float] = {}  # model -> when it is asked for again (monotonic)
        self._rests_until = 0.0

    async def look(self) -> None:
        """Ask for the models whose time has come, a few at a time."""
        if not self._settings.health.check or time.monotonic() < self._rests_until:
            return
        models = await self._in_use()
        self._next = {model: due for model, due in self._next.items() if model in models}
        now = time.monotonic()
        due = [model for model in sorted(models) if self._next.get(model, now) <= now]
        for start in range(0, len(due), _AT_ONCE):
            if time.monotonic() < self._rests_until:
                return
            checks = (self._check(model) for model in due[start : start + _AT_ONCE])
            ended = await asyncio.gather(*checks, return_exceptions=True)  # none goes on alone when another breaks
            for error in ended:
                if isinstance(error, BaseException):
                    raise error

    async def _in_use(self) -> set[str]:
        """Return the models with lines that wait, that were sent to in the last hour, or that may be sent to."""
        lanes = await waiting(self._redis, self._upstream)
        seen = await models_seen(self._redis, self._upstream)
        return {*seen, *(name for name in lanes if LANE_OF_A_ROUTE not in name)}

    async def _check(self, model: str) -> None:
        health = self._settings.health
        self._next[model] = time.monotonic() + health.interval
        try:
            async with asyncio.timeout(health.timeout):
                endpoints = await self._source.endpoints(model)
        except (BatchmillError, TimeoutError) as error:
            log.debug("endpoints.unknown", model=model, error=repr(error))
            return
        if endpoints is None:
            self._unknown(model)
            return
        before = await stated_of(self._redis, self._upstream, model)
        said = Stated(await now_ms(self._redis), tuple(map(_health_of, endpoints)))
        kept = max(_KEPT_SECONDS, 3 * health.interval)
        await keep_stated(self._redis, self._upstream, model, said, seconds=kept)
        _tell(model, before.endpoints if before else (), said.endpoints)

    def _unknown(self, model: str) -> None:
        again = time.monotonic() + _UNKNOWN_FOR
        self._next[model] = again
        if not self._settings.speaks_openrouter:
            self._rests_until = again


def _health_of(endpoint: Endpoint) -> EndpointHealth:
    uptimes = (endpoint.uptime_last_5m, endpoint.uptime_last_30m, endpoint.uptime_last_1d)
    uptime = next((told for told in uptimes if told is not None), None)
    return EndpointHealth(
        endpoint.provider_name,
        endpoint.tag,
        endpoint.status,
        None if uptime is None else uptime / _PERCENT,
        endpoint.latency_ms.p50 if endpoint.latency_ms else None,
        endpoint.throughput.p50 if endpoint.throughput else None,
    )


def _tell(model: str, before: Iterable[EndpointHealth], after: tuple[EndpointHealth, ...]) -> None:
    """Say which endpoints went down or came back since they were asked last, whoever asked."""
    were_down = {_name(one) for one in before if one.down}
    down = {_name(one) for one in after if one.down}
    if news := sorted(down - were_down):
        log.warning("endpoints.down", model=model, endpoints=news, left=len(after) - len(down))
    if back := sorted(were_down & {_name(one) for one in after} - down):
        log.info("endpoints.back", model=model, endpoints=back, left=len(after) - len(down))


def _name(endpoint: EndpointHealth) -> str:
    return endpoint.tag or endpoint.provider
