"""The lines of one batch, page by page: those with a result, in the order they ended, then those still to be done.

results ("r") ──► open shards ("s") ──► what ended meanwhile ("e")

A cursor says where a page ended: which of these, the last entry of the results, of open shards also shard and line.
Results never move, so no result is told twice; and no line is left out: one that was told as still to be done, and
ended before the last page was read, comes again with its result.
"""

import re
import time
from collections.abc import Callable
from enum import StrEnum

import msgspec
from redis.asyncio import Redis

from batchmill.store import batches, keys
from batchmill.store.model import Line, LineState, Result, Terms
from batchmill.store.staging import Shard, ShardPayload

_PAGE = 250  # results read at once
_RESULT = b"r"
_NUMBER = re.compile(r"[0-9]{1,19}")
_FIRST = (0, -1)


class _Phase(StrEnum):
    """What a page ended in."""

    ENDED = "r"
    OPEN = "s"
    SINCE = "e"


_PHASES = frozenset(_Phase)


class _Place(msgspec.Struct, frozen=True):
    """Where a page begins: after an entry of the results, and after a line of a shard."""

    phase: _Phase = _Phase.ENDED
    entry: str = "0-0"
    shard: tuple[int, int] = _FIRST


class Head(msgspec.Struct, array_like=True):
    """The front of a Result: what a line is looked for by, without decoding the rest."""

    index: int
    custom_id: str
    model: str
    state: LineState


class Ended(msgspec.Struct, frozen=True):
    """A result, and the id of its entry, by which it is found again at once."""

    entry: str
    result: Result


class Open(msgspec.Struct, frozen=True):
    """A line without a result, its lane, and what goes for it."""

    lane: str
    line: Line
    terms: Terms


class Page(msgspec.Struct, frozen=True):
    """What was found, and the cursor after it: None when there is no more."""

    ended: tuple[Ended, ...] = ()
    open: tuple[Open, ...] = ()
    cursor: str | None = None


_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_result = msgspec.msgpack.Decoder(Result).decode
_decode_payload = msgspec.msgpack.Decoder(ShardPayload).decode


class Wanted(msgspec.Struct, frozen=True):
    """Which lines are looked for: the ended ones of these states, the open ones, and only those with this in their id.

    No more than `most`, and not for longer than about `seconds`.
    """

    states: frozenset[LineState] = frozenset(LineState)
    open: bool = True
    search: str = ""
    most: int = 50
    seconds: float = 0.5

    def fits(self, custom_id: str) -> bool:
        """Whether a line has what is looked for in its id."""
        return self.search.casefold() in custom_id.casefold()


class BadCursorError(ValueError):
    """Nobody was given that cursor."""


async def page(redis: Redis, batch_id: str, wanted: Wanted, cursor: str | None = None) -> Page:
    """Return the lines after a cursor. Raises BadCursorError."""
    until = time.monotonic() + wanted.seconds
    place = _place_of(cursor)
    ended: list[Ended] = []
    opened: list[Open] = []
    while True:
        room = wanted.most - len(ended) - len(opened)
        if place.phase is _Phase.OPEN:
            found, after = await _open(redis, batch_id, wanted, place.shard, room, until)
            opened += found
            if after is not None:
                return Page(tuple(ended), tuple(opened), _cursor(_Phase.OPEN, place.entry, after))
            place = _Place(_Phase.SINCE, place.entry)
            continue
        more, entry, over = await _ended(redis, batch_id, wanted, room, place.entry, until)
        ended += more
        if not over:
            return Page(tuple(ended), tuple(opened), _cursor(place.phase, entry))
        if place.phase is _Phase.SINCE or not wanted.open:
            return Page(tuple(ended), tuple(opened))
        place = _Place(_Phase.OPEN, entry)


async def result_at(redis: Redis, batch_id: str, entry: str) -> Result | None:
    """Return the result of an entry, None when there is none. Raises BadCursorError."""
    entry = _entry(entry)
    found = await redis.execute_command("XRANGE", keys.results(batch_id), entry, entry)
    payload = found[0][1].get(_RESULT) if found else None
    return None if payload is None else _decode_result(payload)


async def result_of(redis: Redis, batch_id: str, custom_id: str) -> Ended | None:
    """Return the result of a line, looked for from the first one on; None while it has none."""
    after = "-"
    while True:
        entries = await _entries(redis, batch_id, after, _PAGE)
        for entry, payload in entries:
            if payload is not None and _decode_head(payload).custom_id == custom_id:
                return Ended(entry, _decode_result(payload))
        if len(entries) < _PAGE:
            return None
        after = f"({entries[-1][0]}"


async def open_line(redis: Redis, batch_id: str, wanted: Callable[[Line], bool]) -> Open | None:
    """Return the first line of the unfinished shards that is wanted, though it may have a result; None when none is."""
    for shard in await _shards(redis, batch_id):
        payload = await redis.execute_command("GET", keys.shard(shard.reference))
        stored = _decode_payload(payload) if payload else None
        for line in stored.lines if stored else ():
            if stored and wanted(line):
                return Open(shard.model, line, stored.terms)
    return None


async def _ended(
    redis: Redis, batch_id: str, wanted: Wanted, room: int, after: str, until: float
) -> tuple[list[Ended], str, bool]:
    """Return results, the last entry that was looked at, and whether there are no more after it."""
    found: list[Ended] = []
    while True:
        entries = await _entries(redis, batch_id, f"({after}", _PAGE if wanted.states else 1)
        for entry, payload in entries:
            head = None if payload is None else _decode_head(payload)
            if head and payload and head.state in wanted.states and wanted.fits(head.custom_id):
                if len(found) == room:
                    return found, after, False
                found.append(Ended(entry, _decode_result(payload)))
            after = entry
        if len(entries) < _PAGE or not wanted.states:
            return found, after, True
        if time.monotonic() > until:
            return found, after, False


async def _open(
    redis: Redis, batch_id: str, wanted: Wanted, after: tuple[int, int], room: int, until: float
) -> tuple[list[Open], tuple[int, int] | None]:
    """Return lines without a result, and after which shard and line to go on; None when there are no more."""
    found: list[Open] = []
    left = [shard for shard in await _shards(redis, batch_id) if _number(shard) >= after[0]]
    for place, shard in enumerate(left, 1):
        number = _number(shard)
        work = await batches.load(redis, shard.reference, shard.first, shard.last)
        for line in work.lines if work else ():
            if (number, line.index) <= after or not wanted.fits(line.custom_id):
                continue
            if len(found) == room:
                return found, after
            found.append(Open(shard.model, line, work.terms if work else Terms()))
            after = (number, line.index)
        after = (number + 1, -1)
        if time.monotonic() > until and place < len(left):
            return found, after
    return found, None


async def _shards(redis: Redis, batch_id: str) -> list[Shard]:
    return sorted(await batches.open_shards(redis, batch_id), key=_number)


def _number(shard: Shard) -> int:
    return int(shard.reference.split(".")[1])


async def _entries(redis: Redis, batch_id: str, first: str, count: int) -> list[tuple[str, bytes | None]]:
    found = await redis.execute_command("XRANGE", keys.results(batch_id), first, "+", "COUNT", count)
    return [(entry.decode(), fields.get(_RESULT)) for entry, fields in found]


def _entry(text: str) -> str:
    """Return the id of an entry of a stream, if it is one."""
    return "-".join(map(str, _numbers(text, 2)))


def _place_of(cursor: str | None) -> _Place:
    if cursor is None:
        return _Place()
    phase, _, rest = cursor.partition("-")
    if phase not in _PHASES:
        raise BadCursorError(cursor)
    ms, sequence, *shard = _numbers(rest, 4 if phase == _Phase.OPEN else 2)
    return _Place(_Phase(phase), f"{ms}-{sequence}", (shard[0], shard[1] - 1) if shard else _FIRST)


def _cursor(phase: _Phase, entry: str, shard: tuple[int, int] | None = None) -> str:
    return f"{phase}-{entry}" + ("" if shard is None else f"-{shard[0]}-{shard[1] + 1}")  # the next index is never -1


def _numbers(text: str, count: int) -> list[int]:
    parts = text.split("-")
    if len(parts) != count or not all(_NUMBER.fullmatch(part) for part in parts):
        raise BadCursorError(text)
    return [int(part) for part in parts]
