"""A change that depends on what it changes: looked at, planned, and made only if nobody else was quicker."""

from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import WatchError


async def transact(redis: Redis, watched: str, plan: Callable[[Pipeline], Awaitable[bool]]) -> list[Any]:
    """Run at once what the plan queued; plan anew when the watched key changed meanwhile. A False plan runs nothing.

    Returns the replies. What the plan reads, it reads through the client, not through the pipeline.
    """
    async with redis.pipeline(transaction=True) as pipe:
        while True:
            try:
                await pipe.watch(watched)
                pipe.multi()
                return list(await pipe.execute()) if await plan(pipe) else []
            except WatchError:
                continue
