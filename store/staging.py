"""Enqueueing: a batch's shards are written first, invisible; then the batch is let go as a whole.

    stage shards (expire by themselves if we die) ──► release (atomic: the batch exists) ──► queue the shards

A crash before the release leaves nothing but keys that expire; a crash after it leaves unqueued shards that
maintenance queues. A batch whose id is given may be tried again, even while the one who tried first is only slow: each
try has a token, the last one that took over is the only one that can write, and one of them lets the batch go.
"""

import secrets
import time
from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis

from batchmill.store import keys, service_keys
from batchmill.store.connection import pack_job
from batchmill.store.errors import StoreError
from batchmill.store.handed import Handed
from batchmill.store.model import Line, Priority, Result, Terms
from batchmill.store.records import BATCH_GONE, Recording, record
from batchmill.store.scripts import Argument, Script

JOB = "run_shard"
"""The name of arq's function for a shard."""

_STAGING_SECONDS = 3600
_FLUSH_BYTES = 1 << 20
_CHUNK = 200  # shards or results a call, so that no script keeps others waiting
_DAY = 86_400
_GONE = "-"
_STAGING = "staging."  # as record.lua knows it
_OTHER_TRY = "another gateway has taken this batch over"
_PLAIN = Terms()

_release = Script("release")
_discard = Script("discard")
_stage = Script("stage")
_take_over = Script("take_over")
_queue = Script("queue")
_encode = msgspec.msgpack.Encoder().encode


class Shard(msgspec.Struct, frozen=True):
    """A run of lines of one batch and one model, where their indexes lie, and whose turn decides about it."""

    reference: str
    model: str
    first: int
    last: int
    project: str = "default"
    priority: Priority = Priority.NORMAL


class ShardPayload(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a shard: its lines, and what goes for all of them."""

    terms: Terms
    lines: tuple[Line, ...]


class BatchFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is said about a batch once, when it is let go."""

    total: int
    models: dict[str, int]
    content: str  # digest by which the same lines are found again
    source: str | None = None
    retry_of: str | None = None
    project: str = "default"
    priority: Priority = Priority.NORMAL
    max_cost: int | None = None  # nano-dollars
    tags: tuple[str, ...] = ()  # "key=value"
    cache: bool = False  # lines may be answered from earlier results
    handed: Handed | None = None  # how it was created over HTTP
    expires_at: int | None = None  # end of its completion window (unix seconds)
    key: str | None = None  # id of the API key that handed it over
    listed: bool = True  # in the index of batches; single lines of a chat are not


def new_batch_id() -> str:
    """Return an id that sorts by time of birth and can't be guessed."""
    return f"{batch_id_at(time.time())}{secrets.token_hex(8)}"


def batch_id_at(moment: float) -> str:
    """Return how ids of batches begin that are born at a time (unix seconds); older ones sort before it."""
    return f"batch_{int(moment * 1000):012x}"


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
        self._token = f"{_STAGING}{secrets.token_hex(8)}"
        self._shards: list[Shard] = []
        self._live = False  # whether any line has live tokens
        self._staged: list[tuple[Shard, bytes]] = []  # with their payloads, not written yet
        self._live_lines: list[Argument] = []
        self._bytes = 0

    async def take_over(self) -> bool:
        """Discard what an earlier try under the same id left, and keep it from going on; False: it was let go."""
        names = [make(self.batch_id) for make in (keys.batch, keys.open_shards, keys.done, keys.results)]
        left = await _take_over(self._redis, [*names, keys.live_lines(self.batch_id)], [self._token, _STAGING_SECONDS])
        if left == 0:
            return False
        await self._remove([keys.shard(reference.decode()) for reference in left])
        return True

    async def add(self, model: str, lines: Sequence[Line], terms: Terms = _PLAIN) -> None:
        """Stage one shard. Raises StoreError when another try under the same id has taken over."""
        reference = keys.reference(self.batch_id, len(self._shards), len(lines))
        shard = Shard(reference, model, lines[0].index, lines[-1].index, terms.project, terms.priority)
        payload = _encode(ShardPayload(terms, tuple(lines)))
        self._shards.append(shard)
        self._staged.append((shard, payload))
        if live := [part for line in lines if line.live for part in (line.custom_id, line.index)]:
            self._live = True
            self._live_lines += live
        self._bytes += len(payload)
        if self._bytes >= _FLUSH_BYTES:
            await self._flush()

    async def release(self, facts: BatchFacts, refused: Sequence[Result] = ()) -> str:
        """Let the batch go and queue its shards. `refused` are lines that never can run: failed from the first moment.

        Returns the id under which the lines run: ours, or that of the batch that already has this content. Raises
        StoreError when it took so long that part of what was staged is gone. Safe to interrupt anywhere: either the
        batch exists and maintenance goes on with it, or it does not and `discard` removes what there is.
        """
        if not self._shards:
            raise ValueError("a batch needs a line that can run")
        await self._flush()
        await self._stage_refused(facts.total, refused)
        reply = await self._let_go(facts, len(refused))
        if reply == _GONE:
            await self.discard()
            raise StoreError("what was staged has expired before the batch was complete; hand the lines in again")
        if reply:
            await self.discard()
            return reply
        await _queue_shards(self._redis, self._upstream, self.batch_id, self._shards, self._retention)
        return self.batch_id

    async def discard(self) -> None:
        """Take back whatever was staged, unless the batch was let go, or another try took over."""
        self._staged.clear()
        self._bytes = 0
        names = [keys.shard(shard.reference) for shard in self._shards]
        names += [keys.open_shards(self.batch_id), keys.done(self.batch_id), keys.results(self.batch_id)]
        names += [keys.live_lines(self.batch_id), keys.batch(self.batch_id)]  # which has the token, so it is the last
        if await self._remove(names):
            self._shards.clear()

    async def _remove(self, names: Sequence[str]) -> bool:
        """Remove keys that we staged; False when they are not ours to remove."""
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            if not await _discard(self._redis, [keys.batch(self.batch_id), *chunk], [self._token]):
                return False
        return True

    async def _stage_refused(self, total: int, refused: Sequence[Result]) -> None:
        """Write the results of refused lines before the batch exists, so that no crash can part the two."""
        if not refused:
            return
        await self._flush(total)
        for start in range(0, len(refused), _CHUNK):
            recording = Recording(self.batch_id, tuple(refused[start : start + _CHUNK]))
            if await record(self._redis, [recording], self._token, _STAGING_SECONDS) == [BATCH_GONE]:
                raise StoreError(_OTHER_TRY)

    async def _let_go(self, facts: BatchFacts, refused: int) -> str:
        names = [
            keys.batch(self.batch_id),
            keys.batches(),
            keys.live(),
            keys.content(facts.content),
            keys.open_shards(self.batch_id),
            keys.done(self.batch_id),
            keys.results(self.batch_id),
            service_keys.index(None),
            service_keys.index(facts.project),
            service_keys.deadlines(),
            keys.batch_budget(self._upstream, self.batch_id),
            service_keys.intake(self.batch_id),
            *(keys.shard(shard.reference) for shard in self._shards),
        ]
        if self._live:
            names.append(keys.live_lines(self.batch_id))
        arguments: list[Argument] = [
            self.batch_id,
            self._retention,
            refused,
            self._token,
            len(self._shards),
            service_keys.in_index(self.batch_id, facts.project) if facts.listed else "",
            "" if facts.expires_at is None else facts.expires_at,
            "" if facts.max_cost is None else facts.max_cost,
        ]
        reply = await _release(self._redis, names, [*arguments, "upstream", self._upstream, *_fields_of(facts)])
        return str(reply.decode())

    async def _flush(self, total: int | None = None) -> None:
        if not self._staged and total is None:
            return
        names = [keys.batch(self.batch_id), keys.open_shards(self.batch_id), keys.live_lines(self.batch_id)]
        names += [keys.shard(shard.reference) for shard, _ in self._staged]
        arguments: list[Argument] = [self._token, _STAGING_SECONDS, "" if total is None else total]
        arguments += [len(self._live_lines), *self._live_lines]
        for shard, payload in self._staged:
            arguments += [shard.reference, _encode(shard), payload]
        if not await _stage(self._redis, names, arguments):
            raise StoreError(_OTHER_TRY)
        self._staged.clear()
        self._live_lines.clear()
        self._bytes = 0


def _fields_of(facts: BatchFacts) -> list[Argument]:
    """Return what is said about a batch, as fields of its hash."""
    fields: list[Argument] = ["total", facts.total, "models", msgspec.json.encode(facts.models)]
    fields += ["content", facts.content, "project", facts.project, "priority", facts.priority.value]
    for name, value in (("source", facts.source), ("retry_of", facts.retry_of), ("key", facts.key)):
        if value:
            fields += [name, value]
    if facts.tags:
        fields += ["tags", msgspec.json.encode(facts.tags)]
    if facts.cache:
        fields += ["cache", 1]
    if facts.handed is not None:
        fields += ["handed", msgspec.json.encode(facts.handed), "created_at", facts.handed.created_at]
    return fields


def job_of(shard: Shard, now_ms: int) -> bytes:
    """Return a shard's job in arq's format (arq.jobs.serialize_job): only the reference, for arq logs arguments."""
    return pack_job({"t": None, "f": JOB, "a": [shard.reference, shard.first, shard.last], "k": {}, "et": now_ms})


async def requeue_lost(redis: Redis, upstream: str, batch_id: str, *, retention_days: int) -> list[str]:
    """Queue those unfinished shards of a batch that are neither queued nor leased; return their references."""
    entries = await redis.execute_command("HGETALL", keys.open_shards(batch_id))
    shards = [msgspec.msgpack.decode(value, type=Shard) for value in entries.values()]
    return await _queue_shards(redis, upstream, batch_id, shards, retention_days * _DAY)


async def _queue_shards(
    redis: Redis, upstream: str, batch_id: str, shards: Sequence[Shard], retention: int
) -> list[str]:
    by_model: dict[str, list[Shard]] = {}
    for shard in shards:
        by_model.setdefault(shard.model, []).append(shard)
    if by_model:  # first, so that a lane with something in it is always one that workers look at
        await redis.execute_command("SADD", keys.lanes(upstream), *sorted(by_model))
    queued: list[bytes] = []
    for model, own in by_model.items():
        names = [keys.open_shards(batch_id), keys.lane(upstream, model), keys.leases(upstream, model)]
        names += [keys.flows(upstream, model), keys.flow_facts(upstream, model)]
        names += [keys.turns(upstream, model), keys.parked(upstream, model)]
        turn: list[Argument] = [batch_id, own[0].priority.stride, own[0].priority.value, own[0].project]
        new: list[bytes] = []
        for start in range(0, len(own), _CHUNK):
            chunk = own[start : start + _CHUNK]
            now = time.time_ns() // 1_000_000  # for people who look at arq's job; the lane goes by the clock of Redis
            arguments: list[Argument] = [retention, *turn]
            for shard in chunk:
                arguments += [shard.reference, job_of(shard, now)]
            new += await _queue(redis, [*names, *(keys.job(shard.reference) for shard in chunk)], arguments)
        if new:
            await redis.execute_command("PUBLISH", keys.wake(upstream), model)
        queued += new
    return [reference.decode() for reference in queued]
