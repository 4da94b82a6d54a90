"""The clock that everybody shares."""

from redis.asyncio import Redis


async def now_ms(redis: Redis) -> int:
    """Return the time of the server in unix milliseconds."""
    seconds, microseconds = await redis.execute_command("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000
