"""The ledger's stream as a row of chunks: read on from one of them, and cleared of what is somebody's.

clear: copy without what goes, by pages, under the same ids ──► put the copy in its place, if nothing came meanwhile
         ▲                                                        │ something came
         └────────────────── copy that, too ◄─────────────────────┘

An entry of a stream can't be changed, and a chunk may hold records of several batches. The ids stay, and so does the
last entry, if need be without records: who reads by a cursor, the archive, sees nothing twice and misses nothing.
"""

import secrets
from collections.abc import AsyncIterator

import msgspec
from redis.asyncio import Redis

from batchmill.spend.ledger import UsageRecord
from batchmill.store import keys, ledger
from batchmill.store.errors import StoreError
from batchmill.store.scripts import Script

START = "0-0"
"""The id before the first chunk."""

_PAGE = 100
_TURN_MS = 60_000
_ROUNDS = 1000  # pages may come faster than they are copied for a while, not for ever

_swap_usage = Script("swap_usage")


class Whose(msgspec.Struct, frozen=True):
    """Whose records: those of a project, of a batch, or both."""

    project: str | None = None
    batch: str | None = None

    def __post_init__(self) -> None:
        if self.project is None and self.batch is None:
            raise ValueError("name a project or a batch: everybody's records are nobody's to remove")

    def covers(self, record: UsageRecord) -> bool:
        """Whether a record is theirs."""
        return self.project in (None, record.project) and self.batch in (None, record.batch)


class Chunk(msgspec.Struct, frozen=True):
    """One entry of the stream: records that were settled together."""

    id: str
    records: tuple[UsageRecord, ...]


async def chunks(redis: Redis, upstream: str, after: str = START) -> AsyncIterator[Chunk]:
    """Yield the chunks after an id, oldest first, a page at a time."""
    async for name, found in ledger.entries(redis, upstream, f"({after}"):
        yield Chunk(name, tuple(found))


async def oldest(redis: Redis, upstream: str, after: str = START) -> int | None:
    """Return when the oldest chunk after an id was written (ms of the Redis clock); None when there is none."""
    found = await redis.execute_command("XRANGE", keys.usage(upstream), f"({after}", "+", "COUNT", 1)
    return int(found[0][0].partition(b"-")[0]) if found else None


async def books(redis: Redis, upstream: str) -> str:
    """Return the id of the books that the stream stands in; empty before any worker was there."""
    found = await redis.execute_command("HGET", keys.books(upstream), "id")
    return found.decode() if found else ""


async def forget(redis: Redis, upstream: str, whose: Whose) -> int:
    """Remove somebody's records from the stream; return how many. Roll-ups and budgets stay. Takes twice its memory.

    Raises StoreError when somebody else is at it.
    """
    if not await _any(redis, upstream, whose):
        return 0
    turn, token = keys.usage_turn(upstream), secrets.token_hex(8)
    if not await redis.execute_command("SET", turn, token, "NX", "PX", _TURN_MS):
        raise StoreError("somebody else removes usage records just now; try again in a minute")
    try:
        return await _rewrite(redis, upstream, whose, token)
    finally:
        await redis.execute_command("DEL", turn, keys.usage_copy(upstream, token))


async def _any(redis: Redis, upstream: str, whose: Whose) -> bool:
    async for _, found in ledger.entries(redis, upstream):
        if any(map(whose.covers, found)):
            return True
    return False


async def _rewrite(redis: Redis, upstream: str, whose: Whose, token: str) -> int:
    stream, copy, turn = keys.usage(upstream), keys.usage_copy(upstream, token), keys.usage_turn(upstream)
    removed, left, cursor = 0, 0, START
    quiet = 0
    while quiet < _ROUNDS:
        page = await redis.execute_command("XRANGE", stream, f"({cursor}", "+", "COUNT", _PAGE)
        gone, kept = await _copy(redis, copy, page, whose)
        removed += gone
        left += kept
        if page:
            cursor = page[-1][0].decode()
        await redis.execute_command("PEXPIRE", turn, _TURN_MS)
        if len(page) == _PAGE:
            continue
        quiet += 1
        if await _swap_usage(redis, [stream, copy, turn, keys.books(upstream)], [cursor, token, left]):
            return removed
    raise StoreError("usage records come faster than they can be copied; try again when fewer workers run")


async def _copy(redis: Redis, copy: str, page: list[tuple[bytes, dict[bytes, bytes]]], whose: Whose) -> tuple[int, int]:
    """Copy a page without what is somebody's; return how many went, and how many stayed.

    The last entry stays in any case, to be what cursors are held against.
    """
    removed = stayed = 0
    async with redis.pipeline(transaction=True) as pipe:
        for place, (name, fields) in enumerate(page):
            found = ledger.read(fields)
            kept = [record for record in found if not whose.covers(record)]
            removed += len(found) - len(kept)
            stayed += len(kept)
            if len(kept) < len(found):
                if not kept and place + 1 < len(page):
                    continue
                fields = _fields(fields[b"at"], kept)  # noqa: PLW2901 - what is written in its place
            pipe.execute_command("XADD", copy, name, *(part for pair in fields.items() for part in pair))
        pipe.execute_command("PEXPIRE", copy, 10 * _TURN_MS)
        await pipe.execute()
    return removed, stayed


def _fields(at: bytes, kept: list[UsageRecord]) -> dict[bytes, bytes]:
    return {b"at": at, b"n": str(len(kept)).encode(), b"m": msgspec.msgpack.encode(kept)}
