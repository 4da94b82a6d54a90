"""Alerts as the fleet keeps them: raised once, listed, acknowledged.

due ──the mark of its identity is set, which only one can──► in the stream ──► acknowledged by somebody
                                                              └─► one delivery for each webhook (`deliveries`)

The stream is for whoever prefers push, too: `follow`, or XREAD on `keys.alerts`, an entry an alert.
"""

from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b

import msgspec
from redis.asyncio import Redis

from batchmill.config.errors import BatchmillError
from batchmill.spend.alerts import Alert, Due
from batchmill.store import keys
from batchmill.store.audit import Entry, note
from batchmill.store.clock import now_ms
from batchmill.store.connection import OUTAGE
from batchmill.store.errors import StoreError
from batchmill.store.scripts import Script

_raise = Script("alert")

_BLOCK_MS = 1_000
_BEGIN = "0-0"
_KEPT = 1_000
_DAY_MS = 86_400_000
_NO_END_MS = 400 * _DAY_MS  # of a mark whose period has no end, after the last look at which it held
_BREACHES = "bound_breaches"
_OPEN = "open|"


class Acknowledgement(msgspec.Struct, frozen=True):
    """Who has seen an alert, and when (unix ms)."""

    who: str
    at: int


class Raised(msgspec.Struct, frozen=True):
    """An alert in the list: its id, when it was raised (unix ms), and who acknowledged it, if anybody did."""

    id: str
    at: int
    alert: Alert
    acknowledged: Acknowledgement | None = None


class Notes(msgspec.Struct, frozen=True):
    """What looks remember: breaches that were told, and since when (unix ms) breakers are not closed."""

    breaches_told: int = 0
    open_since: dict[str, int] = {}


class UnknownAlertError(BatchmillError):
    """There is no alert of that id (any more)."""

    def __init__(self, alert_id: str) -> None:
        super().__init__(f"no alert '{alert_id}' here; `batchmill alerts --all` lists those that there are")


async def raise_once(
    redis: Redis, upstream: str, due: Due, webhooks: Sequence[str] = (), *, breaches: int | None = None
) -> str | None:
    """Raise an alert unless it was, and have the webhooks (names) told of it; return its id, None when it was.

    `breaches` is the count that the alert tells of: it is remembered in the same step.
    """
    told: tuple[str, str | int] = ("", "") if breaches is None else (_BREACHES, breaches)
    mark = blake2b(due.alert.identity.encode(), digest_size=16).hexdigest()
    life = _NO_END_MS if due.ends_ms is None else max(0, due.ends_ms - await now_ms(redis)) + _DAY_MS
    names = (keys.alert_mark(upstream, mark), *_books(upstream), keys.deliveries(upstream))
    found = await _raise(redis, names, [life, msgspec.json.encode(due.alert), _KEPT, *told, *webhooks])
    return found.decode() if found else None


async def notes(redis: Redis, upstream: str) -> Notes:
    """Return what was remembered."""
    told, since = 0, {}
    for field, value in (await redis.execute_command("HGETALL", keys.alert_notes(upstream))).items():
        name = field.decode()
        if name.startswith(_OPEN):
            since[name.removeprefix(_OPEN)] = int(value)
        elif name == _BREACHES:
            told = int(value)
    return Notes(told, since)


async def note_breakers(redis: Redis, upstream: str, known: Notes, open_now: Sequence[str]) -> dict[str, int]:
    """Remember since when breakers are not closed, and forget those that are; return since when (unix ms)."""
    name, now = keys.alert_notes(upstream), await now_ms(redis)
    for model in open_now:
        if model not in known.open_since:
            await redis.execute_command("HSETNX", name, _OPEN + model, now)
    if closed := known.open_since.keys() - set(open_now):
        await redis.execute_command("HDEL", name, *(_OPEN + model for model in sorted(closed)))
    return {model: known.open_since.get(model, now) for model in open_now}


async def note_waiting(redis: Redis, upstream: str, budget: str, seconds: float) -> None:
    """Remember for a moment that work waits for room in a budget."""
    await redis.execute_command("SET", keys.budget_refused(upstream, budget), "1", "PX", max(1, round(seconds * 1000)))


async def waiting(redis: Redis, upstream: str, budgets: Sequence[str]) -> set[str]:
    """Return the budgets that work waits for."""
    if not budgets:
        return set()
    found = await redis.execute_command("MGET", *(keys.budget_refused(upstream, name) for name in budgets))
    return {name for name, refused in zip(budgets, found, strict=True) if refused}


async def listed(redis: Redis, upstream: str, *, everything: bool = False, most: int = _KEPT) -> list[Raised]:
    """Return the newest alerts that nobody acknowledged, or all; newest first. Raises StoreError."""
    stream, acks = keys.alerts(upstream), keys.alert_acks(upstream)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("XREVRANGE", stream, "+", "-")
        pipe.execute_command("HGETALL", acks)
        entries, acknowledged = await pipe.execute()
    found = [_read(entry, fields, acknowledged.get(entry)) for entry, fields in entries]
    return [one for one in found if everything or one.acknowledged is None][:most]


async def last_id(redis: Redis, upstream: str) -> str:
    """Return the id of the newest alert, from which `follow` goes on."""
    found = await redis.execute_command("XREVRANGE", keys.alerts(upstream), "+", "-", "COUNT", 1)
    return found[0][0].decode() if found else _BEGIN


async def follow(redis: Redis, upstream: str, after: str) -> AsyncIterator[Raised]:
    """Yield alerts as they are raised, from an id on, over outages of the server, and without end."""
    while True:
        try:
            told = await redis.execute_command("XREAD", "BLOCK", _BLOCK_MS, "STREAMS", keys.alerts(upstream), after)
        except OUTAGE:
            continue
        for _, entries in told or ():
            for entry, fields in entries:
                yield _read(entry, fields, None)
                after = entry.decode()


async def one(redis: Redis, upstream: str, alert_id: str) -> Raised | None:
    """Return an alert without its acknowledgement; None when it is no more. Raises StoreError."""
    found = await redis.execute_command("XRANGE", keys.alerts(upstream), alert_id, alert_id)
    return _read(found[0][0], found[0][1], None) if found else None


async def acknowledge(redis: Redis, upstream: str, ids: Sequence[str], who: str) -> list[str]:
    """Say that somebody has seen the alerts; return those that nobody had. Raises UnknownAlertError before any."""
    known = {raised.id: raised for raised in await listed(redis, upstream, everything=True)}
    for alert_id in ids:
        if alert_id not in known:
            raise UnknownAlertError(alert_id)
    at, name = await now_ms(redis), keys.alert_acks(upstream)
    new = [alert_id for alert_id in dict.fromkeys(ids) if known[alert_id].acknowledged is None]
    kept = [field.decode() for field in await redis.execute_command("HKEYS", name)]
    async with redis.pipeline(transaction=True) as pipe:
        for alert_id in new:
            pipe.execute_command("HSETNX", name, alert_id, msgspec.json.encode(Acknowledgement(who, at)))
            raised = known[alert_id].alert
            detail = {"id": alert_id, "kind": raised.kind.value, "subject": raised.subject}
            note(pipe, upstream, Entry(who=who, what="alert.acknowledged", at=at, detail=detail))
        if gone := [alert_id for alert_id in kept if alert_id not in known]:
            pipe.execute_command("HDEL", name, *gone)
        await pipe.execute()
    return new


def _books(upstream: str) -> tuple[str, str]:
    return keys.alerts(upstream), keys.alert_notes(upstream)


def _read(entry: bytes, fields: dict[bytes, bytes], acknowledged: bytes | None) -> Raised:
    alert_id = entry.decode()
    try:
        return Raised(
            id=alert_id,
            at=int(alert_id.partition("-")[0]),
            alert=msgspec.json.decode(fields[b"alert"], type=Alert),
            acknowledged=msgspec.json.decode(acknowledged, type=Acknowledgement) if acknowledged else None,
        )
    except (msgspec.DecodeError, KeyError) as error:
        raise StoreError(f"alert {alert_id} can't be read ({error}); is this batchmill too old for it?") from error
