"""`GET /models` as values: of each model only what a bound needs. Tolerant: an entry that can't be read is left out.

Endpoints other than OpenRouter list their models without prices; such entries are no facts.
"""

import msgspec

from batchmill.openrouter.wire import UNREADABLE, is_absent, salvage

_ROUTING_SUFFIXES = (":nitro", ":floor", ":exacto", ":online")  # for any model, not in the catalogue


class Reasoning(msgspec.Struct, frozen=True, array_like=True):
    """Whether and how a model thinks before it answers. None: nobody says."""

    mandatory: bool = False
    default_enabled: bool | None = None
    efforts: tuple[str, ...] = ()
    default_effort: str | None = None


class ModelFacts(msgspec.Struct, frozen=True, array_like=True):
    """What the catalogue says of a model. `pricing` is its `pricing` object as JSON, see `prices.decode_price`.

    An empty tuple or text means that nobody says. `expires` is a date, YYYY-MM-DD; `created` unix seconds.
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
    benchmarks: bytes | None = None  # as it came (JSON); its shape is not documented


class _TopProvider(msgspec.Struct):
    context_length: int | None = None
    max_completion_tokens: int | None = None


class _Entry(msgspec.Struct):
    id: str | None = None
    pricing: msgspec.Raw = msgspec.Raw()
    context_length: int | None = None
    top_provider: _TopProvider | None = None


_decode_entry = msgspec.json.Decoder(_Entry).decode


class _Listing(msgspec.Struct):
    data: list[msgspec.Raw] | None = None


def decode_models(listing: bytes) -> dict[str, ModelFacts]:
    """Return the priced models of a listing by id; none for anything that is no listing."""
    try:
        entries = msgspec.json.decode(listing, type=_Listing).data or []
    except UNREADABLE:
        return {}
    facts = (_facts(entry) for entry in entries)
    return {each.id: each for each in facts if each is not None}


def find_model(models: dict[str, ModelFacts], model_id: str) -> ModelFacts | None:
    """Return the facts of a model, also under an id with a routing suffix such as `:floor`."""
    facts = models.get(model_id)
    if facts is None and model_id.endswith(_ROUTING_SUFFIXES):
        return models.get(model_id.rpartition(":")[0])
    return facts


def _facts(raw: msgspec.Raw) -> ModelFacts | None:
    try:
        entry: _Entry | None = _decode_entry(raw)
    except UNREADABLE:
        entry = salvage(raw, _Entry)
    if entry is None or not entry.id or is_absent(entry.pricing) or not bytes(entry.pricing).startswith(b"{"):
        return None
    provider = entry.top_provider or _TopProvider()
    return ModelFacts(
        entry.id,
        bytes(entry.pricing),
        _positive(entry.context_length or provider.context_length),
        _positive(provider.max_completion_tokens),
    )


def _positive(count: int | None) -> int | None:
    return count if count is not None and count > 0 else None
