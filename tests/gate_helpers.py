"""The gate with a clock that a test moves, and workers that ask it and settle as a process would."""

import copy
import hashlib
import itertools
from collections.abc import Sequence
from decimal import Decimal
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis

from batchmill.config.policy import NANO, Breaker, Budget, Limit, Policy
from batchmill.store import epoch, gate, keys, ledger, pauses, settlement, statistics, suspects
from batchmill.store.gate import Ask, Caller, Candidate, Reply
from batchmill.store.policy import LivePolicy
from batchmill.store.rules import Rulebook, Rules
from batchmill.store.scripts import Script
from batchmill.store.settlement import Booked, Outcome, Settlement, Settling
from batchmill.store.suspects import Suspect

from .store_helpers import MODEL, UPSTREAM

NOON = 4_102_488_000_000  # 2100-01-01T12:00Z: keys that end at a time of the calendar must not end during a test
HOUR, DAY = 3_600_000, 86_400_000
LEASE_MS = 15_000
CLOCK = "bm:test:clock"
_READS = "redis.call('TIME')"
_TIMED = (
    (gate, "_gate"),
    (settlement, "_settle"),
    (pauses, "_pause"),
    (suspects, "_abandon"),
    (suspects, "_close"),
    (epoch, "_tend"),
    (statistics, "_count"),
    (ledger, "_trim"),
)
_NOW: tuple[ModuleType, ...] = (suspects, pauses, epoch, statistics)


class Clock:
    """What the scripts read in place of TIME."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.now = NOON

    async def set(self, now: int) -> None:
        self.now = now
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.execute_command("DEL", CLOCK)
            pipe.execute_command("RPUSH", CLOCK, now // 1000, now % 1000 * 1000)
            pipe.execute_command("EXPIRE", CLOCK, 3600)
            await pipe.execute()

    async def forward(self, milliseconds: int) -> None:
        await self.set(self.now + milliseconds)


def control_time(patch: pytest.MonkeyPatch) -> None:
    """Have every script of the gate, and who reads the time beside them, look at the clock of the test."""
    for module, name in _TIMED:
        patch.setattr(module, name, _clocked(getattr(module, name)))
    for module in _NOW:
        patch.setattr(module, "now_ms", _now_ms)
    patch.setattr(statistics, "_TIME", ("LRANGE", CLOCK, 0, 1))


def _clocked(script: Script) -> Script:
    assert _READS in script.text
    changed = copy.copy(script)
    changed.text = script.text.replace(_READS, f"redis.call('LRANGE', '{CLOCK}', 0, 1)")
    changed.sha = hashlib.sha1(changed.text.encode(), usedforsecurity=False).hexdigest()
    return changed


async def _now_ms(redis: Redis) -> int:
    seconds, microseconds = await redis.execute_command("LRANGE", CLOCK, 0, 1)
    return int(seconds) * 1000 + int(microseconds) // 1000


class Sums(NamedTuple):
    """The fields of a budget's window."""

    spent: int = 0
    held: int = 0
    suspect: int = 0
    debt: int = 0


async def sums(redis: Redis, key: str) -> Sums:
    found = await redis.execute_command("HMGET", key, *Sums._fields)
    return Sums(*(int(value or 0) for value in found))


async def number(redis: Redis, key: str, field: str) -> int:
    """Return a field as a number, 0 when it is missing."""
    return round(float(await redis.execute_command("HGET", key, field) or 0))


async def fields(redis: Redis, key: str) -> dict[str, str]:
    found = await redis.execute_command("HGETALL", key)
    return {name.decode(): value.decode() for name, value in found.items()}


def budget(name: str, nano: int, **more: Any) -> Budget:
    return Budget(name=name, limit_usd=Decimal(nano) / NANO, **more)


def policy_of(*rules: Budget | Limit, breaker: Breaker | None = None) -> Policy:
    return Policy(
        limits=tuple(rule for rule in rules if isinstance(rule, Limit)),
        budgets=tuple(rule for rule in rules if isinstance(rule, Budget)),
        breaker=breaker or Breaker(),
    )


class Held(NamedTuple):
    """A line that was let through, under the rules of that moment."""

    hold: str
    bound: int
    tokens: int
    rules: Rules


class Worker:
    """One owner of holds: what it was let send, and the numbers of its calls."""

    _all = itertools.count(1)

    def __init__(self, redis: Redis, clock: Clock, name: str = "one", policy: Policy | None = None) -> None:
        self.redis = redis
        self.clock = clock
        self.name = name
        self.caller = Caller(UPSTREAM, name, LEASE_MS / 1000)
        self.book = Rulebook(UPSTREAM)
        self.book.learn(LivePolicy(0, policy or policy_of(), "test"))
        self.calls = 0
        self.settlings = 0
        self.held: dict[str, Held] = {}

    def rules(
        self, model: str = MODEL, project: str = "default", capped: str | None = None, key: str | None = None
    ) -> Rules:
        return self.book.rules(model, project, capped, self.clock.now, key)

    def ask(self, lines: Sequence[tuple[int, int]], rules: Rules | None = None) -> Ask:
        """Return an ask for lines of such bounds and tokens, under new holds."""
        places = ((next(Worker._all), *line) for line in lines)
        holds = (Candidate(f"batch_1.{n}.{self.name}{n}", bound, tokens) for n, bound, tokens in places)
        return Ask(rules or self.rules(), tuple(holds))

    async def send(self, *asks: Ask) -> list[Reply]:
        """Ask under a new number, and remember what is held."""
        self.calls += 1
        replies = await self.repeat(*asks)
        for ask, reply in zip(asks, replies, strict=True):
            for place, one in enumerate(ask.candidates):
                if reply.admitted(place):
                    self.held[one.hold] = Held(one.hold, one.bound, one.tokens, ask.rules)
        return replies

    async def repeat(self, *asks: Ask) -> list[Reply]:
        return await gate.admit(self.redis, self.caller, self.calls, asks)

    async def admit(self, *lines: tuple[int, int], rules: Rules | None = None) -> Reply:
        """Ask for lines of such bounds and tokens."""
        return (await self.send(self.ask(lines, rules)))[0]

    async def take(self, bound: int = 0, tokens: int = 0, rules: Rules | None = None) -> Held:
        """Have one line let through, and return what is held."""
        reply = await self.admit((bound, tokens), rules=rules)
        assert (reply.looked, reply.skipped) == (1, ()), reply
        return list(self.held.values())[-1]

    def settling(self, *settlements: Settlement, rules: Rules) -> Settling:
        self.settlings += 1
        return Settling(self.settlings, rules, settlements)

    async def settle(
        self, held: Held, cost: int | None, tokens: int | None = None, outcome: Outcome = Outcome.NOTHING, **more: Any
    ) -> Booked:
        """Settle one hold, whether it is still ours or not."""
        self.held.pop(held.hold, None)
        one = Settlement(held.hold, held.bound, cost, tokens, outcome, **more)
        return (await settlement.settle(self.redis, self.caller, [self.settling(one, rules=held.rules)]))[0]

    async def finish(self, *outcomes: Outcome, slow: bool = False) -> Booked:
        """Take lines and settle them in one call, with these outcomes."""
        held = [await self.take() for _ in outcomes]
        for one in held:
            del self.held[one.hold]
        ends = (Settlement(one.hold, 0, 0, None, outcome, slow) for one, outcome in zip(held, outcomes, strict=True))
        return (await settlement.settle(self.redis, self.caller, [self.settling(*ends, rules=held[0].rules)]))[0]


def model_key(model: str = MODEL) -> str:
    return keys.model(UPSTREAM, model)


async def all_suspects(redis: Redis) -> dict[str, Suspect]:
    return {one.hold: one for one in await suspects.suspects(redis, UPSTREAM)}


async def end_lease(redis: Redis, owner: str) -> None:
    """Make an owner's lease as old as if it had been silent for long."""
    await redis.execute_command("ZADD", keys.owners(UPSTREAM), "XX", 0, owner)
