"""Why lines of a batch failed, grouped: the same code and message are one cause."""

import asyncio
from typing import Literal

import msgspec
from redis.asyncio import Redis

from batchmill.openrouter.errors import read_error
from batchmill.service.context import Service
from batchmill.store import records
from batchmill.store.intakes import Intake
from batchmill.store.model import BatchStatus, LineState, Result

_MOST_CAUSES = 100
_EXAMPLES = 5
_MOST_READERS = 64  # batches; a few kilobytes each


class Cause(msgspec.Struct, frozen=True):
    """A reason, how many lines have it, and some of them."""

    message: str
    code: str | None
    count: int
    status_code: int | None = None
    custom_ids: tuple[str, ...] = ()
    lines: tuple[int, ...] = ()  # of the input file, from 1: of a batch that never ran


class Causes(msgspec.Struct, frozen=True):
    """The causes, the most frequent first; `failed` lines in all. Past a hundred causes the rest is in `other`."""

    data: tuple[Cause, ...]
    failed: int
    other: int = 0
    object: Literal["list"] = "list"


_Key = tuple[str | None, str, int | None]


class _Tally:
    """Counts causes. Memory does not grow with the lines."""

    def __init__(self) -> None:
        self._counts: dict[_Key, int] = {}
        self._examples: dict[_Key, list[str]] = {}
        self._other = self._failed = 0

    @property
    def failed(self) -> int:
        """How many lines were counted."""
        return self._failed

    def add(self, key: _Key, custom_id: str) -> None:
        self._failed += 1
        if key not in self._counts and len(self._counts) >= _MOST_CAUSES:
            self._other += 1
            return
        self._counts[key] = self._counts.get(key, 0) + 1
        examples = self._examples.setdefault(key, [])
        if len(examples) < _EXAMPLES:
            examples.append(custom_id)

    def causes(self) -> Causes:
        found = [
            Cause(key[1], key[0], count, key[2], tuple(self._examples[key])) for key, count in self._counts.items()
        ]
        found.sort(key=lambda cause: -cause.count)
        return Causes(tuple(found), self._failed, self._other)


class _Reader:
    """The causes of one batch, as far as its results were read; none is read twice."""

    def __init__(self) -> None:
        self._tally = _Tally()
        self._cursor = records.START
        self._alone = asyncio.Lock()

    async def causes(self, redis: Redis, status: BatchStatus) -> Causes:
        """Return them, as of a moment at which the batch had this status."""
        async with self._alone:
            if self._tally.failed < status.failed:
                await self._read(redis, status)
            return self._tally.causes()

    async def _read(self, redis: Redis, status: BatchStatus) -> None:
        async for entry in records.follow(redis, status.id, self._cursor, wait=False):
            if entry.result is None:
                return
            self._cursor = entry.cursor
            if entry.result.state is LineState.FAILED:
                cause = (*why_failed(entry.result), entry.result.status_code)
                self._tally.add(cause, entry.result.custom_id)
                if self._tally.failed == status.failed:
                    return  # what follows succeeded, or came since


class Readers:
    """What one gateway has read of the results of batches whose causes were asked for lately."""

    def __init__(self) -> None:
        self._readers: dict[str, _Reader] = {}

    async def causes(self, redis: Redis, status: BatchStatus) -> Causes:
        """Return the causes of the lines that failed until now."""
        reader = self._readers.pop(status.id, None) or _Reader()
        self._readers[status.id] = reader  # the newest last
        if len(self._readers) > _MOST_READERS:
            del self._readers[next(iter(self._readers))]
        return await reader.causes(redis, status)


async def causes_of_batch(service: Service, status: BatchStatus) -> Causes:
    """Return the causes of the lines that failed until now: this gateway reads each result once, however many ask."""
    return await service.moments.keep("causes", Readers).causes(service.redis, status)


def causes_of_intake(intake: Intake) -> Causes:
    """Return the causes for which a batch never ran; those that its `errors` tell."""
    lines: dict[_Key, list[int]] = {}
    for fault in intake.faults:
        lines.setdefault((fault.code, fault.message, None), []).extend([fault.line] if fault.line else [])
    causes = [
        Cause(message, code, max(1, len(found)), lines=tuple(found[:_EXAMPLES]))
        for (code, message, _), found in lines.items()
    ]
    causes.sort(key=lambda cause: -cause.count)
    return Causes(tuple(causes), sum(cause.count for cause in causes))


def why_failed(result: Result) -> tuple[str | None, str]:
    """Return the code and the message of a line that failed: ours, else what the upstream's answer says."""
    code, message = result.error_code, result.error_message
    if message is not None or result.response is None:
        return code, message or ""
    said = read_error(result.response)
    if said is None:
        return code, f"The upstream answered {result.status_code} with something unreadable."
    return code or said.kind, said.message or f"The upstream answered {result.status_code}."
