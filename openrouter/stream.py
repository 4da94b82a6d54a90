"""Streamed completions: server-sent events in, one `chat.completion` object out. No httpx here, only bytes.

    comment (": OPENROUTER PROCESSING")   keeps the connection alive, means nothing
    data: {chunk}                         merged into the answer, handed to the listener
    data: {chunk with "error"}            the answer failed after its 200 was sent; maybe the only event
    data: {chunk with "usage"}            the bill; `choices` may be empty or repeat the finish reason
    data: [DONE]                          the end; a stream that ends with neither this nor usage was cut off

Sources: the HTML standard, 9.2.6 (event streams); OpenRouter's "Streaming" page, 2026-10-05.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec

from batchmill.openrouter.wire import UNREADABLE, is_absent

OnChunk = Callable[[bytes], Awaitable[None]]

NEVER_STOP: Final = frozenset(
    (
        "AI21", "Alibaba", "Amazon Bedrock", "Google", "Google AI Studio", "Groq", "Minimax", "Mistral", "Nebius",
        "Perplexity",
    )
)  # fmt: skip
"""Providers that go on, and bill, when a stream is hung up (OpenRouter's "Streaming" page, "Stream cancellation")."""

_DONE: Final = b"[DONE]"
_TEXTS: Final = frozenset({"content", "reasoning", "reasoning_content", "refusal", "arguments", "data", "transcript"})
_REBUILT: Final = frozenset({"object", "choices"})
_USAGE_PLEASE: Final = b'"stream":true,"stream_options":{"include_usage":true}}'
_decode_table: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_choices: Final = msgspec.json.Decoder(list[dict[str, Any]] | None).decode


def streaming_body(body: bytes) -> bytes:
    """Return the request with `"stream": true`, every other value byte for byte as it was.

    `stream_options.include_usage` goes along: OpenRouter always sends usage, but other endpoints only when asked.
    """
    head = body.rstrip()[:-1].rstrip()
    if b'"stream' not in body:
        return head + (_USAGE_PLEASE if head == b"{" else b"," + _USAGE_PLEASE)
    table = _decode_table(body)
    try:
        options = _decode_table(table["stream_options"])
    except (KeyError, *UNREADABLE):
        options = {}
    return msgspec.json.encode({**table, "stream": True, "stream_options": {**options, "include_usage": True}})


class EventReader:
    """Cuts a byte stream into the data of its events, wherever the network cut it into pieces."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []  # the line that has not ended yet; joined once, so long lines cost no more
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next piece; return the data of the events that it completes."""
        if b"\n" not in piece and b"\r" not in piece and not (self._pending and self._pending[-1].endswith(b"\r")):
            self._pending.append(piece)
            return []
        lines = b"".join((*self._pending, piece)).splitlines(keepends=True)
        # a line break at the very end may be the first half of \r\n
        self._pending = [lines.pop()] if not lines[-1].endswith(b"\n") else []
        return self._events(line.rstrip(b"\r\n") for line in lines)

    def finish(self) -> list[bytes]:
        """Return the event that the stream ended in; a server may leave out the last blank line."""
        rest = b"".join(self._pending).rstrip(b"\r")
        self._pending = []
        return self._events((rest, b""))

    def _events(self, lines: Iterable[bytes]) -> list[bytes]:
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


class Gathering:
    """The chunks of one answer, merged as they come.

    Text is joined, tool calls are joined by their index, lists are extended, and of anything else the last one holds.
    """

    def __init__(self) -> None:
        self.first_token_at: float | None = None  # monotonic seconds
        self.last_event_at: float | None = None
        self.failed = False
        self._damaged = False
        self._done = False
        self._usage = False
        self._top: dict[str, msgspec.Raw] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    @property
    def complete(self) -> bool:
        """Whether the answer is whole: the end was announced, or nothing is missing that could follow."""
        if self._damaged:
            return False
        finished = bool(self._choices) and all(choice.get("finish_reason") for choice in self._choices.values())
        return self._done or (self._usage and finished)

    @property
    def settled(self) -> bool:
        """Whether the outcome is known: a whole answer, or an error in the upstream's own words."""
        return self.failed or self.complete

    @property
    def ended(self) -> bool:
        """Whether nothing more is worth a wait, but for what comes at once."""
        return self._done or self.failed

    def add(self, data: bytes) -> bool:
        """Merge one event; return whether it was a chunk of the answer (and not its end, an error or damage)."""
        self.last_event_at = time.monotonic()
        if data == _DONE:
            self._done = True
            return False
        try:
            table = _decode_table(data)
            choices = _decode_choices(table.get("choices", b"null"))
        except UNREADABLE:
            self._damaged = True
            return False
        self._top.update((name, raw) for name, raw in table.items() if name not in _REBUILT and not is_absent(raw))
        self._usage = "usage" in self._top
        self.failed = "error" in self._top
        for choice in choices or ():
            self._merge_choice(choice)
        return not self.failed

    def _merge_choice(self, choice: dict[str, Any]) -> None:
        index = choice.pop("index", 0)
        index = index if isinstance(index, int) else 0
        whole = self._choices.setdefault(index, {"index": index, "message": {"role": "assistant", "content": None}})
        delta = choice.pop("delta", None)
        if isinstance(delta, dict):
            if self.first_token_at is None and any(value for key, value in delta.items() if key != "role"):
                self.first_token_at = self.last_event_at
            _merge(whole["message"], delta)
        _merge(whole, choice)

    def body(self) -> bytes:
        """Return the answer as a `chat.completion` object, with whatever came so far."""
        choices = [_joined(self._choices[index]) for index in sorted(self._choices)]
        return msgspec.json.encode({"object": "chat.completion", **self._top, "choices": choices})


def _merge(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        known = whole.get(key)
        if key in _TEXTS and isinstance(value, str):
            if not isinstance(known, _Pieces):
                known = whole[key] = _Pieces()
            known.append(value)
        elif key == "tool_calls" and isinstance(value, list):
            _merge_calls(whole, value)
        elif isinstance(value, list) and type(known) is list:
            known.extend(value)
        elif isinstance(value, dict):
            if not isinstance(known, dict):
                known = whole[key] = {}
            _merge(known, value)
        elif known is None or value not in (None, ""):  # some servers repeat ids and names as null or ""
            whole[key] = value


def _merge_calls(whole: dict[str, Any], calls: list[Any]) -> None:
    known = whole["tool_calls"] = whole.get("tool_calls") or []
    for call in calls:
        if not isinstance(call, dict):
            continue
        index = call.pop("index", len(known))
        target = next((each for each in known if each["index"] == index), None)
        if target is None:
            target = {"index": index}
            known.append(target)
        _merge(target, call)


class _Pieces(list[str]):
    """A text that is still growing: joined once, at the end."""


def _joined(value: Any) -> Any:
    if isinstance(value, _Pieces):
        return "".join(value)
    if isinstance(value, dict):
        return {key: _joined(each) for key, each in value.items()}
    return [_joined(each) for each in value] if isinstance(value, list) else value


async def follow(
    pieces: AsyncIterator[bytes], gathering: Gathering, on_chunk: OnChunk | None, on_end: Callable[[], None]
) -> Exception | None:
    """Read a stream to its end; return the exception of `on_chunk` if it raised one, for that is not the upstream's.

    `on_end` is called once, when the answer is whole or has failed and only the connection's tail is left to read.
    """
    reader = EventReader()
    told = False
    async for piece in pieces:
        raised = await _take(reader.feed(piece), gathering, on_chunk)
        if raised is not None:
            return raised
        if gathering.ended and not told:
            told = True
            on_end()
    return await _take(reader.finish(), gathering, on_chunk)


async def _take(events: list[bytes], gathering: Gathering, on_chunk: OnChunk | None) -> Exception | None:
    for data in events:
        if gathering.add(data) and on_chunk is not None:
            try:
                await on_chunk(data)
            except Exception as error:  # noqa: BLE001 (handed to the caller, whose it is)
                return error
    return None
