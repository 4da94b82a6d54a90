"""Looks at Redis that serve everybody who asks within a second, so that many watchers cost what one does."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

_FRESH = 1.0  # seconds
_REST = 4.0  # times as long as a look took: so looking never takes more than a fifth of anybody's time

T = TypeVar("T")


class Moments:
    """What one gateway found a moment ago, and what it keeps to look again cheaply."""

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[float, asyncio.Task[Any]]] = {}
        self._kept: dict[Hashable, Any] = {}

    def keep(self, name: Hashable, make: Callable[[], T]) -> T:
        """Return what was made under a name, the same each time."""
        if name not in self._kept:
            self._kept[name] = make()
        kept: T = self._kept[name]
        return kept

    def forget(self) -> None:
        """Have everything looked at anew: something was changed here, and who changed it will want to see that."""
        self._found = {}

    async def get(self, name: Hashable, look: Callable[[], Awaitable[T]], fresh: float = _FRESH) -> T:
        """Return what a look found a moment ago, or look; who asks meanwhile waits for the same look, and its error."""
        now = time.monotonic()
        until, task = self._found.get(name, (0.0, None))
        if task is None or now >= until:
            self._found = {other: found for other, found in self._found.items() if found[0] > now}
            task = asyncio.create_task(self._look(name, look, fresh))
            task.add_done_callback(_heard)
            self._found[name] = (float("inf"), task)
        found: T = await asyncio.shield(task)
        return found

    async def _look(self, name: Hashable, look: Callable[[], Awaitable[T]], fresh: float) -> T:
        began, task = time.monotonic(), asyncio.current_task()
        try:
            found = await look()
        except BaseException:
            if self._is_last(name, task):
                del self._found[name]
            raise
        ended = time.monotonic()
        if task is not None and self._is_last(name, task):
            self._found[name] = (ended + max(fresh, _REST * (ended - began)), task)
        return found

    def _is_last(self, name: Hashable, task: asyncio.Task[Any] | None) -> bool:
        """Whether nobody forgot the look, or looked anew, meanwhile."""
        return name in self._found and self._found[name][1] is task


def _heard(task: asyncio.Task[Any]) -> None:
    """Take note of an error even if everybody who waited for it has left."""
    if not task.cancelled():
        task.exception()
