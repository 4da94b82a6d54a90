"""What is kept of a batch beside its money, removed: results, live tokens, what was tried, and the batch itself."""

from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis

from batchmill.store import audit, intakes, keys, service_keys
from batchmill.store.batches import open_shards
from batchmill.store.clock import now_ms
from batchmill.store.model import BatchState
from batchmill.store.scripts import Script
from batchmill.store.usage_log import Whose

_remove = Script("remove")
_CHUNK = 500
_ENDED = tuple(state.value.encode() for state in BatchState if state.terminal)


class Found(msgspec.Struct, frozen=True):
    """A batch that is to go. One that is, and stays, an intake has no upstream."""

    id: str
    upstream: str
    project: str
    ended: bool
    intake: bool = False


async def find(redis: Redis, whose: Whose) -> list[Found]:
    """Return the batches that there are of a project, or the one that is named; of every upstream."""
    ids = [whose.batch.encode()] if whose.batch else await redis.execute_command("ZRANGE", keys.batches(), 0, -1)
    found = []
    for start in range(0, len(ids), _CHUNK):
        chunk = [name.decode() for name in ids[start : start + _CHUNK]]
        async with redis.pipeline(transaction=False) as pipe:
            for batch_id in chunk:
                pipe.execute_command("HMGET", keys.batch(batch_id), "state", "upstream", "project")
            facts = await pipe.execute()
        for batch_id, (state, upstream, project) in zip(chunk, facts, strict=True):
            owner = (project or b"default").decode()
            if state and whose.project in (None, owner):
                found.append(Found(batch_id, (upstream or b"").decode(), owner, state in _ENDED))
    return [*found, *await _intakes(redis, whose, {batch.id for batch in found})]


async def _intakes(redis: Redis, whose: Whose, known: set[str]) -> list[Found]:
    """Return what was handed over by HTTP and is no batch yet, or never came to be one."""
    ids = [whose.batch] if whose.batch else []
    if whose.project is not None:
        index = service_keys.index(whose.project)
        ids = [name.decode() for name in await redis.execute_command("ZRANGE", index, 0, -1)]
    found = []
    for batch_id in ids:
        intake = await intakes.find(redis, batch_id) if batch_id not in known else None
        if intake is not None:
            found.append(Found(batch_id, "", intake.asked.project, intake.state.terminal, intake=True))
    return found


async def remove(redis: Redis, batch_id: str) -> bool:
    """Remove a batch that is over, but for its budget; False when it is not over. Safe to repeat after a crash.

    The batch itself goes last, so that it can be found again until all of it is gone.
    """
    content = await redis.execute_command("HGET", keys.batch(batch_id), "content")
    shards = await open_shards(redis, batch_id)
    live = await redis.execute_command("HVALS", keys.live_lines(batch_id))
    tokens = [keys.live_tokens(batch_id, int(index)) for index in live]
    jobs = [name for shard in shards for name in (keys.shard(shard.reference), keys.job(shard.reference))]
    own = [keys.open_shards(batch_id), keys.results(batch_id), keys.done(batch_id), keys.air(batch_id)]
    own += [keys.tried(batch_id), keys.live_lines(batch_id)]
    first = [keys.batch(batch_id), keys.batches(), keys.live(), keys.content((content or b"").decode())]
    state, project = await redis.execute_command("HMGET", keys.batch(batch_id), "state", "project")
    owner = (project or b"default").decode()
    first += [service_keys.index(None), service_keys.index(owner), service_keys.to_finalize()]
    if state not in _ENDED:
        return False
    for start in range(0, len(tokens + jobs), _CHUNK):
        await redis.execute_command("UNLINK", *(tokens + jobs)[start : start + _CHUNK])
    return bool(await _remove(redis, [*first, *own], [batch_id, service_keys.in_index(batch_id, owner)]))


async def remove_intakes(redis: Redis, upstream: str, whose: Whose, retention_days: int) -> int:
    """Remove batches over HTTP that never came to run, those that still wait cancelled first; return how many.

    One whose lines are let go at this very moment is a batch in the next, and stays.
    """
    ids = [whose.batch.encode()] if whose.batch else []
    if whose.project:
        ids = await redis.execute_command("ZRANGE", service_keys.index(whose.project), 0, -1)
    removed = 0
    for batch_id in (member.decode() for member in ids):
        found = await intakes.find(redis, batch_id)
        if found is None:
            continue
        if not found.state.terminal:
            state = await intakes.cancel(redis, upstream, found, retention_days=retention_days)
            if state is None or not state.terminal:
                continue
        owner = found.asked.project
        async with redis.pipeline(transaction=True) as pipe:
            pipe.execute_command("UNLINK", service_keys.intake(batch_id))
            pipe.execute_command("ZREM", service_keys.index(None), service_keys.in_index(batch_id, owner))
            pipe.execute_command("ZREM", service_keys.index(owner), batch_id)
            await pipe.execute()
        removed += 1
    return removed


async def note(redis: Redis, upstream: str, who: str, whose: Whose, removed: Sequence[tuple[str, int]]) -> None:
    """Keep in the audit that somebody removed something."""
    named = {name: value for name, value in (("project", whose.project), ("batch", whose.batch)) if value}
    entry = audit.Entry(who=who, what="purge", at=await now_ms(redis), detail={**named, **dict(removed)})
    async with redis.pipeline(transaction=True) as pipe:
        audit.note(pipe, upstream, entry)
        await pipe.execute()
