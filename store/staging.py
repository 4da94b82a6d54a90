"""Enqueueing: a batch's shards are written first, invisible; then the batch is let go as a whole.

    stage shards (expire by themselves if we die) ──► release (atomic: the batch exists) ──► queue the shards

A crash before the release leaves nothing but keys that expire; a crash after it leaves unqueued shards that
maintenance queues.
"""

import secrets
import time
from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from batchmill.store import keys
from batchmill.store.connection import pack_job
from batchmill.store.model import Line, Result
from batchmill.store.records import Recording, record
from batchmill.store.scripts import Script

JOB = "run_shard"
"""The name of arq's function for a shard."""

_STAGING_SECONDS = 3600
_FLUSH_BYTES = 1 << 20
_QUEUE_CHUNK = 500
_DAY = 86_400

_release = Script("release")
_requeue = Script("requeue")
_encode = msgspec.msgpack.Encoder().encode


class Shard(msgspec.Struct, frozen=True):
    """A run of lines of one batch and one model, and where their indexes lie."""

    reference: str
    model: str
    first: int
    last: int


class BatchFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is said about a batch once, when it is let go."""

    total: int
    models: dict[str, int]
    content: str  # digest by which the same lines are found again
    source: str | None = None
    retry_of: str | None = None


def new_batch_id() -> str:
    """Return an id that sorts by time of birth and can't be guessed."""
    return f"batch_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


def shard_size(lines: int) -> int:
    """How many lines of one model a shard takes: small batches spread over the fleet, large ones stay cheap."""
    return max(1, min(64, -(-lines // 64)))


class Staging:
    """The writing of one batch. Either `release` or `discard` ends it."""

    def __init__(self, redis: Redis, upstream: str, *, retention_days: int, batch_id: str | None = None) -> None:
        self.batch_id = batch_id or new_batch_id()
        self._redis = redis
        self._upstream = upstream
        self._retention = retention_days * _DAY
        self._shards: list[Shard] = []
        self._pipe: Pipeline = redis.pipeline(transaction=False)
        self._bytes = 0

    async def add(self, model: str, lines: Sequence[Line]) -> None:
        """Stage one shard."""
        reference = keys.reference(self.batch_id, len(self._shards), len(lines))
        shard = Shard(reference, model, lines[0].index, lines[-1].index)
        payload = _encode(lines)
        self._shards.append(shard)
        self._pipe.execute_command("SET", keys.shard(reference), payload, "EX", _STAGING_SECONDS)
        self._pipe.execute_command("HSET", keys.open_shards(self.batch_id), reference, _encode(shard))
        self._bytes += len(payload)
        if self._bytes >= _FLUSH_BYTES:
            await self._flush()

    async def release(self, facts: BatchFacts, refused: Sequence[Result] = ()) -> str:
        """Let the batch go and queue its shards; lines that never can run are recorded as failed at once.

        Returns the id under which the lines run: ours, or that of the batch that already has this content.
        """
        await self._flush()
        existing = await self._let_go(facts)
        if existing:
            await self.discard()
            return existing
        for start in range(0, len(refused), _QUEUE_CHUNK):
            chunk = refused[start : start + _QUEUE_CHUNK]
            await record(self._redis, [Recording(self.batch_id, tuple(chunk))], "producer", self._retention)
        for start in range(0, len(self._shards), _QUEUE_CHUNK):
            await self._queue(self._shards[start : start + _QUEUE_CHUNK])
        return self.batch_id

    async def discard(self) -> None:
        """Take back whatever was staged."""
        await self._flush()
        names = [keys.shard(shard.reference) for shard in self._shards] + [keys.open_shards(self.batch_id)]
        for start in range(0, len(names), _QUEUE_CHUNK):
            await self._redis.execute_command("UNLINK", *names[start : start + _QUEUE_CHUNK])
        self._shards.clear()

    async def _let_go(self, facts: BatchFacts) -> str:
        names = [
            keys.batch(self.batch_id),
            keys.batches(),
            keys.live(),
            keys.content(facts.content),
            keys.open_shards(self.batch_id),
        ]
        fields: list[str | int | bytes] = [self.batch_id, self._retention]
        fields += ["total", facts.total, "models", msgspec.json.encode(facts.models), "upstream", self._upstream]
        fields += ["content", facts.content]
        for name, value in (("source", facts.source), ("retry_of", facts.retry_of)):
            if value:
                fields += [name, value]
        reply = await _release(self._redis, names, fields)
        return str(reply.decode())

    async def _queue(self, shards: Sequence[Shard]) -> None:
        now = time.time_ns() // 1_000_000
        async with self._redis.pipeline(transaction=False) as pipe:
            models = sorted({shard.model for shard in shards})
            pipe.execute_command("SADD", keys.lanes(self._upstream), *models)
            for shard in shards:
                reference = shard.reference
                pipe.execute_command("EXPIRE", keys.shard(reference), self._retention)
                pipe.execute_command("SET", keys.job(reference), job_of(shard, now), "EX", self._retention)
                pipe.execute_command("ZADD", keys.lane(self._upstream, shard.model), now, reference)
            for model in models:
                pipe.execute_command("PUBLISH", keys.wake(self._upstream), model)
            await pipe.execute()

    async def _flush(self) -> None:
        if not self._bytes:
            return
        self._pipe.execute_command("EXPIRE", keys.open_shards(self.batch_id), _STAGING_SECONDS)
        await self._pipe.execute()
        self._bytes = 0


def job_of(shard: Shard, now_ms: int) -> bytes:
    """Return a shard's job in arq's format (arq.jobs.serialize_job): only the reference, for arq logs arguments."""
    return pack_job({"t": None, "f": JOB, "a": [shard.reference, shard.first, shard.last], "k": {}, "et": now_ms})


async def requeue_lost(redis: Redis, upstream: str, batch_id: str, *, retention_days: int) -> list[str]:
    """Queue those unfinished shards of a batch that are neither queued nor leased; return their references."""
    entries = await redis.execute_command("HGETALL", keys.open_shards(batch_id))
    shards = [msgspec.msgpack.decode(value, type=Shard) for value in entries.values()]
    retention = retention_days * _DAY
    now = time.time_ns() // 1_000_000
    lost: list[str] = []
    for shard in shards:
        names = [keys.open_shards(batch_id), keys.lane(upstream, shard.model), keys.leases(upstream, shard.model)]
        if await _requeue(
            redis, [*names, keys.job(shard.reference)], [shard.reference, now, job_of(shard, now), retention]
        ):
            await redis.execute_command("EXPIRE", keys.shard(shard.reference), retention)
            lost.append(shard.reference)
    if lost:
        await redis.execute_command("SADD", keys.lanes(upstream), *{shard.model for shard in shards})
    return lost
