"""Where `batchmill models` has its facts from: the catalogue, what the fleet saw, and what the endpoints say."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime

import msgspec
from redis.asyncio import Redis

from batchmill.cli.words import duration
from batchmill.config.settings import Settings
from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError
from batchmill.producer.errors import InputError
from batchmill.routing.comparison import UnknownModelError, find
from batchmill.routing.health import ModelHealth, Window
from batchmill.routing.shelf import Item, Shelf
from batchmill.store import gauges
from batchmill.store.catalogue import EndpointsSnapshot, Snapshot, endpoints_of, snapshot_of
from batchmill.store.clock import now_ms
from batchmill.store.connection import open_store
from batchmill.store.health import health_of
from batchmill.store.statistics import models_seen

_MS = 1000


class Source(msgspec.Struct, frozen=True):
    """The catalogue at one moment, and what is known of how its models do. `now_ms` is Redis's clock."""

    redis: Redis
    settings: Settings
    snapshot: Snapshot
    shelf: Shelf
    health: dict[str, ModelHealth]
    now_ms: int

    @property
    def now(self) -> datetime:
        """The moment, in UTC."""
        return datetime.fromtimestamp(self.now_ms / _MS, UTC)

    @property
    def today(self) -> date:
        """The UTC day, by which models expire."""
        return self.now.date()

    def find(self, model: str) -> Item:
        """Return a model. Raises InputError, which names the nearest ids."""
        try:
            return find(self.shelf, model)
        except UnknownModelError as error:
            raise InputError(str(error)) from error

    def footer(self) -> str:
        """Say what the catalogue is, and how old."""
        return f"{len(self.shelf):,} models {told_by(self.snapshot, self.settings)}"


@asynccontextmanager
async def opened(settings: Settings, models: Iterable[str] = ()) -> AsyncIterator[Source]:
    """Open the catalogue, read anew when it is old; of these models the health is read even if they are not in use.

    Raises as `snapshot_of`, and StoreError.
    """
    async with open_store(settings) as store:
        snapshot = await snapshot_of(store.redis, settings)
        shelf = Shelf(snapshot.models)
        asked = [item.id for item in map(shelf.find, models) if item is not None]
        health = await _health(store.redis, settings.upstream_name, asked)
        yield Source(store.redis, settings, snapshot, shelf, health, await now_ms(store.redis))


async def served_by(source: Source, model: str) -> EndpointsSnapshot:
    """Return who serves a model; when the upstream can't be asked, nobody, and why."""
    try:
        return await endpoints_of(source.redis, source.settings, model)
    except (UpstreamUnavailableError, UpstreamRefusedError) as error:
        return EndpointsSnapshot(stale_reason=str(error))


def told_by(snapshot: Snapshot, settings: Settings) -> str:
    """Say whose list of models it is, how old, and why it could not be read anew."""
    if snapshot.source == "packaged":
        return "in the packaged catalogue (a rehearsal asks nobody)"
    if snapshot.fetched_at_ms is None:
        return f"at {settings.upstream_name}"
    why = f"; the last refresh failed: {snapshot.stale_reason}" if snapshot.stale_reason else ""
    return f"at {settings.upstream_name}, as of {duration(snapshot.age_ms / _MS)} ago{why}"


async def _health(redis: Redis, upstream: str, models: Iterable[str]) -> dict[str, ModelHealth]:
    """Return how models do of which anybody knows: those in use in the last day, those held back, and the asked for."""
    seen = await models_seen(redis, upstream, Window.DAY)
    held = [gauge.model for gauge in await gauges.models(redis, upstream)]
    found = await health_of(redis, upstream, sorted({*seen, *held, *models}))
    return {model: health for model, health in found.items() if health != ModelHealth(model=model)}
