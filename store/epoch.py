"""Whether the books are those that a worker knows: a Redis restored from an older snapshot, or emptied, is noticed.

The epoch grows every few seconds as long as anybody works. A worker that meets an older one than it has seen, or other
books, raises the alarm: nothing is sent any more, by anybody, until an operator accepts these books.
"""

import secrets

import msgspec
from redis.asyncio import Redis

from batchmill.store import audit, keys
from batchmill.store.clock import now_ms
from batchmill.store.gate import Caller
from batchmill.store.scripts import Argument, Script

_tend = Script("tend")
_TICK_MS = 5_000


class Seen(msgspec.Struct, frozen=True):
    """What a worker knows of the books: their id, and an epoch that a crash of the server can't undo.

    That is the one before the newest: the last seconds may be lost in a power cut, and are accounted for by leases.
    """

    books: str = ""
    epoch: int = 0


class Sign(msgspec.Struct, frozen=True):
    """What a sign of life brought back; `alarm` is its JSON, or empty."""

    seen: Seen
    alarm: str


async def tend(redis: Redis, caller: Caller, seen: Seen) -> Sign:
    """Renew the caller's lease on its holds, and look whether the books are the ones that it knows."""
    known = (seen.books, seen.epoch, secrets.token_hex(8))
    arguments: list[Argument] = [caller.owner, round(caller.lease * 1000), *known, _TICK_MS]
    books, epoch, alarm = await _tend(redis, [keys.books(caller.upstream), keys.owners(caller.upstream)], arguments)
    if alarm:
        return Sign(seen, alarm.decode())
    return Sign(Seen(books.decode(), max(0, int(epoch) - 1)), "")


class Alarm(msgspec.Struct, frozen=True):
    """Why the fleet stands still: what a worker had seen, and what it found. `at` in ms."""

    known: str = ""
    seen: int = 0
    found: int = 0
    owner: str = ""
    at: int = 0


async def alarm(redis: Redis, upstream: str) -> Alarm | None:
    """Return the alarm that stands, if one does."""
    found = await redis.execute_command("HGET", keys.books(upstream), "alarm")
    return msgspec.json.decode(found, type=Alarm, strict=False) if found else None


async def accept(redis: Redis, upstream: str, who: str) -> bool:
    """Go on with the books as they are: an operator has looked. False when no alarm stands."""
    standing = await alarm(redis, upstream)
    if standing is None:
        return False
    name, now = keys.books(upstream), await now_ms(redis)
    detail = {"seen": standing.seen, "found": standing.found}
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("HSET", name, "epoch", max(standing.seen, standing.found) + 2, "follows", standing.known)
        pipe.execute_command("HDEL", name, "alarm")
        audit.note(pipe, upstream, audit.Entry(who=who, what="accept_restored", at=now, detail=detail))
        await pipe.execute()
    return True
