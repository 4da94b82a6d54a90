"""What the models of an upstream are, cost and can do, kept in Redis for everybody who hands lines over or runs them.

fresh enough ──────────────────────────► the copy
older, or none ── somebody is asking ──► the copy as it is (none: wait for it)
               └─ GET /models ─────────► a new copy
                       └─ fails ───────► the last good copy, and why; none left: the failure

A copy is kept for `catalogue.keep`, and is old after `catalogue.refresh`. After a failure nobody asks for a while.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.config.urls import is_openrouter
from batchmill.openrouter.drift import Drift, drift_of
from batchmill.openrouter.endpoints import Endpoint
from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError
from batchmill.openrouter.models import ModelFacts, decode_models
from batchmill.openrouter.prices import decode_price
from batchmill.store import keys
from batchmill.store.clock import now_ms

if TYPE_CHECKING:
    from batchmill.openrouter.client import Upstream

Models = dict[str, ModelFacts]
_T = TypeVar("_T")

ENDPOINTS_FRESH = 300.0
"""How old (seconds) the endpoints of a model may be, when nobody says."""

_CONNECT_SECONDS = 5.0
_TOTAL_SECONDS = 30.0
_TURN_MS = 35_000  # longer than any look can take
_REST_MS = 15_000  # after a failure, while there is a copy
_LOOK_AGAIN = 0.05  # seconds, while another asks
_NO_LISTING = "it answered with no list of models"
_TROUBLE = (UpstreamUnavailableError, UpstreamRefusedError)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The models at one moment, and how old that is. `fetched_at_ms` by Redis's clock, None when nobody fetched them.

    `stale_reason` is why the last refresh failed, if it did: then these are the last good copy, or none are known.
    """

    models: Models
    fetched_at_ms: int | None = None
    age_ms: int = 0
    source: Literal["upstream", "packaged"] = "upstream"
    stale_reason: str | None = None


class Refreshed(msgspec.Struct, frozen=True, kw_only=True):
    """What a refresh found: ids that are new, gone, or have another price than the copy before, if there was one.

    `drift` is None when nothing was read: the copy was fresh enough, somebody else was asking, or it failed.
    """

    snapshot: Snapshot
    drift: Drift | None = None
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    repriced: tuple[str, ...] = ()


class EndpointsSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Who serves a model, as read at `fetched_at_ms` (Redis's clock); `stale_reason` says why it is old, or empty."""

    endpoints: tuple[Endpoint, ...] = ()
    fetched_at_ms: int | None = None
    age_ms: int = 0
    stale_reason: str | None = None


class _Copy(msgspec.Struct, frozen=True, array_like=True):
    fetched_at_ms: int
    models: list[ModelFacts]


class _Failure(msgspec.Struct, frozen=True, array_like=True):
    at_ms: int
    reason: str


class _Served(msgspec.Struct, frozen=True, array_like=True):
    fetched_at_ms: int
    endpoints: tuple[Endpoint, ...] | None


class _Shelf(msgspec.Struct, frozen=True):
    """What Redis has: the last good copy, and whether it needs no refresh."""

    copy: Snapshot | None
    rests: bool  # fresh, or the upstream failed a moment ago


_encode = msgspec.msgpack.Encoder().encode
_decode_copy = msgspec.msgpack.Decoder(_Copy).decode
_decode_failure = msgspec.msgpack.Decoder(_Failure).decode
_decode_served = msgspec.msgpack.Decoder(_Served).decode


async def models_of(redis: Redis, settings: Settings) -> Models:
    """Return the models of the settings' upstream, as `snapshot_of` does."""
    return (await snapshot_of(redis, settings)).models


async def snapshot_of(redis: Redis, settings: Settings) -> Snapshot:
    """Return the models of the settings' upstream, read anew when the copy is old; of a rehearsal the packaged ones.

    An endpoint that names no models has none, and one that can't be asked has none either. Only OpenRouter names them
    for sure: raises UpstreamUnavailableError or UpstreamRefusedError when it can't be asked and no copy is left.
    """
    return _packaged() if settings.simulate else (await refresh(redis, settings)).snapshot


async def kept_of(redis: Redis, settings: Settings) -> Snapshot | None:
    """Return the models that are known now, and ask nobody; None when none are kept."""
    return _packaged() if settings.simulate else (await _look(redis, settings)).copy


async def refresh(redis: Redis, settings: Settings, *, force: bool = False) -> Refreshed:
    """Read the models anew when the copy is old, or in any case with `force`, which waits for its turn.

    Of many processes one asks at a time; the others go on with the copy, and wait only when there is none. Raises as
    `snapshot_of`.
    """
    if settings.simulate:
        return Refreshed(snapshot=_packaged(), drift=await asyncio.to_thread(drift_of, _packaged_listing()))
    turn, us = keys.catalogue_turn(settings.upstream_name), secrets.token_hex(8)
    patience, asked = time.monotonic() + _TOTAL_SECONDS, False
    try:
        while True:
            shelf = await _look(redis, settings)
            if shelf.copy is not None and shelf.rests and not force:
                return Refreshed(snapshot=shelf.copy)
            asked = True  # who is cancelled before the answer may have got the turn all the same
            if await redis.execute_command("SET", turn, us, "NX", "PX", _TURN_MS) or time.monotonic() > patience:
                return await _fetch(redis, settings, shelf.copy)
            if shelf.copy is not None and not force:
                return Refreshed(snapshot=shelf.copy)
            await asyncio.sleep(_LOOK_AGAIN)
    finally:
        if asked:
            await asyncio.shield(_give_back(redis, turn, us))  # also when it is cancelled just here


async def _give_back(redis: Redis, turn: str, us: str) -> None:
    if await redis.execute_command("GET", turn) == us.encode():
        await redis.execute_command("DEL", turn)


def changes(before: Models, after: Models) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the ids of models that are new, gone, and those with another price; each list in order."""
    repriced = (
        name
        for name in after.keys() & before.keys()
        if after[name].pricing != before[name].pricing
        and decode_price(after[name].pricing) != decode_price(before[name].pricing)
    )
    return (
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(before.keys() - after.keys())),
        tuple(sorted(repriced)),
    )


async def endpoints_of(
    redis: Redis, settings: Settings, model: str, *, max_age: float = ENDPOINTS_FRESH
) -> EndpointsSnapshot:
    """Return who serves a model, at most `max_age` seconds old; older, with the reason, when the upstream is down.

    In a rehearsal the simulator tells, if one runs at the upstream's address, and nobody else. Raises
    UpstreamUnavailableError or UpstreamRefusedError when the upstream can't be asked and nothing is kept.
    """
    if settings.simulate and is_openrouter(settings.upstream.base_url):
        return EndpointsSnapshot(stale_reason="no simulator is running")
    key = keys.endpoints(settings.upstream_name, model)
    stored, now = await redis.execute_command("GET", key), await now_ms(redis)
    known = _unpacked(stored, _decode_served)
    kept = _told(known, now) if known else None
    if kept is not None and kept.age_ms < max_age * 1000:
        return kept
    try:
        async with _asking(settings) as client:
            found = await client.endpoints(model)
    except _TROUBLE as error:
        if kept is None and not settings.simulate:
            raise
        return msgspec.structs.replace(kept or EndpointsSnapshot(), stale_reason=str(error))
    served = _Served(now, found)
    await redis.execute_command("SET", key, _encode(served), "PX", _keep_ms(settings))
    return _told(served, now)


async def _look(redis: Redis, settings: Settings) -> _Shelf:
    upstream = settings.upstream_name
    async with redis.pipeline(transaction=False) as pipe:
        pipe.execute_command("GET", keys.catalogue(upstream))
        pipe.execute_command("GET", keys.catalogue_failure(upstream))
        stored, failed = await pipe.execute()
    now = await now_ms(redis)
    copy, failure = _unpacked(stored, _decode_copy), _unpacked(failed, _decode_failure)
    if copy is None:
        return _Shelf(None, rests=False)
    age = max(0, now - copy.fetched_at_ms)
    snapshot = Snapshot(
        models={facts.id: facts for facts in copy.models},
        fetched_at_ms=copy.fetched_at_ms,
        age_ms=age,
        stale_reason=failure.reason if failure else None,
    )
    fresh = age < settings.catalogue.refresh * 1000
    return _Shelf(snapshot, rests=fresh or (failure is not None and now - failure.at_ms < _REST_MS))


async def _fetch(redis: Redis, settings: Settings, before: Snapshot | None) -> Refreshed:
    """Ask the upstream; what it says becomes the copy, unless it says nothing."""
    upstream = settings.upstream_name
    try:
        async with _asking(settings) as client:
            listing = await client.listing(usable=settings.catalogue.only_usable)
    except _TROUBLE as error:
        if before is None and settings.speaks_openrouter:
            raise
        return await _failed(redis, settings, before, str(error))
    models = decode_models(listing) if listing else {}
    if not models and (settings.speaks_openrouter or (before and before.models)):
        return await _failed(redis, settings, before, _NO_LISTING)
    now = await now_ms(redis)
    async with redis.pipeline(transaction=True) as pipe:
        written = _encode(_Copy(now, list(models.values())))
        pipe.execute_command("SET", keys.catalogue(upstream), written, "PX", _keep_ms(settings))
        pipe.execute_command("DEL", keys.catalogue_failure(upstream))
        await pipe.execute()
    added, removed, repriced = changes(before.models if before else models, models)
    return Refreshed(
        snapshot=Snapshot(models=models, fetched_at_ms=now),
        drift=await asyncio.to_thread(drift_of, listing or b""),  # tens of ms, and a worker has calls to serve
        added=added,
        removed=removed,
        repriced=repriced,
    )


async def _failed(redis: Redis, settings: Settings, before: Snapshot | None, reason: str) -> Refreshed:
    key, failure = keys.catalogue_failure(settings.upstream_name), _Failure(await now_ms(redis), reason)
    await redis.execute_command("SET", key, _encode(failure), "PX", _keep_ms(settings))
    return Refreshed(snapshot=msgspec.structs.replace(before or Snapshot(models={}), stale_reason=reason))


def _asking(settings: Settings) -> "Upstream":
    """Return a client that does not wait as long as one for completions may."""
    from batchmill.openrouter.client import Upstream

    asked = settings.upstream
    connect, total = min(_CONNECT_SECONDS, asked.connect_timeout), min(_TOTAL_SECONDS, asked.total_timeout)
    brief = msgspec.structs.replace(asked, connect_timeout=connect, total_timeout=total)
    return Upstream(brief, settings.api_key, max_connections=1)


def _keep_ms(settings: Settings) -> int:
    return max(1, round(settings.catalogue.keep * 1000))


def _unpacked(stored: bytes | None, decode: Callable[[bytes], _T]) -> _T | None:
    try:
        return None if stored is None else decode(stored)
    except msgspec.DecodeError:  # written by another version
        return None


def _told(served: _Served, now: int) -> EndpointsSnapshot:
    return EndpointsSnapshot(
        endpoints=served.endpoints or (),
        fetched_at_ms=served.fetched_at_ms,
        age_ms=max(0, now - served.fetched_at_ms),
        stale_reason="the upstream tells of no endpoints of this model" if served.endpoints is None else None,
    )


@cache
def _packaged_listing() -> bytes:
    from batchmill.openrouter.simulator.catalogue import load_catalogue

    return load_catalogue().listing


@cache
def _packaged() -> Snapshot:
    return Snapshot(models=decode_models(_packaged_listing()), source="packaged")
