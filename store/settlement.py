"""Settling: what was held becomes what was spent, once, in the same pipeline as the results and after them.

Settlements of one owner go out in flushes under a number that grows, each call at its place in the flush: one that is
repeated books nothing twice, and one that failed alone (the server did not know the script yet) is not taken for done.
"""

import random
import time
from collections.abc import Sequence
from enum import StrEnum

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import NoScriptError

from batchmill.spend.ledger import UsageRecord
from batchmill.store import keys, ledger
from batchmill.store.gate import Caller
from batchmill.store.rules import Rules
from batchmill.store.scripts import Argument, Script

_settle = Script("settle", "usage", "bucket")
_THOUSAND = 1000
_MOST = 2**50  # a line's nano-dollars or tokens: what an upstream tells beyond it would part the books in mid-script
_REPEAT = -1  # nothing was done yet: the script needs roll-ups of other days, or the story of each hold


class Outcome(StrEnum):
    """What a call says about the provider."""

    ANSWERED = "s"
    FAILED = "f"
    NOTHING = "n"


class Settlement(msgspec.Struct, frozen=True):
    """How one call ended. `cost` None: nobody knows, so its bound becomes suspect; `tokens` None: all it reserved.

    `record` None: it can't have cost money.
    """

    hold: str
    bound: int
    cost: int | None
    tokens: int | None = None
    outcome: Outcome = Outcome.NOTHING
    slow: bool = False
    generation: str | None = None
    record: UsageRecord | None = None


class Settling(msgspec.Struct, frozen=True):
    """One call: settlements of holds that were taken under the same rules.

    `number` grows from flush to flush; `place` tells the calls of one flush apart.
    """

    number: int
    rules: Rules
    settlements: tuple[Settlement, ...]
    place: int = 0


class Booked(msgspec.Struct, frozen=True):
    """What a call did: `new` unless it was a repetition; whether it tripped the model's breaker."""

    new: bool
    tripped: bool = False


def queue(pipe: Pipeline, caller: Caller, settling: Settling) -> None:
    """Add a call to a pipeline; `answer` reads its reply."""
    _settle.queue(pipe, *_call(caller, settling, _today()))


async def answer(redis: Redis, caller: Caller, settling: Settling, reply: object) -> Booked:
    """Read the reply of a queued call; make the call when the server did not know the script, and again when a hold is
    not held any more or our day is not that of Redis. Raises errors.
    """
    if isinstance(reply, NoScriptError):
        reply = await _settle(redis, *_call(caller, settling, _today()))
    if isinstance(reply, Exception):
        raise reply
    told: list[int] = reply  # type: ignore[assignment]  # the script's own shape
    each = False
    while told[0] == _REPEAT:
        each = each or bool(told[1])
        told = await _settle(redis, *_call(caller, settling, told[2:], each=each))
    return Booked(bool(told[0]), len(told) > 1 and bool(told[1]))


async def settle(redis: Redis, caller: Caller, settlings: Sequence[Settling]) -> list[Booked]:
    """Settle in one round trip, in order."""
    async with redis.pipeline(transaction=False) as pipe:
        for settling in settlings:
            queue(pipe, caller, settling)
        replies = await pipe.execute(raise_on_error=False)
    return [await answer(redis, caller, *pair) for pair in zip(settlings, replies, strict=True)]


def _today() -> list[int]:
    """Return our day, which is most likely that of Redis; the script knows."""
    return [int(time.time() * _THOUSAND) // ledger.DAY_MS]


def _call(
    caller: Caller, settling: Settling, days: Sequence[int], *, each: bool = False
) -> tuple[list[str], list[Argument]]:
    """Return the script's keys and arguments; with `each`, every hold's story is told for itself."""
    upstream, rules = caller.upstream, settling.rules
    names = [
        keys.books(upstream),
        keys.holds(upstream, caller.owner),
        keys.model(upstream, rules.model),
        keys.suspects(upstream),
        keys.closed(upstream),
        *rules.keys,
        keys.usage(upstream),
        *(name for day in days for name in ledger.rollup_keys(upstream, day)),
    ]
    together = [] if each else [_told(one) for one in settling.settlements if one.cost is not None and one.record]
    changes = ledger.changes(together)
    arguments: list[Argument] = [
        f"{settling.number} {settling.place}",
        len(rules.budgets),
        len(rules.limits),
        rules.model,
        *_breaker_arguments(rules),
        " ".join(map(str, days)),
        ledger.chunk(together) if together else "",
        len(together),
        len(changes),
    ]
    for rule in rules.limits:
        limit = rule.limit
        arguments += ("", "") if limit.tokens_per_minute is None else (limit.tokens_per_minute, limit.token_capacity)
    for change in changes:
        arguments += change
    for one in settling.settlements:
        alone = one.record is not None and (each or one.cost is None)
        arguments += (
            one.hold,
            one.bound,
            _countable(one.cost),
            _countable(one.tokens),
            one.outcome.value,
            "1" if one.slow else "",
            one.generation or "",
            ledger.story(_told(one)) if alone else "",
        )
    return names, arguments


def _told(one: Settlement) -> UsageRecord:
    """Return the record of a settlement that has one, with the cost as it is booked."""
    record, cost = one.record, _countable(one.cost)
    if record is None:
        raise ValueError(f"{one.hold} has no record")
    return record if cost in ("", record.cost) else msgspec.structs.replace(record, cost=cost)


def _countable(told: int | None) -> Argument:
    return "" if told is None else min(max(told, 0), _MOST)


def _breaker_arguments(rules: Rules) -> list[Argument]:
    breaker = rules.breaker
    return [
        round(breaker.window_seconds * _THOUSAND),
        breaker.min_calls,
        round(breaker.failure_ratio * _THOUSAND),
        "" if breaker.slow_seconds is None else round(breaker.slow_ratio * _THOUSAND),
        round(breaker.open_seconds * _THOUSAND),
        round(breaker.max_open_seconds * _THOUSAND),
        breaker.probes,
        f"{random.random():.6f}",  # noqa: S311 - spreading load, not secrets
    ]
