"""Pauses: scopes of which nothing is sent for a while, because the upstream said so. The whole fleet keeps them."""

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from batchmill.store import keys
from batchmill.store.clock import now_ms
from batchmill.store.scripts import Script
from batchmill.store.transactions import transact

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


async def slow_down(redis: Redis, upstream: str, model: str) -> bool:
    """Let less of an overloaded model into the air, once in a while; return whether this was the time. No pause."""
    _, done = await _pause(redis, [keys.pauses(upstream), keys.model(upstream, model)], ["", "", "", "1"])
    return bool(done)


async def drop_over(redis: Redis, upstream: str) -> None:
    """Forget pauses that are over."""
    now, name = await now_ms(redis), keys.pauses(upstream)

    async def drop(pipe: Pipeline) -> bool:
        entries = await redis.execute_command("HGETALL", name)
        over = [scope for scope, value in entries.items() if 0 <= int(value.split(b"|", 1)[0]) < now]
        if over:
            pipe.execute_command("HDEL", name, *over)
        return bool(over)

    await transact(redis, name, drop)  # a scope that is paused anew meanwhile stays so
