"""Suspects brought to what they really cost: the upstream is asked by generation id, off the hot path.

A generation can be looked up only some seconds after its call (OpenRouter's reference), so a lookup that finds nothing
is tried again, later each time. A suspect without an id, or one that is never found, waits for an operator.
"""

import asyncio
import time

import structlog
from redis.asyncio import Redis

from batchmill.config.errors import BatchmillError
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.money import to_nano
from batchmill.store.suspects import Suspect, close, suspects

log = structlog.get_logger()

_AT_ONCE = 8  # lookups
_MOST = 200  # a look
_FIRST_PAUSE = 5.0  # seconds, then twice as long each time
_LONGEST_PAUSE = 3600.0


class Reconciler:
    """Looks suspects up, each as often as it is worth while."""

    def __init__(self, redis: Redis, upstream: Upstream, upstream_name: str) -> None:
        self._redis = redis
        self._upstream = upstream
        self._name = upstream_name
        self._next: dict[str, tuple[float, float]] = {}  # hold -> when (monotonic), and the pause after that

    async def look(self) -> int:
        """Look up those whose time has come; return how many were closed."""
        found = [suspect for suspect in await suspects(self._redis, self._name) if suspect.generation]
        known = {suspect.hold for suspect in found}
        self._next = {hold: due for hold, due in self._next.items() if hold in known}
        now = time.monotonic()
        due = [suspect for suspect in found if self._next.get(suspect.hold, (0.0, 0.0))[0] <= now][:_MOST]
        closed = 0
        for start in range(0, len(due), _AT_ONCE):
            lookups = (self._look_up(one) for one in due[start : start + _AT_ONCE])
            ended = await asyncio.gather(*lookups, return_exceptions=True)  # none goes on alone when another breaks
            closed += sum(one is True for one in ended)
            for error in ended:
                if isinstance(error, BaseException):
                    raise error
        if closed:
            log.info("suspects.reconciled", suspects=closed)
        return closed

    async def _look_up(self, suspect: Suspect) -> bool:
        try:
            generation = await self._upstream.generation(suspect.generation)
        except BatchmillError as error:
            log.debug("lookup.failed", hold=suspect.hold, error=str(error))
            generation = None
        if generation is None or generation.total_cost is None:
            pause = self._next.get(suspect.hold, (0.0, _FIRST_PAUSE))[1]
            self._next[suspect.hold] = (time.monotonic() + pause, min(_LONGEST_PAUSE, 2 * pause))
            return False
        return await close(self._redis, self._name, suspect, to_nano(generation.total_cost))
