"""Ending asyncio tasks for good, and threads that must not be left alone."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

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


async def to_the_end(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call in a thread; when cancelled, end only after the thread has: what it uses must not be closed under it."""
    thread = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    cancelled = False
    while not thread.done():
        try:
            await asyncio.wait([thread])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return thread.result()
