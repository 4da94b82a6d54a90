"""Batches of chat completions: forgotten soon once they are over, and not before."""

from redis.asyncio import Redis

from batchmill.store import batches, chats, endings, keys
from batchmill.store.model import BatchState
from batchmill.store.staging import Staging

from .store_helpers import DAYS, MODEL, UPSTREAM, all_results, claim, complete, facts, line


async def test_what_is_in_the_air_when_nobody_waits_any_more_is_kept_and_found(redis: Redis) -> None:
    """An outage, a gateway that ends: its answer may come hours later, and is paid for."""
    staging = Staging(redis, UPSTREAM, retention_days=DAYS)
    await staging.add(MODEL, [line(0)])
    batch_id = await staging.release(facts(1, "chat", listed=False))
    held = await claim(redis)
    await endings.cancel(redis, batch_id, retention_days=DAYS)
    await chats.let_expire(redis, batch_id)
    assert await redis.ttl(keys.batch(batch_id)) > chats.KEEP
    assert await redis.zscore(keys.batches(), batch_id) is not None, "a purge looks for it there"
    await complete(redis, held)
    assert (await batches.status(redis, batch_id)).state is BatchState.CANCELLED
    assert len(await all_results(redis, batch_id)) == 1
    await chats.let_expire(redis, batch_id)
    assert 0 < await redis.ttl(keys.batch(batch_id)) <= chats.KEEP
