"""Batches and results for tests of the store, and a look at where a shard is."""

from typing import Any

import msgspec
from redis.asyncio import Redis

from batchmill.openrouter.outcomes import Usage
from batchmill.store import keys, lanes
from batchmill.store.lanes import Claim, Ending
from batchmill.store.model import Line, LineState, Priority, Result, Terms
from batchmill.store.records import Recording, read, record
from batchmill.store.staging import BatchFacts, ShardPayload, Staging

UPSTREAM = "https://upstream.test/v1"
MODEL = "maker/model"
DAYS = 3
RETENTION = DAYS * 86_400
LEASE = 10.0


def line(index: int) -> Line:
    return Line(index, f"line-{index}", b'{"messages":[]}')


def result(index: int, state: LineState = LineState.SUCCEEDED, **fields: Any) -> Result:
    return Result(index=index, custom_id=f"line-{index}", model=MODEL, state=state, **fields)


def costly(index: int, cost: int | None, *tokens: int) -> Result:
    return result(index, cost=cost, usage=Usage(*tokens))


def facts(total: int, content: str = "content", **fields: Any) -> BatchFacts:
    return BatchFacts(total=total, models={MODEL: total}, content=content, **fields)


async def staged(redis: Redis, *sizes: int, model: str = MODEL) -> Staging:
    """Stage shards of these sizes; nothing is released."""
    staging = Staging(redis, UPSTREAM, retention_days=DAYS)
    first = 0
    for size in sizes:
        await staging.add(model, [line(index) for index in range(first, first + size)])
        first += size
    return staging


async def batch_of(redis: Redis, *sizes: int, content: str = "content") -> str:
    """Enqueue a batch with shards of these sizes; return its id."""
    staging = await staged(redis, *sizes)
    return await staging.release(facts(sum(sizes), content))


async def claim(redis: Redis, run: str = "run", *, room: int = 1000, lease: float = LEASE) -> list[Claim]:
    return await lanes.claim(redis, UPSTREAM, MODEL, run, lease=lease, room=room)


async def put(redis: Redis, batch_id: str, *results: Result, worker: str = "worker", in_air: int = 0) -> int:
    """Record results; return how many were new."""
    recordings = [Recording(batch_id, results, in_air)]
    return (await record(redis, recordings, worker, RETENTION))[0]


async def complete(redis: Redis, claims: list[Claim]) -> None:
    """Record a result for every line of the claimed shards, and finish them."""
    for held in claims:
        payload = await redis.execute_command("GET", keys.shard(held.reference))
        lines = msgspec.msgpack.decode(payload, type=ShardPayload).lines
        await put(redis, held.batch_id, *(result(line.index) for line in lines))
        assert await lanes.finish(redis, held, Ending.DONE)


async def all_results(redis: Redis, batch_id: str) -> list[Result]:
    """Return every result in the stream."""
    found: list[Result] = []
    cursor = "0-0"
    while entries := await read(redis, batch_id, cursor):
        cursor = entries[-1].cursor
        found += [entry.result for entry in entries if entry.result is not None]
    return found


async def queued(redis: Redis, model: str = MODEL) -> list[str]:
    """Return the references in the lane, in order."""
    return [name.decode() for name in await redis.execute_command("ZRANGE", keys.lane(UPSTREAM, model), 0, -1)]


async def leased(redis: Redis, model: str = MODEL) -> list[str]:
    return [name.decode() for name in await redis.execute_command("ZRANGE", keys.leases(UPSTREAM, model), 0, -1)]


async def end_leases(redis: Redis, *references: str) -> None:
    """Make leases as old as if their holders had been silent for long."""
    for reference in references:
        await redis.execute_command("ZADD", keys.leases(UPSTREAM, MODEL), "XX", 1, reference)


async def set_pulse(redis: Redis, *, beat_ago: float = 0, grace_in: float = -1) -> None:
    """Say when the fleet beat last, and until when it spares silent workers (seconds from now)."""
    seconds, _ = await redis.execute_command("TIME")
    now = int(seconds) * 1000
    fields = ["beat", now - round(beat_ago * 1000), "grace", now + round(grace_in * 1000)]
    await redis.execute_command("HSET", keys.pulse(UPSTREAM), *fields)
    await redis.execute_command("EXPIRE", keys.pulse(UPSTREAM), 60)


async def named_batch(
    redis: Redis, *sizes: int, name: str, project: str = "default", priority: Priority = Priority.NORMAL
) -> str:
    """Enqueue a batch with an id that tells who it is; return the id."""
    staging = Staging(redis, UPSTREAM, retention_days=DAYS, batch_id=f"batch_{name}")
    first = 0
    for size in sizes:
        await staging.add(MODEL, [line(index) for index in range(first, first + size)], Terms(project, priority))
        first += size
    return await staging.release(facts(sum(sizes), content=name, project=project, priority=priority))


async def weigh(redis: Redis, **weights: float) -> None:
    """Give projects weights."""
    for project, weight in weights.items():
        await redis.execute_command("HSET", keys.weights(UPSTREAM), project, weight)
    await redis.execute_command("EXPIRE", keys.weights(UPSTREAM), 60)


async def fall_silent(redis: Redis, *held: Claim) -> None:
    """Let workers be silent until another one takes back what they had."""
    await set_pulse(redis)
    await end_leases(redis, *(one.reference for one in held))
    renewal = (await lanes.renew(redis, UPSTREAM, {MODEL: []}, lease=LEASE))[MODEL]
    assert sorted(renewal.recovered) == sorted(one.reference for one in held)
