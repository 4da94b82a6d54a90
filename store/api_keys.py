"""API keys: who may use the service, for what, and within which bounds.

    bm-<id>-<secret>      the id finds the record; of the secret, 256 random bits, only the SHA-256 is kept

    made ──► in use ──► expired
               └─────► revoked        (both for ever: a record is never removed)

A key belongs to an upstream, as its budget does: one that was made for rehearsals opens nothing else.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from batchmill.config.errors import BatchmillError
from batchmill.config.policy import KEY_PREFIX, KeyBudget, check_limit
from batchmill.config.rules import check_name
from batchmill.config.spelling import nearest
from batchmill.config.windows import WindowKind
from batchmill.store import key_budgets, service_keys
from batchmill.store.audit import Entry, note
from batchmill.store.clock import now_ms
from batchmill.store.errors import StoreError
from batchmill.store.transactions import transact

SCOPES = ("submit", "read", "admin")

MOST = 10_000
"""Keys of one project, for its own key may make more, and no record is ever removed."""

_ID_BYTES = 6
_SECRET_BYTES = 32
_KEY = re.compile(r"bm-([0-9a-f]{12})-([A-Za-z0-9_-]{43})")
_NOBODY = "0" * 64
_MINUTE = 60


class ApiKeyError(BatchmillError):
    """An API key can't be made or changed as asked; the message says why."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One API key. Times in unix seconds of the Redis clock; `project` None: it sees every project.

    `requests_per_minute` None: as the settings say. `max_queued_lines` None: any number.
    """

    id: str
    name: str
    digest: str  # SHA-256 of the secret, in hex
    project: str | None
    scopes: tuple[str, ...]
    created_at: int
    created_by: str
    expires_at: int | None = None
    revoked_at: int | None = None
    requests_per_minute: int | None = None
    max_queued_lines: int | None = None

    def __repr__(self) -> str:
        return f"ApiKey({self.id!r}, {self.name!r})"

    def state(self, now: int) -> Literal["active", "expired", "revoked"]:
        """Return whether it opens anything at that moment (unix seconds), and why not."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.expires_at is None or now < self.expires_at else "expired"

    @property
    def budget_name(self) -> str:
        """The name of its own budget, if it has one."""
        return KEY_PREFIX + self.name


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a new key shall be. `lasts` in seconds from now."""

    name: str
    project: str | None
    scopes: tuple[str, ...] = ("submit", "read")
    lasts: int | None = None
    budget_usd: Decimal | None = None
    window: WindowKind = WindowKind.TOTAL
    requests_per_minute: int | None = None
    max_queued_lines: int | None = None


class Made(msgspec.Struct, frozen=True):
    """A new key, and its text, which is never to be had again."""

    key: ApiKey
    text: str

    def __repr__(self) -> str:
        return f"Made({self.key!r})"


_decode = msgspec.json.Decoder(ApiKey).decode


async def create(redis: Redis, upstream: str, wanted: Wanted, who: str) -> Made:
    """Make a key, and its budget in the same step; audited. Raises ApiKeyError for what can't be meant."""
    _check(wanted)
    key_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
    made: ApiKey | None = None

    async def plan(pipe: Pipeline) -> bool:
        nonlocal made
        there = await every(redis, upstream)
        if any(known.name == wanted.name for known in there):
            raise ApiKeyError(f"there is, or was, an API key named '{wanted.name}'; choose another name")
        if wanted.project is not None and sum(known.project == wanted.project for known in there) >= MOST:
            raise ApiKeyError(f"a project can have {MOST:,} API keys, with those that were revoked")
        at_ms = await now_ms(redis)
        at = at_ms // 1000
        made = ApiKey(
            id=key_id,
            name=wanted.name,
            digest=_digest(secret),
            project=wanted.project,
            scopes=tuple(scope for scope in SCOPES if scope in wanted.scopes),
            created_at=at,
            created_by=who,
            expires_at=None if wanted.lasts is None else at + wanted.lasts,
            requests_per_minute=wanted.requests_per_minute,
            max_queued_lines=wanted.max_queued_lines,
        )
        _write(pipe, upstream, made)
        if wanted.budget_usd is not None:
            key_budgets.put(pipe, upstream, _budget(made, wanted.budget_usd, wanted.window))
        note(pipe, upstream, _entry(who, "key.created", made, at_ms))
        return True

    await transact(redis, service_keys.api_keys(upstream), plan)
    if made is None:
        raise StoreError("the API key was not written")
    return Made(made, f"bm-{key_id}-{secret}")


async def every(redis: Redis, upstream: str) -> list[ApiKey]:
    """Return all keys that were ever made, oldest first. Raises StoreError."""
    found = await redis.execute_command("HVALS", service_keys.api_keys(upstream))
    return sorted(map(_read, found), key=lambda key: (key.created_at, key.name))


async def any_made(redis: Redis, upstream: str) -> bool:
    """Whether any key was ever made: from then on, nobody gets in without one."""
    return bool(await redis.execute_command("EXISTS", service_keys.api_keys(upstream)))


async def by_id(redis: Redis, upstream: str, key_id: str) -> ApiKey | None:
    """Return a key, whether it counts or not."""
    found = await redis.execute_command("HGET", service_keys.api_keys(upstream), key_id)
    return None if found is None else _read(found)


async def find(redis: Redis, upstream: str, given: str) -> ApiKey:
    """Return the key of that id or name. Raises ApiKeyError."""
    known = await every(redis, upstream)
    found = next((key for key in known if given in (key.id, key.name)), None)
    if found is None:
        names = [key.name for key in known]
        raise ApiKeyError(f"no API key '{given}' here{nearest(given, names) if names else '; there are none'}")
    return found


def id_in(text: str) -> str | None:
    """Return the id that stands in the text of a key; None for what is none."""
    found = _KEY.fullmatch(text)
    return found[1] if found else None


def opens(key: ApiKey | None, text: str) -> bool:
    """Whether the text of a key is that of the record, in a time that does not depend on how much of it is right."""
    found = _KEY.fullmatch(text)
    same = hmac.compare_digest(_digest(found[2] if found else ""), key.digest if key else _NOBODY)
    return same and key is not None and found is not None and found[1] == key.id


async def revoke(redis: Redis, upstream: str, key_id: str, who: str) -> ApiKey:
    """Let a key open nothing any more; what it handed over goes on, within its budget. Audited.

    Asked again, it changes nothing. Raises ApiKeyError for one that is not there.
    """

    key: ApiKey | None = None

    async def plan(pipe: Pipeline) -> bool:
        nonlocal key
        key = await _known(redis, upstream, key_id)
        if key.revoked_at is not None:
            return False
        at = await now_ms(redis)
        key = msgspec.structs.replace(key, revoked_at=at // 1000)
        _write(pipe, upstream, key)
        note(pipe, upstream, _entry(who, "key.revoked", key, at))
        return True

    await transact(redis, service_keys.api_keys(upstream), plan)
    if key is None:
        raise StoreError("the API key was not revoked")
    return key


async def set_budget(
    redis: Redis, upstream: str, key_id: str, usd: Decimal | None, window: WindowKind | None, who: str
) -> ApiKey:
    """Give a key a budget, another limit or window for it, or none; for all that it handed over, from this instant.

    In another window nothing is spent yet. `window` None: as it was. Raises ApiKeyError.
    """
    held: ApiKey | None = None

    async def plan(pipe: Pipeline) -> bool:
        nonlocal held
        held = await _known(redis, upstream, key_id)
        before = (await key_budgets.every(redis, upstream)).get(key_id)
        if usd is None:
            key_budgets.drop(pipe, upstream, held.budget_name)
        else:
            kept = before.window if before else WindowKind.TOTAL
            key_budgets.put(pipe, upstream, _budget(held, usd, window or kept))
        detail = {"key": key_id, "name": held.name, "before_usd": str(before.limit_usd) if before else None}
        detail |= {"after_usd": None if usd is None else str(usd)}
        note(pipe, upstream, Entry(who=who, what="key.budget", at=await now_ms(redis), detail=detail))
        return True

    await transact(redis, service_keys.key_budgets(upstream), plan)
    if held is None:
        raise StoreError("the budget was not written")
    return held


async def used(redis: Redis, upstream: str) -> Mapping[str, int]:
    """Return when each key was last used (unix seconds), to the minute."""
    found = await redis.execute_command("HGETALL", service_keys.api_key_use(upstream))
    return {key_id.decode(): int(at) for key_id, at in found.items()}


async def note_use(redis: Redis, upstream: str, key_id: str, at: int) -> None:
    """Note that a key was used (unix seconds), to the minute."""
    await redis.execute_command("HSET", service_keys.api_key_use(upstream), key_id, at // _MINUTE * _MINUTE)


async def _known(redis: Redis, upstream: str, key_id: str) -> ApiKey:
    found = await by_id(redis, upstream, key_id)
    if found is None:
        raise ApiKeyError(f"no API key '{key_id}' here; `batchmill keys list` shows those that there are")
    return found


def _write(pipe: Pipeline, upstream: str, key: ApiKey) -> None:
    pipe.execute_command("HSET", service_keys.api_keys(upstream), key.id, msgspec.json.encode(key))


def _read(record: bytes) -> ApiKey:
    try:
        return _decode(record)
    except msgspec.DecodeError as error:
        raise StoreError("an API key in Redis can't be read here; did a newer batchmill make it?") from error


def _check(wanted: Wanted) -> None:
    if id_in(wanted.name):
        raise ApiKeyError("that is the text of an API key, and no name for one")
    try:
        check_name("API key", wanted.name)
        if wanted.project is not None:
            check_name("project", wanted.project)
        if wanted.budget_usd is not None:
            check_limit(wanted.budget_usd)
    except ValueError as error:
        raise ApiKeyError(str(error)) from error
    if not wanted.scopes or not set(wanted.scopes) <= set(SCOPES):
        raise ApiKeyError(f"an API key has at least one of the scopes {', '.join(SCOPES)}")
    for what, number in (
        ("time", wanted.lasts),
        ("rate", wanted.requests_per_minute),
        ("number of queued lines", wanted.max_queued_lines),
    ):
        if number is not None and number < 1:
            raise ApiKeyError(f"the {what} of an API key must be at least 1, not {number}")


def _budget(key: ApiKey, usd: Decimal, window: WindowKind) -> KeyBudget:
    try:
        return KeyBudget(name=key.budget_name, limit_usd=usd, window=window, project=key.project, key=key.id)
    except ValueError as error:
        raise ApiKeyError(str(error)) from error


def _entry(who: str, what: str, key: ApiKey, at: int) -> Entry:
    return Entry(who=who, what=what, at=at, detail={"key": key.id, "name": key.name, "project": key.project})


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
