"""A batch's output and error file before they are in storage: rendered from its results, growing while it runs.

A line's bytes and its place never change once it is there, so a place found once is good for ever.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import NamedTuple

from redis.asyncio import Redis

from batchmill.producer.render import openai_line
from batchmill.store import records
from batchmill.store.model import BatchStatus, Result

_APART = 200  # lines between two places that are remembered
_FILES = 512  # whose places are remembered


class Place(NamedTuple):
    """A place in a growing file: how many lines and bytes lie before it, and the cursor of the results."""

    lines: int = 0
    bytes: int = 0
    cursor: str = records.START

    @property
    def position(self) -> tuple[int, ...]:
        """Where in the results it lies, to compare."""
        return tuple(int(part) for part in self.cursor.split("-"))


class _Places:
    """Places of the files that were read lately."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, list[Place]] = OrderedDict()

    def before(self, name: str, *, lines: int | None = None, size: int | None = None) -> Place:
        """Return the last known place with at most so many lines, or bytes, before it; of neither, the last one."""
        known = self._of.get(name, [])
        count = len(known)
        if lines is not None:
            count = bisect_right(known, lines, key=lambda place: place.lines)
        elif size is not None:
            count = bisect_right(known, size, key=lambda place: place.bytes)
        return known[count - 1] if count else Place()

    def note(self, name: str, place: Place) -> None:
        """Remember a place that lies behind those known; the last one only until another is near."""
        known = self._of.setdefault(name, [])
        self._of.move_to_end(name)
        if not known or place.position > known[-1].position:
            begin = known[-2].lines if len(known) > 1 else 0
            if known and known[-1].lines < begin + _APART:
                known.pop()
            known.append(place)
        if len(self._of) > _FILES:
            self._of.popitem(last=False)


_places = _Places()


class CutError(Exception):
    """The results are gone while they were read."""


def lines_of(status: BatchStatus, *, errors: bool) -> int:
    """Return how many lines a batch's output file, or its error file, has by now."""
    return status.failed + status.cancelled + status.expired if errors else status.succeeded


class Growing:
    """One of a batch's two files."""

    def __init__(self, redis: Redis, batch_id: str, *, errors: bool) -> None:
        self._redis = redis
        self._batch_id = batch_id
        self._errors = errors
        self._name = f"{batch_id}{'!' if errors else ''}"

    async def measure(self, lines: int) -> Place:
        """Return the place behind so many lines, or behind those that there are."""
        place = _places.before(self._name, lines=lines)
        async for further, _ in self._walk(place, lines):
            place = further
        return place

    async def from_line(self, first: int, lines: int) -> AsyncIterator[bytes]:
        """Yield what lies behind the first so many lines, up to a count of lines in all. Raises CutError."""
        begin = place = _places.before(self._name, lines=first)
        async for place, parts in self._walk(begin, lines):
            skipped = max(0, first - (place.lines - len(parts)))
            if part := b"".join(parts[skipped:]):
                yield part
        if place.lines < lines:
            raise CutError

    async def from_byte(self, first: int, end: Place) -> AsyncIterator[bytes]:
        """Yield what lies between a byte and a place that was measured. Raises CutError."""
        begin = place = _places.before(self._name, size=first)
        async for place, parts in self._walk(begin, end.lines):
            part = b"".join(parts)
            if part := part[max(0, first - (place.bytes - len(part))) :]:
                yield part
        if place.lines < end.lines:
            raise CutError

    async def _walk(self, place: Place, lines: int) -> AsyncIterator[tuple[Place, list[bytes]]]:
        """Yield the lines from a place on by page, each page with the place behind it."""
        while place.lines < lines:
            entries = await records.read(self._redis, self._batch_id, place.cursor)
            if not entries:
                return
            results = [(entry.cursor, entry.result) for entry in entries if self._belongs(entry.result)]
            results = results[: lines - place.lines]
            parts = await asyncio.to_thread(self._rendered, [result for _, result in results])
            whole = place.lines + len(parts) == lines
            cursor = results[-1][0] if whole else entries[-1].cursor
            place = Place(place.lines + len(parts), place.bytes + sum(map(len, parts)), cursor)
            _places.note(self._name, place)
            yield place, parts

    def _belongs(self, result: Result | None) -> bool:
        return result is not None and result.succeeded is not self._errors

    def _rendered(self, results: list[Result | None]) -> list[bytes]:
        return [openai_line(self._batch_id, result) for result in results if result is not None]
