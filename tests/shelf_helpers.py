"""The packaged catalogue, and small ones, for tests of choosing."""

from typing import Any

import msgspec

from batchmill.openrouter.models import ModelFacts, decode_models
from batchmill.openrouter.simulator.catalogue import load_catalogue
from batchmill.routing.shelf import Shelf


def catalogue() -> dict[str, ModelFacts]:
    """Return the packaged catalogue."""
    return decode_models(load_catalogue().listing)


def facts(model: str = "acme/one", prompt: str = "0.000001", completion: str = "0.000004", **fields: Any) -> ModelFacts:
    """Return a model at $1 and $4 for a million tokens, unless told otherwise."""
    pricing = msgspec.json.encode({"prompt": prompt, "completion": completion} | fields.pop("pricing", {}))
    usual: dict[str, Any] = {
        "context_length": 128_000,
        "input_modalities": ("text",),
        "output_modalities": ("text",),
        "parameters": ("max_tokens",),
    }
    return ModelFacts(model, pricing, **(usual | fields))


def shelf(*models: ModelFacts) -> Shelf:
    """Return a shelf with these models."""
    return Shelf({model.id: model for model in models})
