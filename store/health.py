"""How models do, out of everything that Redis knows: what the fleet saw, what endpoints state, and the breakers."""

from collections.abc import Iterable, Sequence

import msgspec
from redis.asyncio import Redis

from batchmill.routing import health
from batchmill.routing.health import ModelHealth, Stated, Window
from batchmill.store import keys
from batchmill.store.gauges import FOR_EVER
from batchmill.store.scripts import Argument
from batchmill.store.statistics import Seen, SlotReader

_WINDOWS = tuple(Window)
_THOUSAND = 1000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Stated).decode


async def health_of(redis: Redis, upstream: str, models: Iterable[str]) -> dict[str, ModelHealth]:
    """Return how these models do, by model; of one that nobody knows anything about it says so."""
    return await HealthReader(redis, upstream).read(tuple(models))


async def keep_stated(redis: Redis, upstream: str, model: str, stated: Stated, *, seconds: float) -> None:
    """Keep what a model's endpoints said of themselves, for so long."""
    name = keys.endpoints_health(upstream, model)
    await redis.execute_command("SET", name, _encode(stated), "PX", max(1, round(seconds * _THOUSAND)))


async def stated_of(redis: Redis, upstream: str, model: str) -> Stated | None:
    """Return what a model's endpoints said of themselves last; None when nobody asked them lately."""
    return _read(await redis.execute_command("GET", keys.endpoints_health(upstream, model)))


class HealthReader:
    """Reads how models do again and again, in one round trip each."""

    def __init__(self, redis: Redis, upstream: str) -> None:
        self._upstream = upstream
        self._slots = SlotReader(redis, upstream)

    async def read(self, models: Sequence[str]) -> dict[str, ModelHealth]:
        """Return how these models do, by model."""
        commands: list[tuple[Argument, ...]] = []
        for model in models:
            commands.append(("HMGET", keys.model(self._upstream, model), "state", "until"))
            commands.append(("GET", keys.endpoints_health(self._upstream, model)))
        seen, replies = await self._slots.read(models, _WINDOWS, commands)
        facts = iter(replies)
        return {model: _health(model, seen, next(facts), _read(next(facts))) for model in models}


def _health(model: str, seen: Seen, breaker: Sequence[bytes | None], stated: Stated | None) -> ModelHealth:
    window = _WINDOWS[health.youngest([seen.calls(model, window) for window in _WINDOWS])]
    state, until = breaker[0], int(breaker[1] or 0)
    opens = health.FOR_EVER if until == FOR_EVER else until
    shut = state == b"open" and opens > seen.now
    return health.health_from(
        seen.whole(model, window),
        stated,
        open_until=opens if shut else 0,
        half_open=state in (b"open", b"half") and not shut,  # the gate makes it half open when it is asked next
    )


def _read(document: bytes | None) -> Stated | None:
    if document is None:
        return None
    try:
        return _decode(document)
    except msgspec.DecodeError:  # written by another version
        return None
