"""The API keys that a gateway has seen lately, so that not every request asks Redis for its key."""

import time

from redis.asyncio import Redis

from batchmill.store import api_keys
from batchmill.store.api_keys import ApiKey
from batchmill.store.clock import now_ms

FRESH = 1.5
"""Seconds that what was read counts: a key that is revoked opens nothing any more two seconds later."""

_MOST = 10_000  # keys remembered
_MINUTE = 60


class Keyring:
    """One gateway's. What Redis says is believed for `FRESH` seconds; that there is no such key, never."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[ApiKey, float]] = {}
        self._noted: dict[str, int] = {}
        self._any = False
        self._asked = float("-inf")
        self._ahead = 0.0  # of the clock of Redis over our monotonic one, in seconds

    async def needed(self, redis: Redis, upstream: str) -> bool:
        """Whether anybody needs a key here: whether one was ever made."""
        if not self._any and time.monotonic() - self._asked > FRESH:
            self._any = await api_keys.any_made(redis, upstream)
            self._asked = time.monotonic()
        return self._any

    async def open(self, redis: Redis, upstream: str, text: str) -> ApiKey | None:
        """Return the key of that text, if it counts now."""
        key_id = api_keys.id_in(text)
        key = await self._find(redis, upstream, key_id) if key_id else None
        return await self._counted(redis, upstream, key if api_keys.opens(key, text) else None)

    async def by_id(self, redis: Redis, upstream: str, key_id: str) -> ApiKey | None:
        """Return the key of that id, if it counts now: for whoever showed it before."""
        return await self._counted(redis, upstream, await self._find(redis, upstream, key_id))

    async def _find(self, redis: Redis, upstream: str, key_id: str) -> ApiKey | None:
        asked = time.monotonic()
        known = self._known.get(key_id)
        if known and asked - known[1] <= FRESH:
            return known[0]
        key = await api_keys.by_id(redis, upstream, key_id)
        self._ahead = await now_ms(redis) / 1000 - time.monotonic()
        if key is None:
            self._known.pop(key_id, None)
            return None
        if len(self._known) >= _MOST:
            self._known.clear()
            self._noted.clear()
        self._known[key_id] = (key, asked)
        return key

    async def _counted(self, redis: Redis, upstream: str, key: ApiKey | None) -> ApiKey | None:
        now = int(time.monotonic() + self._ahead)
        if key is None or key.state(now) != "active":
            return None
        if self._noted.get(key.id) != now // _MINUTE:
            self._noted[key.id] = now // _MINUTE
            await api_keys.note_use(redis, upstream, key.id, now)
        return key
