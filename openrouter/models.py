"""`GET /models` as values: what each model is, can do and costs. Tolerant: no entry can harm another.

listing ── one decode into types ─────────────► facts
        └─ any field of another type ─► each entry by itself; one that fails, field by field

Endpoints other than OpenRouter list their models without prices; the facts of such a model name no usable price.
`drift.drift_of` tells what of a listing was not known or not readable here.
"""

from collections.abc import Iterable

import msgspec
from msgspec import UNSET, UnsetType

from batchmill.openrouter.replies import readable
from batchmill.openrouter.wire import UNREADABLE, is_absent, salvage

_ROUTING_SUFFIXES = (":nitro", ":floor", ":exacto", ":online")  # for any model, not in the catalogue
_MAX_COUNT = 1 << 53  # what any reader of our MessagePack and JSON counts exactly; beyond it, it is damage
_NO_PRICING = b"{}"
_NO_EFFORT = "none"  # don't think

EFFORTS = ("max", "xhigh", "high", "medium", "low", "minimal", _NO_EFFORT)
"""What `reasoning.effort` takes, the highest first (`components/modelreasoning.py` of the official SDK)."""


class Reasoning(msgspec.Struct, frozen=True, array_like=True):
    """Whether and how a model thinks before it answers. None: nobody says."""

    mandatory: bool = False
    default_enabled: bool | None = None
    efforts: tuple[str, ...] = ()
    default_effort: str | None = None
    takes_max_tokens: bool | None = None  # `reasoning.max_tokens` in a request


class ModelFacts(msgspec.Struct, frozen=True, array_like=True):
    """What the catalogue says of a model. `pricing` is its `pricing` object as JSON, see `prices.decode_price`.

    An empty tuple or text means that nobody says; a `pricing` of `{}`, that no price is named. `expires` is a date,
    YYYY-MM-DD; `created` unix seconds, 0 when nobody says.
    """

    id: str
    pricing: bytes
    context_length: int | None = None
    max_completion_tokens: int | None = None
    name: str = ""
    description: str = ""
    created: int = 0
    canonical_slug: str = ""
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()
    tokenizer: str | None = None
    parameters: tuple[str, ...] = ()  # `supported_parameters`
    reasoning: Reasoning | None = None
    moderated: bool | None = None
    expires: str | None = None
    alias_target: str | None = None
    knowledge_cutoff: str | None = None
    hugging_face_id: str | None = None
    benchmarks: bytes | None = None  # as it came (JSON); `routing.quality` reads it

    @property
    def names_price(self) -> bool:
        """Whether the listing names any price for it, usable or not."""
        return self.pricing != _NO_PRICING


class TopProvider(msgspec.Struct):
    """`top_provider`: the limits of the endpoint that is asked first."""

    context_length: int | None = None
    max_completion_tokens: int | None = None
    is_moderated: bool | None = None


class Architecture(msgspec.Struct):
    """`architecture`: what goes in and out; `modality` says the same in one word, as `text+image->text`."""

    modality: str | None = None
    input_modalities: list[str] | None = None
    output_modalities: list[str] | None = None
    tokenizer: str | None = None


class ReasoningReport(msgspec.Struct):
    """`reasoning`: absent on models that don't think, and on routers. Efforts of null: all that there are."""

    mandatory: bool | None = None
    default_enabled: bool | None = None
    default_effort: str | None = None
    supported_efforts: list[str | None] | UnsetType | None = UNSET
    supports_max_tokens: bool | None = None


class AliasTarget(msgspec.Struct):
    """`alias_target` of a `~author/family-latest`: the model that it stands for now."""

    slug: str | None = None


class Entry(msgspec.Struct):
    """One model of a listing, as far as it is read; field names are those of the API (`components/model.py` of the
    official SDK). `object` is what OpenAI's own listing has.
    """

    id: str | None = None
    pricing: msgspec.Raw = msgspec.Raw()
    context_length: int | None = None
    top_provider: TopProvider | None = None
    name: str | None = None
    description: str | None = None
    created: int | None = None
    canonical_slug: str | None = None
    architecture: Architecture | None = None
    supported_parameters: list[str] | None = None
    reasoning: ReasoningReport | None = None
    expiration_date: str | None = None
    alias_target: AliasTarget | str | None = None
    knowledge_cutoff: str | None = None
    hugging_face_id: str | None = None
    benchmarks: msgspec.Raw = msgspec.Raw()
    object: str | None = None


class _Typed(msgspec.Struct):
    data: list[Entry]


class _Listing(msgspec.Struct):
    data: list[msgspec.Raw] | None = None


class _One(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw()


_decode_typed = msgspec.json.Decoder(_Typed).decode
_decode_entry = msgspec.json.Decoder(Entry).decode
_decode_listing = msgspec.json.Decoder(_Listing).decode
_decode_one = msgspec.json.Decoder(_One).decode


def decode_models(listing: bytes) -> dict[str, ModelFacts]:
    """Return the models of a listing by id, also those that name no price; none for anything that is no listing.

    An entry is a model when it has an id and a `pricing` object, or other signs of one: limits, modalities,
    parameters, or `"object": "model"`. Never raises.
    """
    facts = (facts_of(entry) for entry in _entries(readable(listing)))
    return {each.id: each for each in facts if each is not None}


def decode_model(answer: bytes) -> ModelFacts | None:
    """Return the model of a `{"data": Model}` answer (`GET /model/{author}/{slug}`); None when there is none in it."""
    try:
        entry = read_entry(_decode_one(readable(answer)).data)
    except UNREADABLE:
        return None
    return facts_of(entry)


def find_model(models: dict[str, ModelFacts], model_id: str) -> ModelFacts | None:
    """Return the facts of a model, also under an id with a routing suffix such as `:floor`."""
    facts = models.get(model_id)
    if facts is None and model_id.endswith(_ROUTING_SUFFIXES):
        return models.get(model_id.rpartition(":")[0])
    return facts


def raw_entries(listing: bytes) -> list[msgspec.Raw] | None:
    """Return the entries of a listing as they came; None when it is no listing."""
    try:
        return _decode_listing(listing).data
    except UNREADABLE:
        return None


def read_entry(raw: msgspec.Raw) -> Entry | None:
    """Return one entry, without those of its fields that have another type; None when it is no JSON object."""
    try:
        return _decode_entry(raw)
    except UNREADABLE:
        return salvage(raw, Entry)


def facts_of(entry: Entry | None) -> ModelFacts | None:
    """Return what an entry says of its model; None when it is none."""
    if entry is None or not entry.id:
        return None
    pricing = bytes(entry.pricing)
    if not pricing.startswith(b"{"):
        if not _is_model(entry):
            return None
        pricing = _NO_PRICING
    provider = entry.top_provider or TopProvider()
    inputs, outputs = _modalities(entry.architecture)
    return ModelFacts(
        entry.id,
        pricing,
        _positive(entry.context_length or provider.context_length),
        _positive(provider.max_completion_tokens),
        entry.name or "",
        entry.description or "",
        _positive(entry.created) or 0,
        entry.canonical_slug or "",
        inputs,
        outputs,
        (entry.architecture.tokenizer or None) if entry.architecture else None,
        tuple(entry.supported_parameters or ()),
        _reasoning(entry.reasoning),
        provider.is_moderated,
        entry.expiration_date or None,
        _target(entry.alias_target),
        entry.knowledge_cutoff or None,
        entry.hugging_face_id or None,
        None if is_absent(entry.benchmarks) else bytes(entry.benchmarks),
    )


def _entries(listing: bytes) -> Iterable[Entry | None]:
    try:
        return _decode_typed(listing).data
    except UNREADABLE:
        return map(read_entry, raw_entries(listing) or ())


def _is_model(entry: Entry) -> bool:
    signs = (entry.context_length, entry.top_provider, entry.architecture, entry.supported_parameters)
    return entry.object == "model" or any(sign is not None for sign in signs)


def _modalities(architecture: Architecture | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if architecture is None:
        return (), ()
    inputs, outputs = tuple(architecture.input_modalities or ()), tuple(architecture.output_modalities or ())
    before, arrow, after = (architecture.modality or "").partition("->")
    if arrow:
        return inputs or _words(before), outputs or _words(after)
    return inputs, outputs


def _words(modality: str) -> tuple[str, ...]:
    return tuple(word for word in modality.split("+") if word)


def _reasoning(report: ReasoningReport | None) -> Reasoning | None:
    if report is None:
        return None
    mandatory = bool(report.mandatory)
    if report.supported_efforts is None:
        efforts = tuple(effort for effort in EFFORTS if not (mandatory and effort == _NO_EFFORT))
    else:
        efforts = tuple(effort for effort in report.supported_efforts or () if effort)
    return Reasoning(
        mandatory, report.default_enabled, efforts, report.default_effort or None, report.supports_max_tokens
    )


def _target(told: AliasTarget | str | None) -> str | None:
    return (told.slug if isinstance(told, AliasTarget) else told) or None


def _positive(count: int | None) -> int | None:
    return count if count is not None and 0 < count <= _MAX_COUNT else None
