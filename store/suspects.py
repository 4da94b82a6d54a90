"""Stand-in."""

from collections.abc import Sequence

from redis.asyncio import Redis

from batchmill.store import keys


async def release(redis: Redis, upstream: str, ids: Sequence[str], who: str) -> list[str]:  # noqa: ARG001
    """Free suspects; return those that there were."""
    return [name for name in ids if await redis.execute_command("HDEL", keys.suspects(upstream), name)]
