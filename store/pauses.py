"""Pauses: scopes of which nothing is sent for a while, because the upstream said so. The whole fleet keeps them."""

import msgspec
from redis.asyncio import Redis

from batchmill.store import keys
from batchmill.store.clock import now_ms
from batchmill.store.scripts import Script

_pause = Script("pause")


class Pause(msgspec.Struct, frozen=True):
    """A pause as it is now: seconds from now, and whether this refusal began it."""

    seconds: float
    begun: bool


async def pause(
    redis: Redis, upstream: str, model: str, scope: str, why: str, *, seconds: float | None, cut: bool
) -> Pause:
    """Pause a scope after a refusal, for as long as the upstream said (None: longer each time in a row).

    `cut` lets less of the model into the air from now on, once a pause.
    """
    told = "" if seconds is None else max(1, round(seconds * 1000))
    names = [keys.pauses(upstream), keys.model(upstream, model)]
    wait, begun = await _pause(redis, names, [scope, told, why, "1" if cut else "0"])
    return Pause(int(wait) / 1000, bool(begun))


async def drop_over(redis: Redis, upstream: str) -> None:
    """Forget pauses that are over."""
    now = await now_ms(redis)
    entries = await redis.execute_command("HGETALL", keys.pauses(upstream))
    over = [scope for scope, value in entries.items() if 0 <= int(value.split(b"|", 1)[0]) < now]
    if over:
        await redis.execute_command("HDEL", keys.pauses(upstream), *over)
