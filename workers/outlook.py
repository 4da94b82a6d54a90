"""How the models do that this process may send to: read again each second, and at hand for every choice in between."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping

from redis.asyncio import Redis

from batchmill.routing.health import ModelHealth
from batchmill.store.connection import outlive
from batchmill.store.health import HealthReader
from batchmill.store.statistics import note_candidates

_READ_EVERY = 1.0  # seconds
_NOTE_EVERY = 60.0
_FORGET_AFTER = 3600.0


class Outlook:
    """The health of the watched models. `run()` is its one task; nothing is read while nothing is watched.

    `health` is replaced when anything has changed, and else stays the same object; it never changes in itself. A model
    that is watched is in it within a round trip; one that nobody watched again for an hour is forgotten.
    """

    def __init__(self, redis: Redis, upstream: str) -> None:
        self._redis = redis
        self._upstream = upstream
        self._reader = HealthReader(redis, upstream)
        self._watched: dict[str, float] = {}  # model -> when it was watched last (monotonic)
        self._noted: dict[str, float] = {}  # model -> when the fleet was told last that it is a candidate
        self._news = asyncio.Event()
        self.health: Mapping[str, ModelHealth] = {}

    def watch(self, models: Iterable[str]) -> None:
        """Have these models in `health`; cheap enough to be said with every choice."""
        now = time.monotonic()
        for model in models:
            if model not in self._watched:
                self._news.set()
            self._watched[model] = now

    async def run(self) -> None:
        """Keep `health` fresh for ever, through outages; meanwhile it is what it was."""
        while True:
            if not self._watched:
                await self._news.wait()
            self._news.clear()
            await outlive(self.refresh)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_READ_EVERY):
                    await self._news.wait()

    async def refresh(self) -> None:
        """Read how the watched models do, in one round trip; now and then tell the fleet which they are."""
        now = time.monotonic()
        self._watched = {model: at for model, at in self._watched.items() if now - at < _FORGET_AFTER}
        self._noted = {model: at for model, at in self._noted.items() if now - at < _NOTE_EVERY}
        models = tuple(self._watched)
        news = [model for model in models if model not in self._noted]
        if news:
            await note_candidates(self._redis, self._upstream, news)
            self._noted |= dict.fromkeys(news, now)
        health = await self._reader.read(models) if models else {}
        if health != self.health:
            self.health = health
