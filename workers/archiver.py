"""Copies usage records to the archive of this machine, in the background.

Every machine whose settings name an archive keeps a whole copy; of its processes, one writes at a time. A look that
finds records older than `[archive] interval` copies all there are, in steps of bounded memory.
"""

import asyncio
from pathlib import Path

import structlog
from redis.asyncio import Redis

from batchmill.archive.errors import ArchiveError
from batchmill.archive.place import locked, open_shelf, place_of
from batchmill.archive.shelf import Origin, Shelf
from batchmill.config.settings import Settings
from batchmill.store import usage_log
from batchmill.store.clock import now_ms
from batchmill.store.connection import outlive
from batchmill.store.usage_log import Chunk
from batchmill.workers.tasks import to_the_end

log = structlog.get_logger()

_EVERY = 5.0  # seconds
_MOST = 20_000  # records in memory at once, about


class Archiver:
    """The way from the ledger to the archive. `look()` is safe to call often: it copies only when that is due."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._upstream = settings.upstream_name
        self._said = ""  # the trouble that was told last

    async def run(self) -> None:
        """Copy for ever. Trouble with the disk is told, and tried again: it must not end a worker."""
        while True:
            await asyncio.sleep(_EVERY)
            await outlive(self._try)

    async def look(self, *, now: bool = False) -> int:
        """Copy what is due, or with `now` all there is; return how many records came. Raises ArchiveError."""
        path = place_of(self._settings)
        if path is None:
            return 0
        async with locked(path, wait=now) as ours:
            return await self._copy(path, now=now) if ours else 0

    async def _try(self) -> None:
        try:
            await self.look()
            self._said = ""
        except ArchiveError as error:
            if str(error) != self._said:
                log.error("archive.fails", error=str(error))
            self._said = str(error)

    async def _copy(self, path: Path, *, now: bool) -> int:
        shelf: Shelf | None = None

        def opened() -> None:
            nonlocal shelf
            shelf = open_shelf(self._settings)

        try:
            await to_the_end(opened)
            if shelf is None:
                return 0
            origin = Origin(self._upstream, await usage_log.books(self._redis, self._upstream))
            cursor = await to_the_end(shelf.cursor, origin)
            if not now and not await self._due(cursor):
                return 0
            added = await self._copy_after(shelf, origin, cursor)
        finally:
            if shelf is not None:
                await to_the_end(shelf.close)
        if added:
            log.info("archive.grew", records=added, path=str(path))
        return added

    async def _due(self, cursor: str) -> bool:
        waiting = await usage_log.oldest(self._redis, self._upstream, cursor)
        if waiting is None:
            return False
        return await now_ms(self._redis) - waiting >= self._settings.archive.interval * 1000

    async def _copy_after(self, shelf: Shelf, origin: Origin, cursor: str) -> int:
        added = held = 0
        page: list[Chunk] = []
        async for chunk in usage_log.chunks(self._redis, self._upstream, cursor):
            page.append(chunk)
            held += len(chunk.records)
            if held >= _MOST:
                added += await to_the_end(shelf.append, origin, page)
                page, held = [], 0
        return added + await to_the_end(shelf.append, origin, page)
