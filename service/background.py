"""What a gateway does beside answering: each task lives as long as the gateway, and an error does not end it.

Every task may run in any number of gateways at once: what only one may do is leased in Redis.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog

from batchmill.service.context import Service

log = structlog.get_logger()

Task = Callable[[Service], Awaitable[None]]

_PAUSE = 1.0  # seconds between an error and the next try


@contextlib.asynccontextmanager
async def running(service: Service, tasks: Sequence[Task]) -> AsyncIterator[None]:
    """Run the tasks as long as the block lasts."""
    started = [asyncio.create_task(_for_ever(task, service), name=task.__name__) for task in tasks]
    try:
        yield
    finally:
        for task in started:
            task.cancel()
        await asyncio.gather(*started, return_exceptions=True)


async def _for_ever(task: Task, service: Service) -> None:
    while True:
        try:
            await task(service)
        except Exception as error:  # noqa: BLE001 - the next try may find Redis, or the storage, back
            log.warning("service.task_failed", task=task.__name__, error=str(error))
        await asyncio.sleep(_PAUSE)
