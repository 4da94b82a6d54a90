"""The account of an upstream as the fleet knows it: what was told of the key, and the pauses that follow from it.

look due ──► GET /key ──► kept, with its time
                 │  └──── stops (`openrouter/account.py`) ──► a pause of their scope, in words
                 │  └──── none of a scope ──────────────────► the pause that a look can end is lifted
                 └─ no answer ──► the last copy stays; why, and when, is kept with it

Only pauses whose code is one of `openrouter.account.CODES` are touched: those of operators, of rate limits and of spent
credits are not ours to end.
"""

from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from batchmill.openrouter.account import CODES, Stop
from batchmill.openrouter.outcomes import Scope
from batchmill.openrouter.wire import KeyInfo
from batchmill.store import batches, keys
from batchmill.store.clock import now_ms
from batchmill.store.rules import FREE
from batchmill.store.transactions import transact

_KEPT_SECONDS = 86_400
_SCOPES = {Scope.ACCOUNT: "refused", Scope.FREE_MODELS: FREE}

Standing = dict[bytes, bytes]
"""The pauses as they stood at one moment: scope -> value."""


class Account(msgspec.Struct, frozen=True):
    """What was told of the key, when (unix ms, by the clock of Redis), and why the looks since then failed, if so.

    `key` is None where the upstream has no `GET /key`, or was never reached.
    """

    key: KeyInfo | None = None
    looked_ms: int | None = None
    failure: str | None = None
    failed_ms: int | None = None


class Parked(msgspec.Struct, frozen=True):
    """What a look changed: scopes that are paused now and were not, and those that were and go on."""

    begun: tuple[str, ...] = ()
    lifted: tuple[str, ...] = ()


async def take_turn(redis: Redis, upstream: str, worker: str, interval: float) -> bool:
    """Whether a look is due and ours; the next one is due after `interval` seconds."""
    name, milliseconds = keys.account_turn(upstream), max(1, round(interval * 1000))
    return bool(await redis.execute_command("SET", name, worker, "NX", "PX", milliseconds))


async def put_off(redis: Redis, upstream: str, seconds: float) -> None:
    """Have the next look due in so many seconds from now."""
    await redis.execute_command("PEXPIRE", keys.account_turn(upstream), max(1, round(seconds * 1000)))


async def keep(redis: Redis, upstream: str, key: KeyInfo | None) -> None:
    """Keep what was told, for a day. It must hold nothing of the key itself."""
    await _put(redis, upstream, Account(key, await now_ms(redis)))


async def keep_failure(redis: Redis, upstream: str, why: str) -> None:
    """Keep why a look failed, beside what was told before."""
    known = await read(redis, upstream) or Account()
    await _put(redis, upstream, msgspec.structs.replace(known, failure=why, failed_ms=await now_ms(redis)))


async def read(redis: Redis, upstream: str) -> Account | None:
    """Return what the fleet knows of the account; None when nobody looked within a day."""
    kept = await redis.execute_command("GET", keys.account(upstream))
    try:
        return msgspec.json.decode(kept, type=Account) if kept else None
    except msgspec.DecodeError:  # written by another version
        return None


async def standing(redis: Redis, upstream: str) -> Standing:
    """Return the pauses as they stand: to be read before a look, so that a refusal during it is not undone by it."""
    found: Standing = await redis.execute_command("HGETALL", keys.pauses(upstream))
    return found


async def park(redis: Redis, upstream: str, stops: Sequence[Stop], before: Standing, relook: float) -> Parked:
    """Pause what the key's books stop, and lift the pauses that they disprove; say so to whoever asks why.

    A stop without an end lasts `relook` seconds: longer than until the next look.
    """
    name, now = keys.pauses(upstream), await now_ms(redis)
    wanted = {
        _SCOPES[stop.scope]: (round((now / 1000 + relook if stop.until is None else stop.until) * 1000), stop)
        for stop in stops
    }
    changed = Parked()

    async def plan(pipe: Pipeline) -> bool:
        nonlocal changed
        begun, lifted = [], []
        stand = await standing(redis, upstream)
        for scope in _SCOPES.values():
            field = scope.encode()
            value = stand.get(field)
            ours = value is not None and _is_ours(value)
            lasts = value is not None and _until(value) > now
            if scope in wanted:
                until, stop = wanted[scope]
                if ours or not lasts:
                    pipe.execute_command("HSET", name, scope, f"{until}|{stop.code}: {stop.reason}")
                if not lasts:
                    begun.append(scope)
            elif ours and value == before.get(field):
                pipe.execute_command("HDEL", name, scope)
                if lasts:
                    lifted.append(scope)
        changed = Parked(tuple(begun), tuple(lifted))
        return bool(pipe.command_stack)

    await transact(redis, name, plan)
    await _tell(redis, upstream, {scope: (until - now, stop) for scope, (until, stop) in wanted.items()}, changed)
    return changed


async def _tell(redis: Redis, upstream: str, wanted: dict[str, tuple[int, Stop]], changed: Parked) -> None:
    for scope, (milliseconds, stop) in wanted.items():
        what = "the upstream refuses the account" if stop.scope is Scope.ACCOUNT else f"limit of {scope}"
        await batches.say_blocked(redis, upstream, scope, "pause", f"{what}: {stop.reason}", milliseconds / 1000)
    for scope in changed.lifted:
        await redis.execute_command("DEL", keys.blocked(upstream, scope))


async def _put(redis: Redis, upstream: str, account: Account) -> None:
    await redis.execute_command("SET", keys.account(upstream), msgspec.json.encode(account), "EX", _KEPT_SECONDS)


def _is_ours(value: bytes) -> bool:
    return value.partition(b"|")[2].partition(b":")[0].decode() in CODES


def _until(value: bytes) -> int:
    return int(value.partition(b"|")[0])
