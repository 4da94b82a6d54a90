"""How often an API key may ask."""

import msgspec
from redis.asyncio import Redis

from batchmill.store import service_keys
from batchmill.store.scripts import Script

_rate = Script("rate")


class Turn(msgspec.Struct, frozen=True):
    """Whether a request may be made now; how many more of them, and when the next (ms) if not."""

    granted: bool
    left: int
    wait_ms: int


async def take(redis: Redis, upstream: str, key_id: str, a_minute: int) -> Turn:
    """Take one request out of what a key has."""
    granted, left, wait = await _rate(redis, [service_keys.api_key_rate(upstream, key_id)], [a_minute])
    return Turn(bool(granted), int(left), int(wait))
