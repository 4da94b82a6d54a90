"""From the events of a line to the chunks of OpenAI's stream. Pure: no I/O, no clock.

What was sent can't be taken back. So when chunks were lost, or the answer began anew, the client gets what is missing
if the whole text goes on from what it has, and an error otherwise.
"""

from typing import Any

import msgspec

from batchmill.openrouter.wire import UNREADABLE
from batchmill.producer.live import Ended, Event, Gap, Restarted, Started, Text
from batchmill.store.model import Result

DONE = b"[DONE]"

_NOTHING = (b'""', b"null", b"[]")
_CHUNK = "chat.completion.chunk"

_encode = msgspec.json.Encoder().encode


class _Choice(msgspec.Struct):
    delta: dict[str, msgspec.Raw] | None = None
    finish_reason: str | None = None

    @property
    def says(self) -> bool:
        """Whether the delta holds anything but a role."""
        return any(name != "role" and bytes(value) not in _NOTHING for name, value in (self.delta or {}).items())


class _Whole(msgspec.Struct):
    index: int = 0
    message: dict[str, Any] = {}
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    id: str = ""
    created: int = 0
    model: str = ""
    choices: list[_Whole] = []
    usage: msgspec.Raw = msgspec.Raw(b"null")


_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_choices = msgspec.json.Decoder(list[_Choice]).decode
_decode_whole = msgspec.json.Decoder(_Completion).decode


class BrokenError(Exception):
    """What was sent is not how the answer begins."""


class Relay:
    """One stream: takes events, gives the JSON of chunks."""

    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._sent: list[str] = []
        self._holding = False  # chunks were lost: nothing more goes out until the whole text is known
        self._spoke = False  # something of the answer went out, be it text, a tool call or a thought
        self._finished = False
        self._used = False

    def take(self, event: Event) -> list[bytes]:
        """Return what goes out for an event that is not the last. Raises BrokenError."""
        match event:
            case Text(text=text, chunk=chunk) if chunk is not None and not self._holding:
                return self._chunk(bytes(chunk), text)
            case Gap():
                self._holding = True
            case Restarted() if self._spoke:
                self._holding = True
            case Started() if self._holding and self._spoke:
                raise BrokenError
            case Started():
                self._holding = False
        return []

    def end(self, event: Ended) -> list[bytes]:
        """Return what is missing of an answer that succeeded, and its end. Raises BrokenError."""
        result = event.result
        out = [] if self._finished and not self._holding else self._rest(result)
        if self._include_usage and not self._used:
            out += _usage(result)
        return [*out, DONE]

    def _chunk(self, chunk: bytes, text: str) -> list[bytes]:
        try:
            members = _decode_members(chunk)
            choices = _decode_choices(members.get("choices", b"[]"))
        except UNREADABLE:
            return []
        if "error" in members and bytes(members["error"]) != b"null":
            return []  # the call's end says it, and another one may follow
        said = any(choice.says for choice in choices)
        ends = any(choice.finish_reason for choice in choices)
        usage = members.pop("usage", None)
        out = []
        if choices and (said or not self._spoke or (ends and not self._finished)):
            out.append(_encode(members))
        self._spoke = self._spoke or said
        self._finished = self._finished or ends
        if text:
            self._sent.append(text)
        if usage is not None and bytes(usage) != b"null" and self._include_usage:
            self._used = True
            out.append(_encode({**members, "choices": [], "usage": usage}))
        return out

    def _rest(self, result: Result) -> list[bytes]:
        """Return chunks that say what was not sent of the whole answer."""
        try:
            whole = _decode_whole(result.response or b"{}")
        except UNREADABLE:
            raise BrokenError from None
        sent = "".join(self._sent)
        content = result.content or ""
        tail = content[len(sent) :]
        if not content.startswith(sent) or (self._spoke and not sent):
            raise BrokenError
        out = []
        for choice in whole.choices:
            delta = _delta(choice.message) if not sent else {"content": tail}
            if delta.get("content") or not sent:
                out.append(_made(whole, choice.index, delta, None))
            if not self._finished:
                out.append(_made(whole, choice.index, {}, choice.finish_reason))
        return out


def _delta(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]}


def _made(whole: _Completion, index: int, delta: dict[str, Any], finish: str | None) -> bytes:
    choices = [{"index": index, "delta": delta, "finish_reason": finish}]
    return _encode({**_head(whole), "choices": choices})


def _usage(result: Result) -> list[bytes]:
    try:
        whole = _decode_whole(result.response or b"{}")
    except UNREADABLE:
        return []
    return [_encode({**_head(whole), "choices": [], "usage": whole.usage})]


def _head(whole: _Completion) -> dict[str, Any]:
    return {"id": whole.id, "object": _CHUNK, "created": whole.created, "model": whole.model}
