"""Waiting for what other processes or tasks do: by looking, never by guessing how long it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable

_LOOK_EVERY = 0.01
_PATIENCE = 15.0  # seconds; only a failing test waits so long


async def wait_until(
    predicate: Callable[[], bool | Awaitable[bool]], what: str = "it", *, patience: float = _PATIENCE
) -> None:
    """Return as soon as the predicate is true; fail when it never is."""
    deadline = time.monotonic() + patience
    while True:
        answer = predicate()
        if answer if isinstance(answer, bool) else await answer:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen")
        await asyncio.sleep(_LOOK_EVERY)
