"""Stand-in."""

from redis.asyncio import Redis

from batchmill.store import keys


async def accept(redis: Redis, upstream: str, who: str) -> None:  # noqa: ARG001
    """Go on with the books as they are."""
    await redis.execute_command("HDEL", keys.books(upstream), "alarm")
