"""Batches of a single line that somebody waits for: in no list once they are over, and soon forgotten."""

from redis.asyncio import Redis
from redis.exceptions import RedisError

from batchmill.store import keys
from batchmill.store.model import BatchState

KEEP = 3600
"""Seconds that the batch of an answered chat completion can still be looked at; its money stays in the ledger."""


async def let_expire(redis: Redis, batch_id: str) -> None:
    """Let a finished batch go soon, but for its budget, which a late settlement may need. An outage is no error.

    One that is not over stays as any other: what its line in the air comes back with is paid for, and is kept.
    """
    try:
        content, state = await redis.execute_command("HMGET", keys.batch(batch_id), "content", "state")
        if state is None or not BatchState(state.decode()).terminal:
            return
        names = [keys.open_shards(batch_id), keys.done(batch_id), keys.results(batch_id), keys.air(batch_id)]
        names += [keys.tried(batch_id), keys.live_lines(batch_id), keys.content((content or b"").decode())]
        async with redis.pipeline(transaction=False) as pipe:
            for name in [*names, keys.batch(batch_id)]:
                pipe.execute_command("EXPIRE", name, KEEP)
            pipe.execute_command("ZREM", keys.batches(), batch_id)
            await pipe.execute()
    except RedisError:
        return  # kept as long as any batch
