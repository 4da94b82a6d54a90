"""Who is there to do the work of an upstream, and whether its account was refused."""

from redis.asyncio import Redis

from batchmill.store import keys
from batchmill.store.batches import WORKER_SILENCE_MS


async def workers_alive(redis: Redis, upstream: str) -> int:
    """Return how many workers of the upstream gave a sign of life lately."""
    seconds, microseconds = await redis.execute_command("TIME")
    oldest = int(seconds) * 1000 + int(microseconds) // 1000 - WORKER_SILENCE_MS
    return int(await redis.execute_command("ZCOUNT", keys.workers(upstream), oldest, "+inf"))


async def forget_refusal(redis: Redis, upstream: str) -> None:
    """Forget that the account was refused: somebody may have mended it, and new workers try anew."""
    await redis.execute_command("DEL", keys.blocked(upstream, "refused"))
    await redis.execute_command("HDEL", keys.pauses(upstream), "refused")
    await redis.execute_command("DEL", keys.account_turn(upstream))  # so the first of them looks at the key at once
