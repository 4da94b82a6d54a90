"""Which batches are over and wait for their output files, and who writes them."""

from redis.asyncio import Redis

from batchmill.store import events, keys, service_keys
from batchmill.store.clock import now_ms
from batchmill.store.model import BatchStatus
from batchmill.store.scripts import Argument, Script

_files_written = Script("files_written")
_MOST = 1000  # looked at in one round


async def waiting(redis: Redis) -> list[str]:
    """Return the batches that are over and have no output files yet, those that wait longest first."""
    found = await redis.execute_command("ZRANGE", service_keys.to_finalize(), 0, _MOST - 1)
    return [batch_id.decode() for batch_id in found]


async def take(redis: Redis, batch_id: str, us: str, lease: float) -> bool:
    """Whether it is ours to write a batch's files, for `lease` seconds."""
    name = service_keys.finalizing(batch_id)
    return bool(await redis.execute_command("SET", name, us, "NX", "PX", round(lease * 1000)))


async def renew(redis: Redis, batch_id: str, lease: float) -> None:
    """Go on for another `lease` seconds. Two who write at once do no harm: they write the same."""
    await redis.execute_command("PEXPIRE", service_keys.finalizing(batch_id), round(lease * 1000))


async def drop(redis: Redis, batch_id: str) -> None:
    """Forget a batch that is gone."""
    await redis.execute_command("ZREM", service_keys.to_finalize(), batch_id)


async def mark_written(redis: Redis, status: BatchStatus, *, output: bool, errors: bool) -> bool:
    """Say that a batch's files are in storage, those that are not empty, and have its webhook told of its end.

    False when the batch is gone.
    """
    names = [keys.batch(status.id), service_keys.to_finalize(), service_keys.finalizing(status.id)]
    event = events.event_of(status, await now_ms(redis) // 1000)
    arguments: list[Argument] = [status.id, int(output), int(errors), events.message(event)]
    return bool(await _files_written(redis, [*names, service_keys.event_deliveries()], arguments))


async def written(redis: Redis, batch_id: str) -> bool:
    """Whether a batch's files are in storage, or were."""
    return bool(await redis.execute_command("HEXISTS", keys.batch(batch_id), "files_at"))
