"""What the fleet sees of models, in Redis: counted in slots of time that expire, and read as the traffic of a window.

a call ──► Tally, in each process ──once a second──► one slot of each size ──► Traffic of a window

Each count goes into four slots, of 10 s, a minute, 5 minutes and an hour, and a window is the sum of the slots of one
size. Adding up small slots instead would save three quarters of the writing, which is cheap (one script call a model
and second), and cost reading, which every process does for every model that it may send to: hundreds of keys each time.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from batchmill.routing.health import ENOUGH, Tally, Traffic, Window, tallied, traffic_of
from batchmill.store import keys
from batchmill.store.clock import now_ms
from batchmill.store.connection import OUTAGE
from batchmill.store.scripts import Argument, Script

SLOT = 10
"""Seconds of the smallest slot: what falls into one of them falls into one slot of every other size, too."""

_LIVES = {SLOT: 120, 60: 600, 300: 7200, 3600: 93_600}  # size of a slot -> how long it is kept (seconds)
_SIZES = {Window.MINUTE: SLOT, Window.FIVE_MINUTES: 60, Window.HOUR: 300, Window.DAY: 3600}
_DAY_MS = 86_400_000
_FIELDS = {b"c": "calls", b"f": "failures", b"r": "limited", b"t": "tokens", b"g": "generating_ms"}
_THOUSAND = 1000
_LATE = 30  # seconds after its end in which a slot may still grow, as far as readers that remember care

_TIME: tuple[Argument, ...] = ("TIME",)

_count = Script("count")


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
        pipe.execute_command(*_TIME)
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
    asked = tuple(models)
    seen, _ = await SlotReader(redis, upstream).read(asked, (window,))
    return {model: seen.traffic(model, window) for model in asked}


async def answer_tokens(redis: Redis, upstream: str, models: Iterable[str]) -> dict[str, int]:
    """Return how many tokens an answer had on average in the last day, of those models that gave enough of them."""
    asked = tuple(models)
    seen, _ = await SlotReader(redis, upstream).read(asked, (Window.DAY,))
    found = {}
    for model in asked:
        tally = tallied(one for slot in seen.slots[model, Window.DAY] for one in slot.providers.values())
        answers = tally.calls - tally.failures
        if tally.tokens and answers >= ENOUGH:
            found[model] = -(-tally.tokens // answers)
    return found


async def models_seen(redis: Redis, upstream: str, seconds: float = Window.HOUR) -> list[str]:
    """Return the models that the fleet sent to lately (a day at most), or had as candidates; the latest first."""
    since = await now_ms(redis) - round(seconds * _THOUSAND)
    found = await redis.execute_command("ZREVRANGEBYSCORE", keys.models_seen(upstream), "+inf", since)
    return [model.decode() for model in found]


async def note_candidates(redis: Redis, upstream: str, models: Iterable[str]) -> None:
    """Have models counted as seen to which the fleet may send, though it did not yet."""
    now, name = await now_ms(redis), keys.models_seen(upstream)
    async with redis.pipeline(transaction=True) as pipe:
        for model in models:
            pipe.execute_command("ZADD", name, now, model)
        pipe.execute_command("PEXPIRE", name, _DAY_MS)
        await pipe.execute()


class Slot(msgspec.Struct):
    """What was counted of a model in one slot, by provider; `at` is when the youngest of it was (ms)."""

    at: int = 0
    providers: dict[str, Tally] = {}


class Seen(msgspec.Struct, frozen=True):
    """Slots as they were at a moment (ms of the Redis clock)."""

    now: int
    slots: dict[tuple[str, Window], list[Slot]]

    def calls(self, model: str, window: Window) -> int:
        """Return how many calls a window has."""
        return sum(tally.calls for slot in self.slots[model, window] for tally in slot.providers.values())

    def whole(self, model: str, window: Window) -> Traffic:
        """Return what was seen of a model in a window, without its providers."""
        slots = self.slots[model, window]
        tally = tallied(tally for slot in slots for tally in slot.providers.values())
        return traffic_of(model, window, tally, at=max((slot.at for slot in slots), default=0), now=self.now)

    def traffic(self, model: str, window: Window) -> Traffic:
        """Return what was seen of a model in a window, and of each of its providers."""
        whole, providers = self.whole(model, window), dict[str, list[Tally]]()
        for slot in self.slots[model, window]:
            for provider, tally in slot.providers.items():
                providers.setdefault(provider, []).append(tally)
        told = {
            provider: traffic_of(model, window, tallied(tallies), at=whole.at, now=self.now)
            for provider, tallies in sorted(providers.items())
        }
        return msgspec.structs.replace(whole, providers=told)


class SlotReader:
    """Reads again and again, in one round trip each: it remembers slots that are over, and how Redis's clock goes."""

    def __init__(self, redis: Redis, upstream: str) -> None:
        self._redis = redis
        self._upstream = upstream
        self._over: dict[str, Slot] = {}
        self._ahead_ms: float | None = None  # by how much the clock of Redis is ahead of our monotonic one

    async def read(
        self, models: Sequence[str], windows: Sequence[Window], commands: Sequence[Sequence[Argument]] = ()
    ) -> tuple[Seen, list[Any]]:
        """Return what was seen of models in windows, and what the commands answered that went along."""
        if self._ahead_ms is None:
            self._clock(await now_ms(self._redis))
        now = round(time.monotonic() * _THOUSAND + (self._ahead_ms or 0))
        names = {(model, window): self._names(model, window, now) for model in models for window in windows}
        ends = {name: end for found in names.values() for name, end in found}
        asked = [name for name in ends if name not in self._over]
        async with self._redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            for name in asked:
                pipe.execute_command("HGETALL", name)
            pipe.execute_command(*_TIME)
            *replies, clock = await pipe.execute()
        self._clock(_milliseconds(clock))
        known = {name: self._over[name] for name in ends if name in self._over}
        known |= {name: _read_slot(fields) for name, fields in zip(asked, replies[len(commands) :], strict=True)}
        self._over = {name: known[name] for name, end in ends.items() if end + _LATE * _THOUSAND < now}
        slots = {place: [known[name] for name, _ in found] for place, found in names.items()}
        return Seen(_milliseconds(clock), slots), replies[: len(commands)]

    def _names(self, model: str, window: Window, now: int) -> list[tuple[str, int]]:
        """Return the slots of a window by key, with their ends (ms): the one that is not over, and those before it."""
        size = _SIZES[window]
        last = now // (size * _THOUSAND)
        numbers = range(last - window // size + 1, last + 1)
        return [(keys.traffic(self._upstream, model, size, slot), (slot + 1) * size * _THOUSAND) for slot in numbers]

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
    yield from ((kind.decode(), getattr(tally, name)) for kind, name in _FIELDS.items())
    yield from ((f"l{bucket}", number) for bucket, number in tally.latency.items())
    yield from ((f"s{bucket}", number) for bucket, number in tally.first_token.items())


def _read_slot(fields: Mapping[bytes, bytes]) -> Slot:
    at, tallies = 0, dict[bytes, Tally]()
    for field, value in fields.items():
        if field == b"at":
            at = int(value)
            continue
        kind, _, provider = field.partition(b"|")
        tally = tallies.get(provider)
        if tally is None:
            tally = tallies[provider] = Tally()
        _put(tally, kind, int(value))
    return Slot(at, {provider.decode(errors="replace"): tally for provider, tally in tallies.items()})


def _put(tally: Tally, kind: bytes, number: int) -> None:
    if kind[:1] == b"l":
        tally.latency[int(kind[1:])] = number
    elif kind[:1] == b"s":
        tally.first_token[int(kind[1:])] = number
    elif kind in _FIELDS:
        setattr(tally, _FIELDS[kind], number)


def _milliseconds(clock: tuple[int, int]) -> int:
    seconds, microseconds = clock
    return int(seconds) * _THOUSAND + int(microseconds) // _THOUSAND
