"""What the process's calls say about models and their providers: gathered in memory, counted in Redis once a second.

It is no money: what a killed process had not counted yet is lost, and so is what an outage of Redis leaves older than
a few minutes; a flush whose reply got lost may be counted twice.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from batchmill.openrouter.outcomes import Answer, Fault, Outcome
from batchmill.routing.health import Tally, tallied
from batchmill.store import statistics
from batchmill.store.clock import now_ms
from batchmill.store.connection import OUTAGE, outlive
from batchmill.store.statistics import SLOT, Counted
from batchmill.workers.tasks import end

log = structlog.get_logger()

FLUSH_EVERY: Final = 1.0
"""Seconds between two flushes, and until the first."""

MOST_SLOTS: Final = 18
"""Slots that are kept while Redis is away: three minutes of them."""

_MOST_PROVIDERS = 64  # of a model in a slot; what an upstream makes up beyond them counts for nobody in particular
_LONGEST_NAME = 64
_SLOT_MS = SLOT * 1000
_THOUSAND = 1000


class Observer:
    """Gathers how calls ended; `run()` is its one task, and `close()` its end."""

    def __init__(self, redis: Redis, upstream: str) -> None:
        self._redis = redis
        self._upstream = upstream
        self._ahead_ms = (time.time() - time.monotonic()) * _THOUSAND  # until the clock of Redis is known
        self._gathered: dict[tuple[int, str], Counted] = {}  # by slot and model
        self._flight: asyncio.Task[None] | None = None  # the flush that is on its way

    def saw(self, model: str, outcome: Outcome) -> None:
        """Note how a call to a model ended; what is the caller's or the account's fault says nothing about it."""
        if not isinstance(outcome, Answer) and outcome.fault not in (Fault.PROVIDER, Fault.LIMIT):
            return
        tally = self._tally(model, outcome.provider or "")
        if isinstance(outcome, Answer):
            tally.answered(outcome.latency_ms, outcome.first_token_ms, outcome.usage.completion_tokens)
        elif outcome.fault is Fault.PROVIDER:
            tally.failed()
        else:
            tally.refused()

    async def run(self) -> None:
        """Count for ever, once a second, through outages."""
        self._clock(await outlive(lambda: now_ms(self._redis)))
        away = False
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            try:
                await self.flush()
                away = False
            except (*OUTAGE, RedisError) as error:  # it is no money: nothing is worth the process's end
                if not away:
                    log.warning("statistics.wait", error=repr(error))
                away = True

    async def flush(self) -> None:
        """Count what was gathered. Raises what Redis says; then it is kept for the next time, unless it is too old.

        Who is cancelled here leaves the flush on its way: given up half-way, nobody would know what was counted.
        """
        if self._flight is None:
            self._flight = asyncio.create_task(self._count())
            self._flight.add_done_callback(self._landed)
        await asyncio.shield(self._flight)

    async def close(self, patience: float) -> None:
        """Count the last that was gathered, if Redis takes it within so many seconds."""
        with contextlib.suppress(*OUTAGE, RedisError, TimeoutError):
            async with asyncio.timeout(patience):
                if self._flight is not None:
                    await self.flush()  # the one on its way
                await self.flush()
        if self._flight is not None:
            await end([self._flight])

    async def _count(self) -> None:
        if not self._gathered:
            return
        gathered, self._gathered = tuple(self._gathered.values()), {}
        try:
            flushed = await statistics.count(self._redis, self._upstream, gathered)
        except (*OUTAGE, RedisError):
            self._put_back(gathered)
            raise
        self._clock(flushed.now)
        if flushed.why is not None:
            self._put_back(flushed.refused)
            raise flushed.why

    def _landed(self, flight: "asyncio.Task[None]") -> None:
        self._flight = None
        if not flight.cancelled():
            flight.exception()  # who waited for it knows; when nobody does any more, it is no news

    def _tally(self, model: str, provider: str) -> Tally:
        now = int(time.monotonic() * _THOUSAND + self._ahead_ms)
        slot = now // _SLOT_MS
        counted = self._gathered.get((slot, model))
        if counted is None:
            counted = self._gathered[slot, model] = Counted(model, slot)
            self._forget_old(slot)
        counted.at = now
        tally = counted.providers.get(provider)
        if tally is None:
            name = provider[:_LONGEST_NAME] if len(counted.providers) < _MOST_PROVIDERS else ""
            tally = counted.providers.setdefault(name, Tally())
        return tally

    def _put_back(self, gathered: Iterable[Counted]) -> None:
        for before in gathered:
            place = before.slot, before.model
            since = self._gathered.get(place)
            if since is not None:
                for provider, tally in since.providers.items():
                    earlier = before.providers.get(provider)
                    before.providers[provider] = tally if earlier is None else tallied((earlier, tally))
                before.at = since.at
            self._gathered[place] = before

    def _forget_old(self, slot: int) -> None:
        oldest = slot - MOST_SLOTS
        for place in [place for place in self._gathered if place[0] <= oldest]:
            del self._gathered[place]

    def _clock(self, now: int) -> None:
        self._ahead_ms = now - time.monotonic() * _THOUSAND
