"""What a listing of models holds that this version does not know: the API changes weekly, and nobody announces it.

Nothing here is trouble: what is not known is skipped, and costs nothing else. Names are those of the official SDK
1.3.84 (`components/model.py`, `publicpricing.py`, `pricingoverride.py`, `modelgroup.py`, `parameter.py` ...).
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from batchmill.openrouter.models import EFFORTS, Entry, facts_of, raw_entries, read_entry
from batchmill.openrouter.prices import decode_price
from batchmill.openrouter.replies import readable
from batchmill.openrouter.wire import UNREADABLE

_EXAMPLE_CHARS = 60
_LIST = "[]"  # in a path: each item of an array
_MODALITIES = frozenset(("text", "image", "file", "audio", "video"))
_MADE = frozenset(
    ("text", "image", "embeddings", "audio", "video", "rerank", "decisions", "speech", "transcription")
)  # fmt: skip
_TOKENIZERS = frozenset(
    (
        "Router", "Media", "Other", "GPT", "Claude", "Gemini", "Gemma", "Grok", "Cohere", "Nova", "Qwen", "Yi",
        "DeepSeek", "Mistral", "Llama2", "Llama3", "Llama4", "PaLM", "RWKV", "Qwen3",
    )
)  # fmt: skip
_PARAMETERS = frozenset(
    (
        "temperature", "top_p", "top_k", "min_p", "top_a", "frequency_penalty", "presence_penalty",
        "repetition_penalty", "max_tokens", "max_completion_tokens", "logit_bias", "logprobs", "top_logprobs",
        "prediction", "seed", "response_format", "structured_outputs", "stop", "tools", "tool_choice",
        "parallel_tool_calls", "include_reasoning", "reasoning", "reasoning_effort", "web_search_options", "verbosity",
    )
)  # fmt: skip
_DAYS = frozenset(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"))
_RATES = (
    "prompt", "completion", "request", "image", "image_token", "image_output", "audio", "audio_output",
    "input_audio_cache", "web_search", "internal_reasoning", "input_cache_read", "input_cache_write",
    "input_cache_write_1h",
)  # fmt: skip
_CONDITIONS = ("min_prompt_tokens", "utc_days", "utc_start", "utc_end")
_SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "repetition_penalty")

_Shape = dict[str, Any]
"""Known members of an object: None (not looked into), a set of known values, or the shape of what is inside."""

_KNOWN: _Shape = {
    **dict.fromkeys(
        ("id", "canonical_slug", "name", "description", "created", "context_length", "expiration_date",
         "knowledge_cutoff", "hugging_face_id", "supported_voices", "benchmarks", "object", "owned_by")
    ),
    "architecture": {
        "modality": None,
        "instruct_type": None,
        "tokenizer": _TOKENIZERS,
        "input_modalities": _MODALITIES,
        "output_modalities": _MADE,
    },
    "pricing": {
        **dict.fromkeys((*_RATES, "discount")),
        "overrides": {**dict.fromkeys((*_RATES, *_CONDITIONS)), "utc_days": _DAYS},
    },
    "top_provider": dict.fromkeys(("context_length", "max_completion_tokens", "is_moderated")),
    "per_request_limits": dict.fromkeys(("prompt_tokens", "completion_tokens")),
    "supported_parameters": _PARAMETERS,
    "default_parameters": dict.fromkeys(_SAMPLING),
    "reasoning": {
        **dict.fromkeys(("mandatory", "default_enabled", "supports_max_tokens")),
        "default_effort": frozenset(EFFORTS),
        "supported_efforts": frozenset(EFFORTS),
    },
    "links": {"details": None},
    "alias_target": dict.fromkeys(("name", "slug")),
}  # fmt: skip


class UnknownField(msgspec.Struct, frozen=True):
    """A member that is not known, by its path (`pricing.overrides[].region`), and the first value seen, cut short."""

    path: str
    count: int
    example: str


class UnknownValue(msgspec.Struct, frozen=True):
    """A value of an open list that is not known: a modality, a parameter, a tokenizer, an effort, a weekday."""

    path: str
    value: str
    count: int


class Unreadable(msgspec.Struct, frozen=True):
    """An entry with something of a wrong type; `left_out` says whether that cost the entry or only the field."""

    entry: str  # its id, or its number from 1 as `#7`
    reason: str
    left_out: bool


class Drift(msgspec.Struct, frozen=True):
    """What of a listing was not known or not readable; `unpriced` are models whose price nobody can tell.

    `missing` is how many models the listing says it has beyond those in it: it came in pages.
    """

    entries: int = 0
    fields: tuple[UnknownField, ...] = ()
    values: tuple[UnknownValue, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    unpriced: tuple[str, ...] = ()
    missing: int = 0

    @property
    def none(self) -> bool:
        """Whether everything was known and readable; models without a price are no drift."""
        return not (self.fields or self.values or self.unreadable or self.missing)


class _Counted(msgspec.Struct):
    total_count: int | None = None


_decode_table = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_entry = msgspec.json.Decoder(Entry).decode
_Found = tuple[str, str, bool]  # path, the value as JSON, whether it is the value that is not known


def drift_of(listing: bytes) -> Drift:
    """Return what of a `GET /models` answer is not known here; nothing but emptiness for what is no listing."""
    text = readable(listing)
    fields: dict[str, UnknownField] = {}
    values: dict[tuple[str, str], UnknownValue] = {}
    unreadable, unpriced = [], []
    entries = raw_entries(text) or []
    for number, raw in enumerate(entries, 1):
        trouble = _trouble(raw, number)
        if trouble is not None:
            unreadable.append(trouble)
        facts = facts_of(read_entry(raw))
        if facts is not None and not _is_priced(facts.pricing):
            unpriced.append(facts.id)
        for path, found, is_value in _strange(raw, _KNOWN, ""):
            if is_value:
                seen = values.get((path, found))
                values[path, found] = UnknownValue(path, found, seen.count + 1 if seen else 1)
            else:
                known = fields.get(path)
                fields[path] = UnknownField(path, known.count + 1, known.example) if known else _first(path, found)
    return Drift(
        len(entries),
        tuple(fields[path] for path in sorted(fields)),
        tuple(values[key] for key in sorted(values)),
        tuple(unreadable),
        tuple(unpriced),
        _missing(text, len(entries)),
    )


def _trouble(raw: msgspec.Raw, number: int) -> Unreadable | None:
    try:
        entry: Entry | None = _decode_entry(raw)
        reason = ""
    except UNREADABLE as error:
        entry, reason = read_entry(raw), str(error)
    name = entry.id if entry and entry.id else f"#{number}"
    if facts_of(entry) is None:
        return Unreadable(name, reason or _lack(entry), left_out=True)
    return Unreadable(name, reason, left_out=False) if reason else None


def _lack(entry: Entry | None) -> str:
    return "it has no id" if entry is None or not entry.id else "it has no pricing, and nothing else that a model has"


def _is_priced(pricing: bytes) -> bool:
    base = decode_price(pricing).base
    return base.prompt is not None and base.completion is not None


def _strange(raw: msgspec.Raw, shape: _Shape, path: str) -> Iterator[_Found]:
    """Yield the members of an object (or of each of an array of them) that the shape does not know."""
    table = _table(raw)
    if table is None:
        for item in _items(raw):
            if (inside := _table(item)) is not None:
                yield from _members(inside, shape, path + _LIST)
        return
    yield from _members(table, shape, path)


def _members(table: dict[str, msgspec.Raw], shape: _Shape, path: str) -> Iterator[_Found]:
    for name, raw in table.items():
        here = f"{path}.{name}" if path else name
        if name not in shape:
            yield here, bytes(raw).decode(errors="replace"), False
        elif isinstance(shape[name], dict):
            yield from _strange(raw, shape[name], here)
        elif shape[name] is not None:
            texts = map(_text, _items(raw) or [raw])
            yield from ((here, text, True) for text in texts if text is not None and text not in shape[name])


def _table(raw: msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    try:
        return _decode_table(raw)
    except UNREADABLE:
        return None


def _items(raw: msgspec.Raw) -> list[msgspec.Raw]:
    try:
        return _decode_items(raw)
    except UNREADABLE:
        return []


def _text(raw: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str)
    except UNREADABLE:
        return None


def _first(path: str, example: str) -> UnknownField:
    short = example if len(example) <= _EXAMPLE_CHARS else f"{example[:_EXAMPLE_CHARS]}…"
    return UnknownField(path, 1, short)


def _missing(listing: bytes, entries: int) -> int:
    try:
        told = msgspec.json.decode(listing, type=_Counted).total_count
    except UNREADABLE:
        return 0
    return max(0, (told or 0) - entries)
