"""Who is there to do the work of an upstream, and whether its account was refused."""

from typing import Any

import msgspec
from redis.asyncio import Redis

from batchmill.config.policy import BATCH_PREFIX
from batchmill.store import keys
from batchmill.store.batches import WORKER_SILENCE_MS
from batchmill.store.clock import now_ms

_BATCH = BATCH_PREFIX.encode()


async def workers_alive(redis: Redis, upstream: str) -> int:
    """Return how many workers of the upstream gave a sign of life lately."""
    oldest = await now_ms(redis) - WORKER_SILENCE_MS
    return int(await redis.execute_command("ZCOUNT", keys.workers(upstream), oldest, "+inf"))


async def forget_refusal(redis: Redis, upstream: str) -> None:
    """Forget that the account was refused: somebody may have mended it, and new workers try anew."""
    await redis.execute_command("DEL", keys.blocked(upstream, "refused"))
    await redis.execute_command("HDEL", keys.pauses(upstream), "refused")
    await redis.execute_command("DEL", keys.account_turn(upstream))  # so the first of them looks at the key at once


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """A worker: its last heartbeat (ms), what it has in the air by model, and what is held for that (nano-dollars)."""

    id: str
    beat_ms: int
    alive: bool
    in_air: dict[str, int]
    held: int


async def workers(redis: Redis, upstream: str, seconds: float) -> list[Present]:
    """Return the workers that gave a sign of life in so many seconds, those alive first, then by id."""
    now = await now_ms(redis)
    last = await beats(redis, upstream, seconds)
    books = await _holds(redis, upstream, [name for name, _ in last])
    present = [_present(name, beat, now, book) for (name, beat), book in zip(last, books, strict=True)]
    return sorted(present, key=lambda one: (not one.alive, one.id))


async def beats(redis: Redis, upstream: str, seconds: float) -> list[tuple[str, int]]:
    """Return the workers that gave a sign of life in so many seconds, and when the last one was (unix ms)."""
    since = await now_ms(redis) - round(seconds * 1000)
    return _pairs(await redis.execute_command("ZRANGEBYSCORE", keys.workers(upstream), since, "+inf", "WITHSCORES"))


async def lines_in_the_air(redis: Redis, upstream: str, batch_id: str) -> set[int]:
    """Return the indexes of a batch's lines that workers hold now: those that the gate let through, and not settled."""
    owners = [name.decode() for name in await redis.execute_command("ZRANGE", keys.owners(upstream), 0, -1)]
    found: set[int] = set()
    for owner in owners:
        for hold in await redis.execute_command("HKEYS", keys.holds(upstream, owner)):
            whose, _, rest = hold.decode().partition(".")
            index = rest.partition(".")[0]
            if whose == batch_id and index.isdigit():
                found.add(int(index))
    return found


async def held_by_batch(redis: Redis, upstream: str) -> dict[str, int]:
    """Return what is held for the lines of each batch that workers have in the air (nano-dollars)."""
    owners = [name.decode() for name in await redis.execute_command("ZRANGE", keys.owners(upstream), 0, -1)]
    found: dict[str, int] = {}
    for book in await _holds(redis, upstream, owners):
        for field, value in book.items():
            if field.startswith(_BATCH):
                batch_id = field.partition(b".")[0].decode()
                amount = value.partition(b":")[2].partition(b":")[0]
                found[batch_id] = found.get(batch_id, 0) + int(amount)
    return found


async def _holds(redis: Redis, upstream: str, owners: list[str]) -> list[dict[bytes, bytes]]:
    async with redis.pipeline(transaction=False) as pipe:
        for owner in owners:
            pipe.execute_command("HGETALL", keys.holds(upstream, owner))
        return list(await pipe.execute()) if owners else []


def _present(name: str, beat: int, now: int, book: dict[bytes, bytes]) -> Present:
    in_air: dict[str, int] = {}
    held = 0
    for field, value in book.items():
        rules, _, rest = value.partition(b":")
        text = book.get(b"rules" + rules) if field.startswith(_BATCH) else None
        if text is not None:
            model = text.partition(b"\n")[0].decode()
            in_air[model] = in_air.get(model, 0) + 1
            held += int(rest.partition(b":")[0])
    return Present(id=name, beat_ms=beat, alive=beat >= now - WORKER_SILENCE_MS, in_air=in_air, held=held)


def _pairs(reply: list[Any]) -> list[tuple[str, int]]:
    """Return members with their scores, in whichever protocol the server told them."""
    flat = [part for pair in reply for part in pair] if reply and isinstance(reply[0], list | tuple) else reply
    return [(name.decode(), int(float(score))) for name, score in zip(flat[::2], flat[1::2], strict=True)]
