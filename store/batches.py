"""Batches: their state, their cancellation, and the shards that are left of them. `batch_index` lists them."""

from collections.abc import Mapping
from typing import Any

import msgspec
from redis.asyncio import Redis

from batchmill.config.typed import typed
from batchmill.openrouter.outcomes import Usage
from batchmill.store import keys, service_keys
from batchmill.store.errors import UnknownBatchError
from batchmill.store.handed import Handed
from batchmill.store.model import BatchState, BatchStatus, Line, LineState, Priority, Terms, Tried
from batchmill.store.scripts import Script
from batchmill.store.staging import Shard, ShardPayload

_stop = Script("stop")

_DAY = 86_400

WORKER_SILENCE_MS = 10_000
"""A worker that sent no heartbeat for so long has nothing in the air, as far as anybody can tell."""

_TRIED_SECONDS = 30 * 86_400
_LONGEST_SAID = 30 * 86_400  # seconds that a reason may stand
_NUMBERS = (
    "total", "created_at", "in_progress_at", "cancelling_at", "cancelled_at", "completed_at", "finalizing_at",
    "expired_at", "expires_at", "files_at", "cost", "uncosted", "cached", "max_cost", "estimate",
    *(state.value for state in LineState),
)  # fmt: skip
_TEXTS = ("source", "retry_of", "upstream", "project", "key")
_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
_LOOK_AGAIN = 15  # seconds


class ShardWork(msgspec.Struct, frozen=True):
    """A shard as a run finds it: its lines without a result, and what they become if they are not to be sent."""

    lines: tuple[Line, ...]
    unsent: LineState | None = None
    tried: dict[int, Tried] = {}  # by line index, for lines that an earlier run gave back
    terms: Terms = Terms()


def alarmed(upstream: str) -> str:
    """Return why nothing is sent while the books are not those that workers know."""
    return (
        "the books in Redis are older than what the workers have seen (restored or emptied): nothing is sent "
        f"until {typed('budgets accept-restored', upstream)}"
    )


_decode_tried = msgspec.msgpack.Decoder(Tried).decode
_decode_payload = msgspec.msgpack.Decoder(ShardPayload).decode


async def status(redis: Redis, batch_id: str) -> BatchStatus:
    """Return the batch as it is now. Raises UnknownBatchError."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("HGETALL", keys.batch(batch_id))
        pipe.execute_command("HGETALL", keys.air(batch_id))
        pipe.execute_command("TIME")
        facts, air, (seconds, microseconds) = await pipe.execute()
    if b"state" not in facts:  # none, or one that is only staged
        raise UnknownBatchError(batch_id)
    now_ms = int(seconds) * 1000 + int(microseconds) // 1000
    found = _status(facts)
    if found.state.terminal:
        return found if found.handed is None or found.files_at is not None else await _unwritten(redis, found)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.execute_command("ZRANGEBYSCORE", keys.workers(found.upstream), now_ms - WORKER_SILENCE_MS, "+inf")
        pipe.execute_command("HEXISTS", keys.books(found.upstream), "alarm")
        alive, alarm = await pipe.execute()
    if alarm:  # whatever the restored books say to be in the air
        return msgspec.structs.replace(found, blocked_on=alarmed(found.upstream), blocked_by=("alarm",))
    running = sum(int(count) for worker, count in air.items() if worker in alive)
    found = msgspec.structs.replace(found, running=min(running, found.total - found.done))
    if found.running or not found.pending:
        return found
    kinds, reason = await _blocked_on(redis, found, any_worker=bool(alive))
    return msgspec.structs.replace(found, blocked_on=reason, blocked_by=kinds)


async def account_refusal(redis: Redis, upstream: str) -> str | None:
    """Return why the upstream refuses the account now, if it does."""
    said = await redis.execute_command("GET", keys.blocked(upstream, "refused"))
    return said.decode().partition("|")[2] if said else None


async def say_blocked(redis: Redis, upstream: str, scope: str, kind: str, reason: str, seconds: float) -> None:
    """Let everybody see why lines of a scope (a model, a batch ...) wait, for as long as they do."""
    milliseconds = max(1, round(min(seconds, _LONGEST_SAID) * 1000))
    await redis.execute_command("SET", keys.blocked(upstream, scope), f"{kind}|{reason}", "PX", milliseconds)


async def _blocked_on(redis: Redis, found: BatchStatus, *, any_worker: bool) -> tuple[tuple[str, ...], str]:
    if not any_worker:
        return ("worker",), f"no worker for {found.upstream}; {typed('worker', found.upstream)} starts one"
    scopes = ["refused", "account", found.id, *found.models]
    if any(model.endswith(":free") for model in found.models):
        scopes.append(":free")
    reasons = await redis.execute_command("MGET", *(keys.blocked(found.upstream, scope) for scope in scopes))
    said = [reason.decode().partition("|") for reason in reasons if reason]
    if not said:
        return ("place",), "no free place: the workers are busy with other lines"
    return tuple(kind for kind, _, _ in said), "; ".join(text for _, _, text in said)


async def _unwritten(redis: Redis, found: BatchStatus) -> BatchStatus:
    """Return a batch that is over but for its output files, with why they are not written, if somebody tried."""
    said = await redis.execute_command("GET", keys.blocked(found.upstream, found.id))
    kind, _, text = said.decode().partition("|") if said else ("", "", "")
    if kind != "storage":  # of when it still ran
        return found
    return msgspec.structs.replace(found, blocked_on=text, blocked_by=(kind,))


async def exists(redis: Redis, batch_id: str) -> bool:
    """Whether there is such a batch."""
    return bool(await redis.execute_command("HEXISTS", keys.batch(batch_id), "state"))


async def by_content(redis: Redis, content: str) -> str | None:
    """Return the id of the batch that has this content, if there is one."""
    found = await redis.execute_command("GET", keys.content(content))
    if found is None:
        return None
    if await exists(redis, found.decode()):
        return str(found.decode())
    await forget_content(redis, content)
    return None


async def forget_content(redis: Redis, content: str) -> None:
    """Let the same lines be run anew."""
    await redis.execute_command("DEL", keys.content(content))


async def live(redis: Redis) -> list[str]:
    """Return the ids of all batches that are not terminal."""
    return sorted(batch_id.decode() for batch_id in await redis.execute_command("SMEMBERS", keys.live()))


async def keep(redis: Redis, batch_id: str, retention_days: int) -> None:
    """Let an unfinished batch last: retention counts from its end, however long its limits make it wait."""
    retention = retention_days * _DAY
    name = keys.batch(batch_id)
    if await redis.execute_command("TTL", name) > retention // 2:
        return
    content, upstream = await redis.execute_command("HMGET", name, "content", "upstream")
    if content:
        await redis.execute_command("EXPIRE", keys.content(content.decode()), 2 * retention)
    names = [keys.batch_budget(upstream.decode(), batch_id)] if upstream else []
    for shard in await open_shards(redis, batch_id):
        names += [keys.shard(shard.reference), keys.job(shard.reference)]
    names += [keys.open_shards(batch_id), keys.done(batch_id), keys.results(batch_id), keys.air(batch_id)]
    names.append(keys.live_lines(batch_id))
    async with redis.pipeline(transaction=False) as pipe:
        for other in [*names, name]:  # the batch last: should we die, the next look begins anew
            pipe.execute_command("EXPIRE", other, retention)
        await pipe.execute()


async def mark_stopping(redis: Redis, batch_id: str, wanted: BatchState) -> BatchState:
    """Ask for the batch's end, as cancelling or expiring, and tell its workers; return the state it is in now.

    Until it has ended, it comes back among those that are due (`deadlines`). Raises UnknownBatchError.
    """
    facts = await redis.execute_command("HMGET", keys.batch(batch_id), "content", "upstream")
    content, upstream = (value.decode() if value else "" for value in facts)
    names = [keys.batch(batch_id), keys.content(content), service_keys.deadlines()]
    state = await _stop(redis, names, [batch_id, wanted.value, _LOOK_AGAIN])
    if not state:
        raise UnknownBatchError(batch_id)
    found = BatchState(state.decode())
    if found in (BatchState.CANCELLING, BatchState.EXPIRING):
        word = f"!{batch_id}" if found is BatchState.CANCELLING else f"!{batch_id}|{LineState.EXPIRED}"
        await redis.execute_command("PUBLISH", keys.wake(upstream), word)
    return found


async def stopped_among(redis: Redis, batch_ids: list[str]) -> dict[str, LineState]:
    """Return of which of these batches nothing should be sent any more, and what becomes of their unsent lines."""
    if not batch_ids:
        return {}
    async with redis.pipeline(transaction=False) as pipe:
        for batch_id in batch_ids:
            pipe.execute_command("HGET", keys.batch(batch_id), "state")
        states = await pipe.execute()
    found = {batch_id: _unsent(state) for batch_id, state in zip(batch_ids, states, strict=True)}
    return {batch_id: state for batch_id, state in found.items() if state is not None}


def _unsent(state: bytes | None) -> LineState | None:
    """Return what becomes of unsent lines; those of a batch that is gone are of no use to anybody."""
    return LineState.CANCELLED if state is None else BatchState(state.decode()).unsent


async def open_shards(redis: Redis, batch_id: str) -> list[Shard]:
    """Return the batch's unfinished shards."""
    entries = await redis.execute_command("HGETALL", keys.open_shards(batch_id))
    return [msgspec.msgpack.decode(value, type=Shard) for value in entries.values()]


async def line_names(redis: Redis, shard: Shard) -> dict[int, tuple[str, str]]:
    """Return the custom_id of each line of a shard, by index, and what it asked for; none when the shard is gone."""
    payload = await redis.execute_command("GET", keys.shard(shard.reference))
    if payload is None:
        return {}
    stored = _decode_payload(payload)
    asked = shard.model if stored.terms.route is None else stored.terms.route.asked
    return {line.index: (line.custom_id, asked) for line in stored.lines}


async def load(redis: Redis, reference: str, first: int, last: int) -> ShardWork | None:
    """Return what is left to do of a shard, in one round trip (two after a give-back); None when it is gone."""
    batch_id = keys.batch_of(reference)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.execute_command("GET", keys.shard(reference))
        pipe.execute_command("GETRANGE", keys.done(batch_id), first // 8, last // 8)
        pipe.execute_command("HGET", keys.batch(batch_id), "state")
        pipe.execute_command("EXISTS", keys.tried(batch_id))
        payload, done, state, any_tried = await pipe.execute()
    if payload is None or state is None:
        return None
    offset = first // 8 * 8
    stored = _decode_payload(payload)
    lines = stored.lines
    if done.strip(b"\0"):
        lines = tuple(line for line in lines if not _bit(done, line.index - offset))
    tried = await _tried(redis, batch_id, lines) if any_tried and lines else {}
    return ShardWork(lines, _unsent(state), tried, stored.terms)


async def _tried(redis: Redis, batch_id: str, lines: tuple[Line, ...]) -> dict[int, Tried]:
    indexes = [line.index for line in lines]
    found = await redis.execute_command("HMGET", keys.tried(batch_id), *indexes)
    return {index: _decode_tried(value) for index, value in zip(indexes, found, strict=True) if value}


async def keep_tried(redis: Redis, batch_id: str, tried: Mapping[int, Tried]) -> None:
    """Keep what was tried of lines that go back to their lane."""
    fields: list[int | bytes] = []
    for index, value in tried.items():
        fields += [index, msgspec.msgpack.encode(value)]
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("HSET", keys.tried(batch_id), *fields)
        pipe.execute_command("EXPIRE", keys.tried(batch_id), _TRIED_SECONDS)
        await pipe.execute()


def _bit(bitmap: bytes, position: int) -> bool:
    byte = position // 8
    return byte < len(bitmap) and bool(bitmap[byte] & (0x80 >> position % 8))


def _status(facts: dict[bytes, bytes]) -> BatchStatus:
    values: dict[str, Any] = {name: int(facts[name.encode()]) for name in _NUMBERS if name.encode() in facts}
    values |= {name: facts[name.encode()].decode() for name in _TEXTS if name.encode() in facts}
    return BatchStatus(
        id=facts[b"id"].decode(),
        state=BatchState(facts[b"state"].decode()),
        usage=Usage(*(int(facts.get(name.encode(), 0)) for name in _TOKENS)),
        models=msgspec.json.decode(facts[b"models"], type=dict[str, int]),
        cache=b"cache" in facts,
        handed=msgspec.json.decode(facts[b"handed"], type=Handed) if b"handed" in facts else None,
        output_file=facts.get(b"output_file") == b"1",
        error_file=facts.get(b"error_file") == b"1",
        priority=Priority(facts.get(b"priority", b"normal").decode()),
        tags=msgspec.json.decode(facts.get(b"tags", b"[]"), type=tuple[str, ...]),
        **values,
    )
