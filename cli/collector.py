"""Takes a batch's results from Redis into files and sums, as they land."""

import asyncio

from redis.asyncio import Redis

from batchmill.cli.result_files import ResultFiles
from batchmill.cli.tally import Tally
from batchmill.store import records
from batchmill.store.connection import OUTAGE

_PAUSE = 0.2  # seconds, while Redis is away


class Collector:
    """Reads a batch's results from the first one on. Raises OutputError when they can't be written."""

    def __init__(self, redis: Redis, batch_id: str, files: ResultFiles) -> None:
        self.tally = Tally()
        self._redis = redis
        self._batch_id = batch_id
        self._files = files
        self._cursor = records.START

    async def collect(self) -> None:
        """Take results until every line has one, through outages of Redis. May be cancelled and called again."""
        while True:
            try:
                await self._follow(wait=True)
            except OUTAGE:
                await asyncio.sleep(_PAUSE)
            else:
                return

    async def catch_up(self) -> None:
        """Take the results that there are."""
        await self._follow(wait=False)

    async def _follow(self, *, wait: bool) -> None:
        async for entry in records.follow(self._redis, self._batch_id, self._cursor, wait=wait):
            self._cursor = entry.cursor
            if entry.result is not None:
                self._files.put(entry.result)
                self.tally.add(entry.result)
