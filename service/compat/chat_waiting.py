"""How long a chat completion waits to begin, and who still wants it.

handed over ──► in the air ──► its result                     however long it takes
     ├─ the client is gone ──────────► cancelled, unless it tries again within a moment
     └─ not begun within its patience ► cancelled, and the error says what it waited for

Several requests may wait for one completion: the first, and retries of it. Only the last that leaves cancels.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from typing import TypeVar

import structlog
from redis.asyncio import Redis

from batchmill.config.errors import BatchmillError
from batchmill.producer import Batch
from batchmill.service import problems
from batchmill.service.compat.chat_answers import blocked, headers_of
from batchmill.service.operations import Call
from batchmill.service.problems import ApiError
from batchmill.store import chats
from batchmill.store.errors import StoreError
from batchmill.store.model import BatchState

log = structlog.get_logger()

T = TypeVar("T")

_LOOK = 1.0  # seconds between two looks at whether it goes on
_LEAST = 2.0  # seconds; sooner, a line that is on its way would pass for one that waits
_RETRY = 3.0  # seconds in which a client whose connection broke has tried again
_ending: set[asyncio.Task[None]] = set()


def patience_of(call: Call[None, None]) -> float:
    """Return how many seconds it may take to begin: what the header `x-wait` says, at most `chat_timeout`."""
    most = call.service.settings.service.chat_timeout
    said = call.request.headers.get("x-wait")
    if said is None:
        return most
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise problems.invalid("The header x-wait is a number of seconds, 0 or more.", "x-wait", "invalid_value")
    return min(seconds, most)


class Wait:
    """One completion that somebody waits for."""

    def __init__(self, call: Call[None, None], batch: Batch, patience: float) -> None:
        self._request = call.request
        self._redis = call.service.redis
        self._gone = 0.0  # since when the client is
        self._batch = batch
        self._began = time.monotonic()
        self._patience = max(patience, _LEAST)

    async def for_(self, awaited: Awaitable[T]) -> T:
        """Return what comes. Raises ApiError when the client is gone, or it did not begin in time: it is cancelled."""
        task = asyncio.ensure_future(awaited)
        try:
            while not (await asyncio.wait([task], timeout=_LOOK))[0]:
                with contextlib.suppress(StoreError):  # an outage: what may be paid for is not given up
                    await self._look()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _look(self) -> None:
        if await self._request.is_disconnected():
            self._gone = self._gone or time.monotonic()
            if time.monotonic() - self._gone < _RETRY:
                return
            if await self._leave():
                await self._batch.cancel()
            raise ApiError(408, "The client went away.", headers=headers_of(self._batch.id))
        waited = time.monotonic() - self._began
        if waited < self._patience:
            return
        status = await self._batch.status()
        if status.running or status.state.terminal:
            return
        if not await self._leave() or await self._batch.cancel() is not BatchState.COMPLETED:
            raise blocked(status, waited)

    async def _leave(self) -> bool:
        return await chats.leave(self._redis, self._batch.id, self._request.state.request_id)


def end_soon(redis: Redis, batch: Batch, request: str, *, cancel: bool) -> None:
    """Let a batch go, cancelled if no other request wants its answer; for whoever is being cancelled itself."""

    async def end() -> None:
        try:
            if cancel and await chats.leave(redis, batch.id, request):
                await batch.cancel()
            await chats.let_expire(redis, batch.id)
        except BatchmillError as error:
            log.warning("chat.not_cancelled", batch=batch.id, error=str(error))

    task = asyncio.create_task(end())
    _ending.add(task)
    task.add_done_callback(_ending.discard)
