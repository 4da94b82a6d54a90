"""Live tokens as a caller sees them: events of one line, from its first words to its result.

    Started ──► Text ──► Text ──► ... ──► Ended
       ▲         │
       └── Restarted: forget what came; the line is tried again

What the texts since the last Started or Restarted say together is what the result says: when tokens were lost, or have
expired, the whole text follows once more before Ended.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import msgspec
from redis.asyncio import Redis

from batchmill.openrouter.wire import UNREADABLE
from batchmill.store import batches, live
from batchmill.store.connection import OUTAGE
from batchmill.store.errors import UnknownBatchError, UnknownLineError
from batchmill.store.model import Result
from batchmill.store.records import START


class Started(msgspec.Struct, frozen=True, tag_field="event", tag="started"):
    """A model was asked; `attempt` counts the line's calls from 1."""

    attempt: int
    model: str


class Text(msgspec.Struct, frozen=True, tag_field="event", tag="text"):
    """What came: the text of the first choice, "" for a chunk with none, and the chunk's JSON as it came.

    `chunk` is None for the text of a result whose tokens could not all be seen.
    """

    text: str
    chunk: msgspec.Raw | None = None


class Gap(msgspec.Struct, frozen=True, tag_field="event", tag="gap"):
    """So many chunks could not be seen; the whole text comes at the end."""

    chunks: int


class Restarted(msgspec.Struct, frozen=True, tag_field="event", tag="restarted"):
    """Forget the text that came, for it begins anew. `why` is how the call ended, None when nobody could tell."""

    why: str | None = None


class Ended(msgspec.Struct, frozen=True, tag_field="event", tag="ended"):
    """The line has its result, with what it used and cost. The last event."""

    result: Result


Event = Started | Text | Gap | Restarted | Ended


def asking(line: Mapping[str, Any] | bytes | str) -> Mapping[str, Any] | bytes | str:
    """Return a line, in any of its forms, that asks for live tokens; one that can't be read as it is."""
    try:
        members = line if isinstance(line, Mapping) else _decode_members(line)
        body = members.get("body")
        if isinstance(body, msgspec.Raw):
            body = _decode_members(body)
    except UNREADABLE:
        return line  # whoever takes it in says what is wrong
    if isinstance(body, Mapping):
        return {**members, "body": {**body, "stream_to": True}}
    return {**members, "stream_to": True}


async def events(redis: Redis, batch_id: str, custom_id: str) -> AsyncGenerator[Event, None]:
    """Yield what comes of a line until it has its result, over outages of the server.

    Raises UnknownLineError for a line without live tokens, UnknownBatchError when the batch has expired.
    """
    index = await live.index_of(redis, batch_id, custom_id)
    if index is None:
        if not await batches.exists(redis, batch_id):
            raise UnknownBatchError(batch_id)
        raise UnknownLineError(batch_id, custom_id)
    watch = _Watch()
    cursor = START
    while True:
        try:
            heard = await live.listen(redis, batch_id, index, cursor, ended=cursor if watch.over else None)
            result = heard.result
            if result is None and not heard.said:
                result = await _looked_up(redis, batch_id, index)
        except OUTAGE:
            continue
        cursor = heard.cursor
        for said in heard.said:
            for event in watch.hear(said):
                yield event
        if result is not None:
            for event in watch.close(result):
                yield event
            return


async def _looked_up(redis: Redis, batch_id: str, index: int) -> Result | None:
    """Return the result of a line that has been silent for a while."""
    result = await live.result_of(redis, batch_id, index)
    if result is None and not await batches.exists(redis, batch_id):
        raise UnknownBatchError(batch_id)
    return result


class _Watch:
    """What was said of a line so far: turns entries into events. Pure."""

    def __init__(self) -> None:
        self.over = False  # the call has ended; the result comes, or another call
        self._call: str | None = None
        self._ending: str | None = None
        self._next = 0  # number of the chunk that is to come
        self._text: list[str] = []

    def hear(self, said: live.Said) -> Iterator[Event]:
        """Yield what an entry means; nothing, when it comes twice or is of a call that another one has replaced."""
        if isinstance(said, live.Start):
            yield from self._start(said)
        elif said.call == self._call:
            yield from self._chunks(said) if isinstance(said, live.Chunks) else self._end(said)

    def close(self, result: Result) -> Iterator[Event]:
        """Yield the whole text if what came is another one, and the end."""
        content = result.content
        if result.succeeded and content is not None and content != "".join(self._text):
            if self._text:
                yield Restarted()
            yield Text(content)
        yield Ended(result)

    def _start(self, said: live.Start) -> Iterator[Event]:
        if said.call == self._call:
            return
        if self._call is not None:
            yield Restarted(self._ending)
        self._call, self._ending, self._next, self._text, self.over = said.call, None, 0, [], False
        yield Started(said.attempt, said.model)

    def _chunks(self, said: live.Chunks) -> Iterator[Event]:
        yield from self._gap(said.first)
        for chunk in said.chunks[self._next - said.first :]:
            text = _text_of(chunk)
            if text:
                self._text.append(text)
            yield Text(text, msgspec.Raw(chunk))
        self._next = max(self._next, said.first + len(said.chunks))

    def _end(self, said: live.End) -> Iterator[Event]:
        yield from self._gap(said.total)
        self._ending, self.over = said.outcome, True

    def _gap(self, coming: int) -> Iterator[Event]:
        if coming > self._next:
            yield Gap(coming - self._next)
            self._next = coming


class _Delta(msgspec.Struct):
    content: Any = None


class _Choice(msgspec.Struct):
    index: Any = 0
    delta: _Delta | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _text_of(chunk: bytes) -> str:
    """Return the text that a chunk adds to the first choice; "" when there is none, or it can't be read."""
    try:
        choices = _decode(chunk).choices or []
    except UNREADABLE:
        return ""
    texts = (choice.delta.content for choice in choices if choice.delta and not choice.index)
    return "".join(text for text in texts if isinstance(text, str))
