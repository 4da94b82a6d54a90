"""The lines of one batch, page by page: those with a result, in the order they ended, then those still to be done.

results of the stream ──► "r" and the id of the last one ──► the end of the stream
                                                                  └─► open shards ──► "s", shard, index of the last one

A cursor says where a page ended. Results never move, so nothing is told twice; a line that ends while somebody reads
what is still to be done is not told a second time, unless he begins anew.
"""

import time
from collections.abc import Callable, Iterator

import msgspec
from redis.asyncio import Redis

from batchmill.store import batches, keys
from batchmill.store.model import Line, LineState, Result, Terms
from batchmill.store.staging import Shard, ShardPayload

_PAGE = 250  # results read at once
_RESULT = b"r"
_ENDED, _OPEN = "r", "s"


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
    where, _, rest = (cursor or "r-0-0").partition("-")
    ended: tuple[Ended, ...] = ()
    if where == _ENDED:
        found, after = await _ended(redis, batch_id, wanted, _entry(rest), until)
        ended = tuple(found)
        if after is not None:
            return Page(ended, cursor=f"{_ENDED}-{after}")
        rest = "0--1"
    elif where != _OPEN:
        raise BadCursorError(cursor)
    if not wanted.open:
        return Page(ended)
    room = wanted.most - len(ended)
    opened, place = await _open(redis, batch_id, wanted, _place(rest), room, until)
    return Page(ended, tuple(opened), None if place is None else f"{_OPEN}-{place[0]}-{place[1]}")


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
    redis: Redis, batch_id: str, wanted: Wanted, after: str, until: float
) -> tuple[list[Ended], str | None]:
    """Return results, and after which entry to go on; None at the end of the stream."""
    found: list[Ended] = []
    while wanted.states:
        entries = await _entries(redis, batch_id, f"({after}", _PAGE)
        for entry, payload in entries:
            if len(found) == wanted.most:
                return found, after
            after = entry
            if payload is None:
                continue
            head = _decode_head(payload)
            if head.state in wanted.states and wanted.fits(head.custom_id):
                found.append(Ended(entry, _decode_result(payload)))
        if len(entries) < _PAGE:
            break
        if time.monotonic() > until:
            return found, after
    return found, None


async def _open(
    redis: Redis, batch_id: str, wanted: Wanted, after: tuple[int, int], room: int, until: float
) -> tuple[list[Open], tuple[int, int] | None]:
    """Return lines without a result, and after which shard and line to go on; None when there are no more."""
    found: list[Open] = []
    for shard in await _shards(redis, batch_id):
        number = _number(shard)
        if number < after[0]:
            continue
        work = await batches.load(redis, shard.reference, shard.first, shard.last)
        for line in work.lines if work else ():
            if (number, line.index) <= after or not wanted.fits(line.custom_id):
                continue
            if len(found) == room:
                return found, after
            found.append(Open(shard.model, line, work.terms if work else Terms()))
            after = (number, line.index)
        if time.monotonic() > until:
            return found, max(after, (number, shard.last))
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
    parts = list(_numbers(text))
    if len(parts) != 2 or min(parts) < 0:  # noqa: PLR2004 - ms and sequence
        raise BadCursorError(text)
    return f"{parts[0]}-{parts[1]}"


def _place(text: str) -> tuple[int, int]:
    number, _, index = text.partition("-")
    try:
        return int(number), int(index)
    except ValueError as error:
        raise BadCursorError(text) from error


def _numbers(text: str) -> Iterator[int]:
    for part in text.split("-"):
        if not part.isascii() or not part.isdigit() or len(part) > 20:  # noqa: PLR2004 - digits of 64 bits
            raise BadCursorError(text)
        yield int(part)
