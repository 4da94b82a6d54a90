"""How models do, in Redis: what the fleet counts, in slots of time that expire, and what it reads from them.

a call ──► Tally, in each process ──once a second──► one slot of each size ──► Traffic of a window ──► ModelHealth

Each count goes into four slots, of 10 s, a minute, 5 minutes and an hour, and a window is the sum of the slots of one
size. Adding up small slots instead would save three quarters of the writing, which is cheap (one script call a model
and second), and cost reading, which every process does for every model that it may send to, hundreds of keys each time.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from batchmill.routing import health
from batchmill.routing.health import ModelHealth, Stated, Tally, Traffic, Window
from batchmill.store import keys
from batchmill.store.clock import now_ms
from batchmill.store.connection import OUTAGE
from batchmill.store.gauges import FOR_EVER
from batchmill.store.scripts import Argument, Script

SLOT = 10
"""Seconds of the smallest slot: whatever is counted under its number falls into one slot of every other size, too."""

_LIVES = {SLOT: 120, 60: 600, 300: 7200, 3600: 93_600}  # size of a slot -> how long it is kept (seconds)
_SIZES = {Window.MINUTE: SLOT, Window.FIVE_MINUTES: 60, Window.HOUR: 300, Window.DAY: 3600}
_DAY_MS = 86_400_000
_THOUSAND = 1000
_LATE = 30  # seconds after its end in which a slot may still grow, as far as readers that remember care

_count = Script("count")
_encode = msgspec.msgpack.Encoder().encode
_decode_stated = msgspec.msgpack.Decoder(Stated).decode

Slots = dict[str, tuple[int, dict[str, Tally]]]
"""Key of a slot -> when the youngest of it was counted (ms), and what, by provider."""


class Counted(msgspec.Struct):
    """What came of calls of one model in one slot of `SLOT` seconds; `at` is when the last of them ended (ms)."""

    model: str
    slot: int
    at: int = 0
    providers: dict[str, Tally] = {}


class Flushed(msgspec.Struct, frozen=True):
    """What a call of `count` did: the time of the server (ms), what it did not take, and why not."""

    now: int
    refused: tuple[Counted, ...] = ()
    why: Exception | None = None


async def count(redis: Redis, upstream: str, counted: Sequence[Counted]) -> Flushed:
    """Add to what the fleet has counted, in one round trip. Raises what a lost connection raises.

    Each is taken whole or not at all. What was taken must not come again: it would be counted twice.
    """
    calls = [_call(upstream, one) for one in counted]
    async with redis.pipeline(transaction=False) as pipe:
        for names, arguments in calls:
            _count.queue(pipe, names, arguments)
        pipe.execute_command("TIME")
        *replies, clock = await pipe.execute(raise_on_error=False)
    refused, why = [], None
    for one, (names, arguments), reply in zip(counted, calls, replies, strict=True):
        error = reply if isinstance(reply, Exception) else None
        if isinstance(reply, NoScriptError):
            error = await _count_alone(redis, names, arguments)
        if error is not None:
            refused.append(one)
            why = error
    return Flushed(_milliseconds(clock), tuple(refused), why)


async def _count_alone(redis: Redis, names: Sequence[str], arguments: Sequence[Argument]) -> Exception | None:
    try:
        await _count(redis, names, arguments)
    except (*OUTAGE, RedisError) as error:
        return error
    return None


async def traffic(
    redis: Redis, upstream: str, models: Iterable[str], window: Window = Window.MINUTE
) -> dict[str, Traffic]:
    """Return what the fleet saw of these models in a window, by model; without calls where it saw nothing."""
    return await StatisticsReader(redis, upstream).traffic(tuple(models), window)


async def models_seen(redis: Redis, upstream: str, seconds: float = Window.HOUR) -> list[str]:
    """Return the models that the fleet sent to lately (a day at most), or had as candidates; the latest first."""
    since = await now_ms(redis) - round(seconds * _THOUSAND)
    found = await redis.execute_command("ZREVRANGEBYSCORE", keys.models_seen(upstream), "+inf", since)
    return [model.decode() for model in found]


async def health_of(redis: Redis, upstream: str, models: Iterable[str]) -> dict[str, ModelHealth]:
    """Return how these models do, by model: what was seen, what their endpoints state, and their breakers."""
    return await StatisticsReader(redis, upstream).health(tuple(models))


async def keep_stated(redis: Redis, upstream: str, model: str, stated: Stated, *, seconds: float) -> None:
    """Keep what a model's endpoints said of themselves, for so long."""
    name = keys.endpoints_health(upstream, model)
    await redis.execute_command("SET", name, _encode(stated), "PX", max(1, round(seconds * _THOUSAND)))


async def stated(redis: Redis, upstream: str, model: str) -> Stated | None:
    """Return what a model's endpoints said of themselves last; None when nobody asked them lately."""
    return _read_stated(await redis.execute_command("GET", keys.endpoints_health(upstream, model)))


class StatisticsReader:
    """Reads again and again, in one round trip each: it remembers slots that are over, and how Redis's clock goes."""

    def __init__(self, redis: Redis, upstream: str) -> None:
        self._redis = redis
        self._upstream = upstream
        self._over: Slots = {}
        self._ahead_ms: float | None = None  # by how much the clock of Redis is ahead of our monotonic one

    async def traffic(self, models: Sequence[str], window: Window) -> dict[str, Traffic]:
        """Return what the fleet saw of these models in a window, by model."""
        now = await self._now()
        wanted = {name: end for model in models for name, end in self._slots_of(model, window, now)}
        slots, _ = await self._read(wanted, (), now)
        return {model: self._window(model, window, slots, now) for model in models}

    async def health(self, models: Sequence[str], *, note: Iterable[str] = ()) -> dict[str, ModelHealth]:
        """Return how these models do, by model. Those of `note` are kept as candidates, seen now."""
        now = await self._now()
        commands: list[tuple[Argument, ...]] = []
        for model in models:
            commands.append(("HMGET", keys.model(self._upstream, model), "state", "until"))
            commands.append(("GET", keys.endpoints_health(self._upstream, model)))
        seen = keys.models_seen(self._upstream)
        commands += [("ZADD", seen, now, model) for model in note]
        commands.append(("PEXPIRE", seen, _DAY_MS))
        wanted = {
            name: end for model in models for window in Window for name, end in self._slots_of(model, window, now)
        }
        slots, replies = await self._read(wanted, commands, now)
        facts = iter(replies)
        return {model: self._health(model, slots, next(facts), next(facts), now) for model in models}

    def _health(
        self, model: str, slots: Slots, breaker: Sequence[bytes | None], told: bytes | None, now: int
    ) -> ModelHealth:
        windows = [self._window(model, window, slots, now) for window in Window]
        state, until = breaker[0], int(breaker[1] or 0)
        opens = health.FOR_EVER if until == FOR_EVER else until
        shut = state == b"open" and opens > now
        half = state in (b"open", b"half") and not shut  # the gate turns to half open when it is asked next
        return health.health_from(model, windows, _read_stated(told), open_until=opens if shut else 0, half_open=half)

    def _window(self, model: str, window: Window, slots: Slots, now: int) -> Traffic:
        found = [slots[name] for name, _ in self._slots_of(model, window, now) if name in slots]
        providers: dict[str, list[Tally]] = {}
        for _, by_provider in found:
            for provider, tally in by_provider.items():
                providers.setdefault(provider, []).append(tally)
        by_provider = {provider: health.tallied(tallies) for provider, tallies in providers.items()}
        return health.traffic_of(model, window, by_provider, at=max((at for at, _ in found), default=0), now=now)

    def _slots_of(self, model: str, window: Window, now: int) -> list[tuple[str, int]]:
        """Return the slots of a window by key, with their ends (ms): the one that is not over, and those before it."""
        size = _SIZES[window]
        last = now // (size * _THOUSAND)
        numbers = range(last - window // size + 1, last + 1)
        upstream = self._upstream
        return [(keys.traffic(upstream, model, size, slot), (slot + 1) * size * _THOUSAND) for slot in numbers]

    async def _read(
        self, wanted: Mapping[str, int], commands: Sequence[Sequence[Argument]], now: int
    ) -> tuple[Slots, list[Any]]:
        """Read the slots that may have changed, and what the commands bring, in one round trip."""
        asked = [name for name in wanted if name not in self._over]
        async with self._redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            for name in asked:
                pipe.execute_command("HGETALL", name)
            pipe.execute_command("TIME")
            *replies, clock = await pipe.execute()
        self._clock(_milliseconds(clock))
        slots = {name: self._over[name] for name in wanted if name in self._over}
        slots |= {name: _read_slot(fields) for name, fields in zip(asked, replies[len(commands) :], strict=True)}
        over = now - _LATE * _THOUSAND
        self._over = {name: slots[name] for name, end in wanted.items() if end < over}
        return slots, replies[: len(commands)]

    async def _now(self) -> int:
        if self._ahead_ms is None:
            self._clock(await now_ms(self._redis))
        return round(time.monotonic() * _THOUSAND + (self._ahead_ms or 0.0))

    def _clock(self, now: int) -> None:
        self._ahead_ms = now - time.monotonic() * _THOUSAND


def _call(upstream: str, counted: Counted) -> tuple[list[str], list[Argument]]:
    slots = [keys.traffic(upstream, counted.model, size, counted.slot * SLOT // size) for size in _LIVES]
    arguments: list[Argument] = [counted.model, counted.at, _DAY_MS]
    arguments += [life * _THOUSAND for life in _LIVES.values()]
    for provider, tally in counted.providers.items():
        for kind, number in _counts(tally):
            if number:
                arguments += (f"{kind}|{provider}", number)
    return [keys.models_seen(upstream), *slots], arguments


def _counts(tally: Tally) -> Iterator[tuple[str, int]]:
    yield from (("c", tally.calls), ("f", tally.failures), ("r", tally.limited))
    yield from (("t", tally.tokens), ("g", tally.generating_ms))
    yield from ((f"l{bucket}", number) for bucket, number in tally.latency.items())
    yield from ((f"s{bucket}", number) for bucket, number in tally.first_token.items())


def _read_slot(fields: Mapping[bytes, bytes]) -> tuple[int, dict[str, Tally]]:
    at, providers = 0, dict[str, Tally]()
    for field, value in fields.items():
        if field == b"at":
            at = int(value)
            continue
        kind, _, name = field.partition(b"|")
        provider = name.decode(errors="replace")
        tally = providers.get(provider)
        if tally is None:
            tally = providers[provider] = Tally()
        _put(tally, kind.decode(), int(value))
    return at, providers


def _put(tally: Tally, kind: str, number: int) -> None:
    match kind[:1]:
        case "c":
            tally.calls = number
        case "f":
            tally.failures = number
        case "r":
            tally.limited = number
        case "t":
            tally.tokens = number
        case "g":
            tally.generating_ms = number
        case "l":
            tally.latency[int(kind[1:])] = number
        case "s":
            tally.first_token[int(kind[1:])] = number


def _read_stated(document: bytes | None) -> Stated | None:
    if document is None:
        return None
    try:
        return _decode_stated(document)
    except msgspec.DecodeError:  # written by another version
        return None


def _milliseconds(clock: tuple[int, int]) -> int:
    seconds, microseconds = clock
    return int(seconds) * _THOUSAND + int(microseconds) // _THOUSAND
