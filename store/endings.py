"""The end of a batch before all its lines were sent: somebody cancels it, or its completion window is over.

What is in the air is kept as it comes, but for streamed calls of a cancelled batch, which are hung up. All else gets
its result at once, here or by the worker that has it. Works without any worker; who dies in the middle of it is
followed by whoever sweeps next.
"""

import secrets

from redis.asyncio import Redis

from batchmill.store import batches, lanes, service_keys
from batchmill.store.clock import now_ms
from batchmill.store.errors import UnknownBatchError
from batchmill.store.lanes import Ending
from batchmill.store.model import BatchState
from batchmill.store.records import Recording, record
from batchmill.store.staging import Shard
from batchmill.store.unsent import unsent_line

_DAY = 86_400
_LEASE = 10.0  # seconds to record the lines of one shard; if we die, a worker does it after this
_MOST = 100  # batches of one sweep


async def cancel(redis: Redis, batch_id: str, *, retention_days: int) -> BatchState:
    """Send nothing more of a batch. Returns the state that it is in now. Raises UnknownBatchError."""
    return await _stop(redis, batch_id, BatchState.CANCELLING, retention_days)


async def sweep(redis: Redis, *, retention_days: int) -> list[str]:
    """End the batches whose time is over, and see to those whose end somebody began; return them.

    May be called by anybody at any time, also by many at once.
    """
    now = await now_ms(redis) // 1000
    due = await redis.execute_command("ZRANGEBYSCORE", service_keys.deadlines(), "-inf", now, "LIMIT", 0, _MOST)
    ended = [batch_id.decode() for batch_id in due]
    for batch_id in ended:
        try:
            await _stop(redis, batch_id, BatchState.EXPIRING, retention_days)
        except UnknownBatchError:
            continue  # its retention is over, or somebody purged it
    return ended


async def _stop(redis: Redis, batch_id: str, wanted: BatchState, retention_days: int) -> BatchState:
    state = await batches.mark_stopping(redis, batch_id, wanted)
    if state.unsent is None or state.terminal:
        return state
    upstream = (await batches.status(redis, batch_id)).upstream
    run = f"{wanted.value}.{secrets.token_hex(6)}"
    for shard in await batches.open_shards(redis, batch_id):
        claim = await lanes.take(redis, upstream, shard.model, shard.reference, run, lease=_LEASE)
        if claim is None:
            continue  # a worker has it, and hears of the end itself
        await _record(redis, batch_id, shard, retention_days)
        await lanes.finish(redis, claim, Ending.DONE)
    return (await batches.status(redis, batch_id)).state


async def _record(redis: Redis, batch_id: str, shard: Shard, retention_days: int) -> None:
    """Record what is left of a shard as what the state of its batch makes of it, which may have changed meanwhile."""
    work = await batches.load(redis, shard.reference, shard.first, shard.last)
    if work is None or work.unsent is None:
        return
    results = tuple(unsent_line(line, shard.model, work.unsent, work.terms.route) for line in work.lines)
    await record(redis, [Recording(batch_id, results)], "producer", retention_days * _DAY)
