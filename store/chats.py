"""Batches of a single line that somebody waits for: in no list once they are over, and soon forgotten."""

from redis.asyncio import Redis
from redis.exceptions import RedisError

from batchmill.store import keys, service_keys
from batchmill.store.intakes import Known, Name
from batchmill.store.model import BatchState

KEEP = 3600
"""Seconds that the batch of an answered chat completion can still be looked at; its money stays in the ledger."""


async def claim(redis: Redis, name: Name, batch_id: str) -> Known | None:
    """Have a name stand for a batch that is about to be; return the one that it stands for, when that one counts."""
    key, told = service_keys.request_name(name.name), f"{name.digest}|{batch_id}"
    only = ["NX"] if name.once else []
    if await redis.execute_command("SET", key, told, "EX", name.seconds, *only) is not None:
        return None
    digest, _, earlier = ((await redis.execute_command("GET", key)) or b"").decode().partition("|")
    return Known(earlier, digest == name.digest) if earlier else None  # it has expired just now


async def replace(redis: Redis, name: Name, before: str, batch_id: str) -> str:
    """Have a name stand for another batch than `before`; return for which it does: somebody may have been quicker."""
    key = service_keys.request_name(name.name)
    known = ((await redis.execute_command("GET", key)) or b"").decode().partition("|")[2]
    if known not in ("", before):
        return known
    await redis.execute_command("SET", key, f"{name.digest}|{batch_id}", "EX", name.seconds)
    return batch_id


async def forget(redis: Redis, name: Name, batch_id: str) -> None:
    """Have a name stand for nothing, if it stands for this batch."""
    key = service_keys.request_name(name.name)
    if (await redis.execute_command("GET", key)) == f"{name.digest}|{batch_id}".encode():
        await redis.execute_command("DEL", key)


async def enter(redis: Redis, batch_id: str, request: str) -> None:
    """Say that a request waits for the answer."""
    key = service_keys.chat_readers(batch_id)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.execute_command("SADD", key, request)
        pipe.execute_command("EXPIRE", key, KEEP)
        await pipe.execute()


async def leave(redis: Redis, batch_id: str, request: str) -> bool:
    """Say that a request does not wait any more; whether nobody else does."""
    key = service_keys.chat_readers(batch_id)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("SREM", key, request)
        pipe.execute_command("SCARD", key)
        return int((await pipe.execute())[1]) == 0


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
