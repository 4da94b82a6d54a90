"""A fleet at work on one batch, until all is done, a budget or the account stands in the way, or we are told to go."""

import asyncio
import signal
import time
from enum import Enum

import msgspec
from redis.exceptions import RedisError

from batchmill.cli.collector import Collector
from batchmill.cli.loop import on_signals
from batchmill.cli.progress import Progress
from batchmill.producer import Batch
from batchmill.store.batches import account_refusal
from batchmill.store.connection import OUTAGE, Store
from batchmill.store.errors import StoreError
from batchmill.workers.fleet import Fleet

_LOOK_EVERY = 0.25  # seconds
_START_UP = 3.0
_FULL = 2.0  # seconds that nothing but a budget stood in the way


class Ending(Enum):
    """Why a run ended."""

    FINISHED = "finished"
    REFUSED = "refused"
    BUDGET = "budget"
    DETACHED = "detached"


class Ended(msgspec.Struct, frozen=True):
    """How a run ended; `reason` in the upstream's words for a refused account, in ours for a full budget."""

    ending: Ending
    reason: str | None = None


class _Interrupt:
    """First signal: drain. Second: hurry. Third: now, whatever is lost."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._steps = iter((signal.SIGTERM,))
        self.heard = asyncio.Event()

    def hear(self) -> None:
        if not self.heard.is_set():
            self.heard.set()
        else:
            self._fleet.signal(next(self._steps, signal.SIGKILL))


async def attend(batch: Batch, fleet: Fleet, store: Store, collector: Collector, progress: Progress) -> Ended:
    """Work on the batch until something ends it; when we return, the fleet is down and the results are collected."""
    interrupt = _Interrupt(fleet)
    with on_signals(interrupt.hear):
        async with fleet:
            collecting = asyncio.create_task(collector.collect())
            watching = asyncio.create_task(_until_stuck(batch, store, progress))
            leaving = asyncio.create_task(interrupt.heard.wait())
            failing = asyncio.create_task(fleet.wait())
            tasks = (collecting, watching, leaving, failing)
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if failing.done():
                    failing.result()
                ended = _ended(collecting, watching)
                if ended.ending is Ending.DETACHED:
                    progress.say("stopping when what is in the air has landed; Ctrl-C again gives it up")
                await fleet.stop()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        await collector.catch_up()
    if (await batch.status()).state.terminal:
        return Ended(Ending.FINISHED)
    return ended


def _ended(collecting: "asyncio.Task[None]", watching: "asyncio.Task[Ended]") -> Ended:
    """Say which came first; raises what a task raised."""
    if collecting.done():
        collecting.result()
        return Ended(Ending.FINISHED)
    if watching.done():
        return watching.result()
    return Ended(Ending.DETACHED)


async def _until_stuck(batch: Batch, store: Store, progress: Progress) -> Ended:
    """Show progress until the upstream refuses the account, or only a budget stands in the way; say which."""
    started = time.monotonic()
    full_since: float | None = None
    while True:
        try:
            status = await batch.status()
            if time.monotonic() - started < _START_UP:
                status = msgspec.structs.replace(status, blocked_on=None)  # our workers are on their way
            progress.show(status)
            if status.pending and not status.running:
                reason = await account_refusal(store.redis, status.upstream)
                if reason:
                    return Ended(Ending.REFUSED, reason)
            full_since = (full_since or time.monotonic()) if set(status.blocked_by) == {"budget"} else None
            if full_since and time.monotonic() - full_since > _FULL:
                return Ended(Ending.BUDGET, status.blocked_on)
        except (*OUTAGE, RedisError, StoreError):
            pass  # the workers wait for Redis, too
        await asyncio.sleep(_LOOK_EVERY)
