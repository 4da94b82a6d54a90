"""The simulator's models: the real catalogue of December 2025 and a sample of September 2026, packaged as captured."""

from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from msgspec import UNSET

from batchmill.openrouter.prices import Price, decode_price

_FIXTURES = ("models_2025_12.json", "models_2026_09_sample.json")  # the later ones win
_ROUTING_SUFFIXES = (":nitro", ":floor", ":exacto", ":online")  # for any model, not in the catalogue
_ROUTER_TARGET = "openai/gpt-4o-mini"  # who answers for models without a price of their own, such as openrouter/auto
_SPILL_PROVIDER = "Together"

_PROVIDERS = {
    "ai21": "AI21",
    "amazon": "Amazon Bedrock",
    "anthropic": "Anthropic",
    "cohere": "Cohere",
    "deepseek": "DeepSeek",
    "google": "Google",
    "inception": "Inception",
    "minimax": "Minimax",
    "mistralai": "Mistral",
    "moonshotai": "Moonshot AI",
    "openai": "OpenAI",
    "perplexity": "Perplexity",
    "qwen": "Alibaba",
    "x-ai": "xAI",
    "z-ai": "Z.AI",
}
_OPEN_WEIGHTS_PROVIDER = "DeepInfra"


class Endpoint(msgspec.Struct, frozen=True):
    """One provider that serves a model, and at what price."""

    provider: str
    tag: str
    pricing: msgspec.Raw
    price: Price


class Model(msgspec.Struct, frozen=True):
    """What the simulator needs to know of a model; `listing` is its entry in `GET /models`."""

    id: str
    listing: msgspec.Raw
    context_length: int | None
    max_completion_tokens: int | None
    reasons: bool
    always_reasons: bool
    supported_parameters: frozenset[str]
    endpoints: tuple[Endpoint, ...]

    @property
    def free(self) -> bool:
        """Whether the platform's caps on free models go for it."""
        return self.id.endswith(":free")

    @property
    def writes_cache(self) -> bool:
        """Whether long prompts are written to the provider's cache, and billed so, without being asked for it."""
        return self.id.startswith("openai/") and isinstance(self.endpoints[0].price.base.input_cache_write, Decimal)


class Catalogue:
    """All models by id, and the listing as it goes over the wire."""

    def __init__(self, models: dict[str, Model]) -> None:
        self.models = models
        self.listing = msgspec.json.encode(
            {"data": [model.listing for model in models.values()], "total_count": len(models), "links": {"next": None}}
        )

    def find(self, model_id: str) -> Model | None:
        """Return the model, also under an id with a routing suffix such as `:nitro`."""
        model = self.models.get(model_id)
        if model is None and model_id.endswith(_ROUTING_SUFFIXES):
            return self.models.get(model_id.rpartition(":")[0])
        return model

    def answering(self, model: Model) -> Model:
        """Return the model itself, or who answers for it when it is a router without a price of its own."""
        base = model.endpoints[0].price.base
        if base.prompt is None or base.completion is None:
            return self.models[_ROUTER_TARGET]
        return model


@cache
def load_catalogue() -> Catalogue:
    """Read the packaged fixtures, once a process."""
    models: dict[str, Model] = {}
    for name in _FIXTURES:
        text = files("batchmill.openrouter.simulator").joinpath(name).read_bytes()
        for listing in msgspec.json.decode(text, type=_Listing).data:
            model = _model(listing)
            models[model.id] = model
    return Catalogue(models)


class _Listing(msgspec.Struct):
    data: list[msgspec.Raw]


class _TopProvider(msgspec.Struct):
    max_completion_tokens: int | None = None


class _Reasoning(msgspec.Struct):
    mandatory: bool = False
    default_enabled: bool = False


class _Entry(msgspec.Struct):
    id: str
    pricing: msgspec.Raw
    context_length: int | None = None
    hugging_face_id: str | None = None
    top_provider: _TopProvider = msgspec.field(default_factory=_TopProvider)
    supported_parameters: list[str] = []
    reasoning: _Reasoning | None = None
    links: Any = UNSET
    supported_voices: Any = UNSET


def _completed(listing: msgspec.Raw, entry: _Entry) -> msgspec.Raw:
    """Return a listing with the fields that OpenRouter has added since it was captured, and never leaves out."""
    added = b""
    if entry.links is UNSET:
        added += b',"links":' + msgspec.json.encode({"details": f"/api/v1/models/{entry.id}/endpoints"})
    if entry.supported_voices is UNSET:
        added += b',"supported_voices":null'
    return msgspec.Raw(bytes(listing).rstrip()[:-1] + added + b"}")


def _model(listing: msgspec.Raw) -> Model:
    entry = msgspec.json.decode(listing, type=_Entry)
    listing = _completed(listing, entry)
    reasons = "reasoning" in entry.supported_parameters or entry.reasoning is not None
    return Model(
        id=entry.id,
        listing=listing,
        context_length=entry.context_length,
        max_completion_tokens=entry.top_provider.max_completion_tokens,
        reasons=reasons,
        # the catalogue of 2025 does not tell whether a model thinks unasked; most that can, did
        always_reasons=reasons
        and (entry.reasoning is None or entry.reasoning.mandatory or entry.reasoning.default_enabled),
        supported_parameters=frozenset(entry.supported_parameters),
        endpoints=_endpoints(entry),
    )


def _endpoints(entry: _Entry) -> tuple[Endpoint, ...]:
    """Return the catalogue's endpoint, and for paid models with open weights a second one, a quarter dearer."""
    provider = _PROVIDERS.get(entry.id.partition("/")[0], _OPEN_WEIGHTS_PROVIDER)
    first = _endpoint(provider, entry.pricing)
    base = first.price.base
    if not entry.hugging_face_id or not base.prompt or entry.id.endswith(":free"):
        return (first,)
    pricing = msgspec.json.decode(entry.pricing, type=dict[str, Any])
    pricing.pop("overrides", None)
    for key, rate in (("prompt", base.prompt), ("completion", base.completion)):
        if isinstance(rate, Decimal):
            pricing[key] = f"{rate + rate / 4:f}"
    return (first, _endpoint(_SPILL_PROVIDER, msgspec.Raw(msgspec.json.encode(pricing))))


def _endpoint(provider: str, pricing: msgspec.Raw) -> Endpoint:
    return Endpoint(provider, provider.lower().replace(" ", "-").replace(".", ""), pricing, decode_price(pricing))
