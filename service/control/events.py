"""What happens, as it happens: server-sent events, for the dashboard and whoever else would rather not poll.

    overview   everything at one moment, each second          batch     one that came, moved, is blocked, or ended
    breaker    one that opened, closes, or closed             budget    one whose money or limit changed
    alert      a new one

The first events of a stream tell how everything stands, so who was away need not ask for what was missed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Hashable, Mapping
from typing import Any

import structlog
from redis.exceptions import RedisError
from starlette.responses import Response, StreamingResponse

from batchmill.openrouter.money import to_usd, usd_if_known
from batchmill.service.compat.batch_objects import shown_status
from batchmill.service.context import Service
from batchmill.service.control.budgets import budgets
from batchmill.service.control.notices import alerts
from batchmill.service.control.overview import live_batches, overview
from batchmill.service.control.shapes import BatchBrief, Shape
from batchmill.service.control.switches import breakers
from batchmill.service.endpoints import encode
from batchmill.service.identity import Identity
from batchmill.service.operations import Call
from batchmill.store import batches
from batchmill.store.errors import StoreError, UnknownBatchError
from batchmill.store.model import BatchStatus

log = structlog.get_logger()

EVERY = 1.0
"""Seconds between two looks."""

_LIFE = 900.0  # seconds of a stream; a client that still listens comes back by itself
_RETRY_MS = 1000  # so soon
_HEAD = {"cache-control": "no-store", "x-accel-buffering": "no"}

Told = dict[tuple[str, Hashable], Shape]
"""Kind of event and which of it -> how it stands."""


async def events(call: Call[None, None]) -> Response:
    """Stream what happens, until the client goes: each event's data is the JSON of what the address of its kind tells.

    Kinds: `overview` (each second), `batch`, `breaker`, `budget` and `alert` (when one changed, and all at first).
    """
    stream = _stream(call.service, call.identity, getattr(call.request.app.state, "stopping", None))
    return StreamingResponse(stream, media_type="text/event-stream", headers=_HEAD)


async def standing(service: Service, identity: Identity) -> Told:
    """Return how everything stands that who asks may see."""
    told: Told = {("overview", ""): await overview(service, identity)}
    told |= {("batch", one.id): batch_brief(one) for one in await live_batches(service, identity.project)}
    told |= {("breaker", one.model): one for one in (await breakers(service, identity)).data}
    money = await budgets(service, identity)
    told |= {("budget", one.name): one for one in money.data}
    told |= {("budget", one.name): one for one in money.shared}
    told |= {("alert", one.id): one for one in (await alerts(service, identity)).data}
    return told


def batch_brief(status: BatchStatus) -> BatchBrief:
    """Return how far a batch is."""
    return BatchBrief(
        id=status.id,
        project=status.project,
        status=shown_status(status),
        total=status.total,
        pending=status.pending,
        running=status.running,
        succeeded=status.succeeded,
        failed=status.failed,
        cancelled=status.cancelled,
        expired=status.expired,
        cached=status.cached,
        spent_usd=to_usd(status.cost),
        cap_usd=usd_if_known(status.max_cost),
        blocked_on=status.blocked_on,
    )


async def _stream(service: Service, identity: Identity, stopping: asyncio.Event | None) -> AsyncIterator[bytes]:
    yield b"retry: %d\n\n" % _RETRY_MS
    known: Told = {}
    until = time.monotonic() + _LIFE
    while time.monotonic() < until and not (stopping and stopping.is_set()):
        try:
            if not await _still_counts(service, identity):
                return
            now = await standing(service, identity)
            now |= await _ended(service, known, now)
        except (StoreError, RedisError, OSError) as error:
            log.warning("events.cannot", error=str(error))
            yield b": Redis can't be reached just now\n\n"
        else:
            for (kind, _), value in changed(known, now).items():
                yield b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(value))
            known = now
        await _pause(stopping)


def changed(before: Mapping[tuple[str, Hashable], Any], now: Told) -> Told:
    """Return what is new or stands otherwise; the overview, which has its own time in it, always is."""
    return {place: value for place, value in now.items() if before.get(place) != value}


async def _still_counts(service: Service, identity: Identity) -> bool:
    """Whether who asked would be let in now: a key that is revoked hears nothing more."""
    if identity.key_id is None:
        return not await service.keyring.needed(service.redis, service.upstream)
    return await service.keyring.by_id(service.redis, service.upstream, identity.key_id) is not None


async def _ended(service: Service, known: Told, now: Told) -> Told:
    """Return the last word of batches that ended since the last look, until that is their last word."""
    found: Told = {}
    for place, before in known.items():
        if place[0] != "batch" or place in now or not isinstance(before, BatchBrief):
            continue
        try:
            brief = batch_brief(await batches.status(service.redis, before.id))
        except UnknownBatchError:
            continue
        if brief != before or brief.status in ("finalizing", "cancelling"):
            found[place] = brief
    return found


async def _pause(stopping: asyncio.Event | None) -> None:
    if stopping is None:
        await asyncio.sleep(EVERY)
        return
    try:
        async with asyncio.timeout(EVERY):
            await stopping.wait()
    except TimeoutError:
        pass
