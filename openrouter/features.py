"""What a request body asks for, as far as it decides what a call can cost. Pure; nothing of the content is kept.

Every line passes here, so a body of text and common settings must be cheap: it is read by a type of its own.
"""

import re
from typing import Any, Final

import msgspec

from batchmill.openrouter.options import models_in
from batchmill.openrouter.wire import UNREADABLE, is_absent

_ESCAPED_ASCII: Final = re.compile(rb"\\u00[2-7]")
_TEXT_PARTS: Final = ("text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking")
_IMAGE_PARTS: Final = ("image_url", "input_image", "image")
_MEDIA_PARTS: Final = ("input_audio", "audio", "video_url", "input_video", "video")
_FILE_PARTS: Final = ("file", "input_file", "document")
_OWN_TOOLS: Final = ("function", "custom")  # those that the caller runs
_PLAIN_TIERS: Final = ("auto", "default", "standard", "flex")
_FREE_PLUGINS: Final = ("response-healing", "context-compression")
_FREE_PARSERS: Final = ("native", "cloudflare-ai", "pdf-text")
_FILE_PARSER: Final = "file-parser"
_DEARER_SUFFIXES: Final = (":nitro", ":online")
_PRESET: Final = "@preset/"
_ABSENT: Final = msgspec.Raw()


class Unbounded(msgspec.Struct, frozen=True):
    """Why no bound can be given: the field that is to blame, and the reason in words."""

    param: str | None
    reason: str


class Reading(msgspec.Struct, frozen=True):
    """What a bound needs to know of a body. `output` is None when the body sets no limit.

    `unbounded` is what may cost more than any price tells; the rest still goes for the tokens.
    """

    size: int  # bytes
    output: int | None = None  # tokens, of one answer
    answers: int = 1
    tools: bool = False
    media: bool = False  # more than text goes in
    images: int = 0
    caches: bool = False  # the body asks for caching, maybe at a dearer rate
    unbounded: Unbounded | None = None
    models: tuple[str, ...] = ()  # OpenRouter's own fallbacks: any of them may answer


class _Body(msgspec.Struct):
    model: str | None = None
    messages: list["_Message"] = []
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    models: msgspec.Raw = _ABSENT
    plugins: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT
    functions: msgspec.Raw = _ABSENT
    modalities: msgspec.Raw = _ABSENT
    service_tier: msgspec.Raw = _ABSENT
    audio: msgspec.Raw = _ABSENT
    prediction: msgspec.Raw = _ABSENT
    preset: msgspec.Raw = _ABSENT
    web_search_options: msgspec.Raw = _ABSENT
    cache_control: msgspec.Raw = _ABSENT
    prompt_cache_options: msgspec.Raw = _ABSENT
    prompt_cache_retention: msgspec.Raw = _ABSENT


class _Message(msgspec.Struct):
    content: msgspec.Raw = _ABSENT
    images: msgspec.Raw = _ABSENT  # of an answer that goes back in
    audio: msgspec.Raw = _ABSENT
    cache_control: msgspec.Raw = _ABSENT


class _PlainMessage(msgspec.Struct, forbid_unknown_fields=True):
    role: str = ""
    content: str | None = None
    name: msgspec.Raw = _ABSENT


class _PlainBody(msgspec.Struct, forbid_unknown_fields=True):
    """A body of text, whose other settings change no price: what nearly every line is."""

    model: str | None = None
    messages: list[_PlainMessage] = []
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: msgspec.Raw = _ABSENT
    top_p: msgspec.Raw = _ABSENT
    top_k: msgspec.Raw = _ABSENT
    seed: msgspec.Raw = _ABSENT
    stop: msgspec.Raw = _ABSENT
    stream: msgspec.Raw = _ABSENT
    frequency_penalty: msgspec.Raw = _ABSENT
    presence_penalty: msgspec.Raw = _ABSENT
    response_format: msgspec.Raw = _ABSENT
    reasoning: msgspec.Raw = _ABSENT
    reasoning_effort: msgspec.Raw = _ABSENT
    metadata: msgspec.Raw = _ABSENT
    user: msgspec.Raw = _ABSENT


class _Tool(msgspec.Struct):
    type: str = "function"


class _Parser(msgspec.Struct):
    engine: str | None = None


class _Plugin(msgspec.Struct):
    id: str
    enabled: bool | None = None
    pdf: _Parser | None = None


class _Inputs(msgspec.Struct):
    """What is in the messages: parts beside plain text, by kind."""

    parts: int = 0
    images: int = 0
    others: int = 0
    files: int = 0
    unknown: int = 0
    caches: bool = False


_decode_plain = msgspec.json.Decoder(_PlainBody).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_tools = msgspec.json.Decoder(list[_Tool]).decode
_decode_images = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_plugins = msgspec.json.Decoder(list[_Plugin]).decode
_NO_LIMITS = (
    ("audio", "spoken answers have prices of their own"),
    ("prediction", "a prediction that is not met is billed beyond max_tokens"),
    ("preset", "what a preset asks for is known to OpenRouter only"),
    ("web_search_options", "searches are billed each, however many there are"),
)


def read_body(body: bytes) -> Reading:
    """Return what a body, a JSON object, asks for."""
    try:
        plain = _decode_plain(body)
    except UNREADABLE:
        return _read_any(body)
    return Reading(len(body), _limit(plain), unbounded=dear_model(plain.model or ""))


def _read_any(body: bytes) -> Reading:
    try:
        return _read(body, _decode_body(body))
    except UNREADABLE:
        return Reading(len(body), unbounded=Unbounded(None, "a setting is of a type that no upstream takes"))


def _read(body: bytes, asked: _Body) -> Reading:
    tools = not _is_empty(asked.tools)
    inputs = _inputs_of(asked.messages)
    return Reading(
        len(body),
        _limit(asked),
        1 if asked.n is None else max(1, asked.n),
        tools or not _is_empty(asked.functions),
        inputs.images + inputs.others + inputs.files + inputs.unknown > 0,
        inputs.images,
        inputs.caches or _asks_for_caching(asked) or ((tools or inputs.parts > 0) and _mentions_caching(body)),
        _unbounded(asked, inputs),
        models_in(asked.models),
    )


def _limit(asked: _Body | _PlainBody) -> int | None:
    """Return the larger of the two limits, for nobody knows which one an upstream heeds."""
    limit, other = asked.max_tokens, asked.max_completion_tokens
    if limit is None or (other is not None and other > limit):
        return other
    return limit


def _unbounded(asked: _Body, inputs: _Inputs) -> Unbounded | None:
    """Return the first thing that no price tells the cost of."""
    if asked.n is not None and asked.n < 1:
        return Unbounded("n", "it must be a positive integer")
    for name, reason in _NO_LIMITS:
        if not _is_empty(getattr(asked, name)):
            return Unbounded(name, reason)
    return (
        _dear_models(asked)
        or _dear_tier(asked.service_tier)
        or _dear_output(asked.modalities)
        or _dear_tool(asked.tools)
        or _dear_input(inputs, asked.plugins)
    )


def _asks_for_caching(asked: _Body) -> bool:
    return (
        asked.cache_control is not _ABSENT
        or asked.prompt_cache_options is not _ABSENT
        or asked.prompt_cache_retention is not _ABSENT
    )


def _mentions_caching(body: bytes) -> bool:
    """Whether a tool or a part of a message may ask for caching; a key may be written with escapes."""
    return b"cache_" in body or _ESCAPED_ASCII.search(body) is not None


def _dear_models(asked: _Body) -> Unbounded | None:
    """Return what no price tells of the model, or of one that may answer in its place."""
    for model in models_in(asked.models):
        dear = dear_model(model)
        if dear is not None:
            return Unbounded("models", dear.reason)
    return dear_model(asked.model or "")


def dear_model(model: str) -> Unbounded | None:
    """Return what no price tells of a model with such an id."""
    if model.endswith(_DEARER_SUFFIXES):
        return Unbounded("model", f"{model.rpartition(':')[2]} may use dearer endpoints, or search the web")
    if _PRESET in model:
        return Unbounded("model", "what a preset asks for is known to OpenRouter only")
    return None


def _dear_tier(raw: msgspec.Raw) -> Unbounded | None:
    if _is_empty(raw) or msgspec.json.decode(raw) in _PLAIN_TIERS:
        return None
    return Unbounded("service_tier", "a tier of its own has prices of its own")


def _dear_output(raw: msgspec.Raw) -> Unbounded | None:
    if _is_empty(raw) or msgspec.json.decode(raw) == ["text"]:
        return None
    return Unbounded("modalities", "answers that are more than text have prices of their own")


def _dear_tool(raw: msgspec.Raw) -> Unbounded | None:
    if _is_empty(raw) or all(tool.type in _OWN_TOOLS for tool in _decode_tools(raw)):
        return None
    return Unbounded("tools", "a tool that the upstream runs is billed each time")


def _dear_input(inputs: _Inputs, raw: msgspec.Raw) -> Unbounded | None:
    """Plugins that may cost, and files, which go to a paid parser unless a plugin names one that costs nothing."""
    free_parser = False
    for plugin in () if _is_empty(raw) else _decode_plugins(raw):
        if plugin.enabled is False or plugin.id in _FREE_PLUGINS:
            continue
        if plugin.id != _FILE_PARSER or plugin.pdf is None or plugin.pdf.engine not in _FREE_PARSERS:
            return Unbounded("plugins", "a plugin may be billed by use")
        free_parser = True
    if inputs.files and not free_parser:
        return Unbounded("messages", 'a file may go to a paid parser; name a free one, "cloudflare-ai" or "native"')
    if inputs.unknown:
        return Unbounded("messages", "a message holds something of a type that no price is known for")
    return None


def _inputs_of(messages: list[_Message]) -> _Inputs:
    found = _Inputs()
    for message in messages:
        content = bytes(message.content)
        if content.startswith(b"["):
            for part in msgspec.json.decode(content):
                found.parts += 1
                _count(part, found)
        elif content.startswith(b"{"):
            found.unknown += 1
        found.images += 0 if _is_empty(message.images) else len(_decode_images(message.images))
        found.others += not _is_empty(message.audio)
        found.caches = found.caches or message.cache_control is not _ABSENT
    return found


def _count(part: Any, found: _Inputs) -> None:
    kind = part.get("type") if isinstance(part, dict) else "text"
    if kind in _TEXT_PARTS:
        return
    if kind in _IMAGE_PARTS:
        found.images += 1
    elif kind in _MEDIA_PARTS:
        found.others += 1
    elif kind in _FILE_PARTS:
        found.files += 1
    else:
        found.unknown += 1


def _is_empty(raw: msgspec.Raw) -> bool:
    return raw is _ABSENT or is_absent(raw) or bytes(raw).replace(b" ", b"") == b"[]"
