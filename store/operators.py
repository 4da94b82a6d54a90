"""What operators change in the gate's books: breakers and pauses. Each change is audited in the same step."""

from typing import Any

from redis.asyncio import Redis

from batchmill.config.errors import BatchmillError
from batchmill.config.spelling import nearest
from batchmill.store import keys
from batchmill.store.audit import Entry, note
from batchmill.store.clock import now_ms
from batchmill.store.gauges import FOR_EVER, OPERATOR

_BREAKER = ("state", "until", "trips", "window", "tripped", "share", "slots")
_DAY = 86_400

Command = tuple[str | int, ...]


class UnknownModelError(BatchmillError):
    """No line for that model was ever handed over."""

    def __init__(self, model: str, known: list[str]) -> None:
        way_on = nearest(model, known) if known else "; nothing was handed over yet"
        super().__init__(f"no lane for model '{model}' here{way_on}; `batchmill pause` takes any model")


async def lanes_of(redis: Redis, upstream: str) -> set[str]:
    """Return the models for which lines were handed over."""
    return {name.decode() for name in await redis.execute_command("SMEMBERS", keys.lanes(upstream))}


async def trip(redis: Redis, upstream: str, model: str, who: str) -> None:
    """Open a model's breaker until somebody resets it. Raises UnknownModelError for a model without a lane."""
    known = await lanes_of(redis, upstream)
    if model not in known:
        raise UnknownModelError(model, sorted(known))
    name = keys.model(upstream, model)
    fields = ("state", "open", "until", FOR_EVER, "tripped", "operator")
    await _do(redis, upstream, _entry(who, "breaker.tripped", model), ("HSET", name, *fields), ("PERSIST", name))


async def reset(redis: Redis, upstream: str, model: str, who: str) -> bool:
    """Close a model's breaker and forget what it counted, its share included. Returns whether there was anything."""
    name = keys.model(upstream, model)
    removed, *_ = await _do(
        redis, upstream, _entry(who, "breaker.reset", model), ("HDEL", name, *_BREAKER), ("EXPIRE", name, _DAY)
    )
    await _wake(redis, upstream, model)
    return bool(removed)


async def pause(redis: Redis, upstream: str, model: str, who: str, reason: str | None = None) -> None:
    """Send nothing for a model until somebody resumes it; what is in the air lands."""
    said = f"paused by {who}" + (f": {reason}" if reason else "")
    entry = _entry(who, "model.paused", model, reason=reason)
    await _do(redis, upstream, entry, ("HSET", keys.pauses(upstream), OPERATOR + model, f"{FOR_EVER}|{said}"))


async def resume(redis: Redis, upstream: str, model: str, who: str) -> bool:
    """End the pause of an operator; those that the upstream asked for stay. Returns whether there was one."""
    removed, *_ = await _do(
        redis, upstream, _entry(who, "model.resumed", model), ("HDEL", keys.pauses(upstream), OPERATOR + model)
    )
    await _wake(redis, upstream, model)
    return bool(removed)


def _entry(who: str, what: str, model: str, **detail: Any) -> Entry:
    return Entry(who=who, what=what, at=0, detail={"model": model, **detail})


async def _do(redis: Redis, upstream: str, entry: Entry, *commands: Command) -> list[Any]:
    at = await now_ms(redis)
    async with redis.pipeline(transaction=True) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        note(pipe, upstream, Entry(who=entry.who, what=entry.what, at=at, detail=entry.detail))
        return list(await pipe.execute())


async def _wake(redis: Redis, upstream: str, model: str) -> None:
    """Let workers look at the lane at once."""
    await redis.execute_command("PUBLISH", keys.wake(upstream), model)
