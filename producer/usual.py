"""The usual line, read at once: OpenAI's batch form with nothing to complete and nothing to complain about.

Nearly every line of a large file is one, and reading it so takes little more than half the time. Whatever is not, is
None here and gets the closer look of `forms`, which alone knows what to say about it; a test holds the two to the same
answers.
"""

from typing import Annotated, Final, Literal

import msgspec

from batchmill.openrouter.options import FallbackModels, ProviderOptions
from batchmill.producer.fields import MAX_CUSTOM_ID_BYTES, MAX_DEPTH, POSITIVE_INTEGER, Message
from batchmill.producer.identities import Identities
from batchmill.producer.lines import MAX_MODEL_BYTES, InputOptions, Request, is_model_name

_NULL: Final = msgspec.Raw(b"null")
_NO_STREAM: Final = (_NULL, msgspec.Raw(b"false"))
_Nothing = Annotated[int, msgspec.Meta(ge=1, le=0)]  # no value is of this type


class _Envelope(msgspec.Struct):
    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/chat/completions", "/chat/completions"]
    body: msgspec.Raw


class _Body(msgspec.Struct):
    model: str
    messages: list[Message]
    stream: msgspec.Raw = _NULL
    max_tokens: msgspec.Raw = _NULL
    max_completion_tokens: msgspec.Raw = _NULL
    models: FallbackModels | None = None
    provider: ProviderOptions | None = None
    fallback_models: _Nothing = 0  # members of our own need a closer look
    strategy: _Nothing = 0
    requirements: _Nothing = 0
    stream_to: _Nothing = 0


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_BODY = msgspec.json.Decoder(_Body)


def usual_request(line: bytes, number: int, options: InputOptions, seen: Identities) -> Request | None:
    """Return the line's request; None, and `seen` as it was, when the line needs a closer look."""
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH:
        return None
    try:
        if not line.isascii():
            line.decode()  # msgspec does not look at the UTF-8 of what it skips
        envelope = _ENVELOPE.decode(line)
        body = _BODY.decode(envelope.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not _usable(envelope.custom_id, body, options) or not seen.add(envelope.custom_id):
        return None
    models = tuple(body.models) if body.models else ()
    return Request(number, envelope.custom_id, body.model, bytes(envelope.body), options.wish, False, models)


def _usable(custom_id: str, body: _Body, options: InputOptions) -> bool:
    return (
        1 <= len(custom_id.encode()) <= MAX_CUSTOM_ID_BYTES
        and len(body.model.encode()) <= MAX_MODEL_BYTES
        and bool(body.messages and body.model.strip())
        and is_model_name(body.model)
        and body.stream in _NO_STREAM
        and _limits_fit(body, options)
    )


def _limits_fit(body: _Body, options: InputOptions) -> bool:
    """Whether a limit that is there is one, and none must be added."""
    limited = False
    for limit in (body.max_tokens, body.max_completion_tokens):
        if limit is not _NULL and limit != _NULL:
            limited = True
            if not POSITIVE_INTEGER.fullmatch(limit):
                return False
    return limited or options.max_tokens is None
