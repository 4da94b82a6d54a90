"""Ending asyncio tasks for good."""

import asyncio
from collections.abc import Iterable
from typing import Any

_CANCEL_AGAIN = 0.5  # seconds


async def end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks until they are gone: a library below may swallow a cancellation. What they raise is dropped."""
    pending = set(tasks)
    ended: set[asyncio.Task[Any]] = set()
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN)
        ended |= done
    await asyncio.gather(*ended, return_exceptions=True)
