"""How the entries of the catalogue hang together: a model, its variants, and the names that stand for it.

`author/model:free` and the like are entries of their own with prices of their own. `:nitro` and the like are ways to
route that any model takes and no catalogue lists. `~author/family-latest` stands for a model that changes.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from batchmill.openrouter.models import ModelFacts

ENTRY_VARIANTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "free": "costs nothing, under daily caps of the account",
        "batch": "the price of OpenRouter's Batch API: about half, within 24 hours",
        "thinking": "thinks before it answers",
        "extended": "takes a longer context",
        "exacto": "only endpoints that call tools reliably",
    }
)
"""Suffixes that have catalogue entries of their own, with what they mean."""

ROUTING_SUFFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "nitro": "the fastest endpoints first, and maybe dearer ones",
        "floor": "the cheapest endpoints first",
        "exacto": "only endpoints that call tools reliably",
        "online": "with a web search, which costs extra (deprecated by OpenRouter)",
    }
)
"""Suffixes that any model takes, with what they mean; few of them have entries."""

_ALIAS: Final = "~"


def base_of(model_id: str) -> str:
    """Return the id without its variant: that of the model itself."""
    return model_id.partition(":")[0]


def variant_of(model_id: str) -> str | None:
    """Return the variant that an id names, such as `free`; None for the model itself."""
    return model_id.partition(":")[2] or None


def is_alias(facts: ModelFacts) -> bool:
    """Whether the entry stands for a model that changes with time, and its price with it."""
    return facts.id.startswith(_ALIAS) or bool(facts.alias_target)


def variants_of(model_id: str, models: Iterable[str]) -> tuple[str, ...]:
    """Return the ids of the catalogue that are the same model, the base first, without the given one."""
    base = base_of(model_id)
    found = sorted(other for other in models if base_of(other) == base and other != model_id)
    return tuple(found)  # a base sorts before what is longer


def aliases_of(model_id: str, models: Mapping[str, ModelFacts]) -> tuple[str, ...]:
    """Return the ids of the entries that stand for this model at present."""
    known = models.get(model_id)
    names = {model_id} | ({known.canonical_slug} if known and known.canonical_slug else set())
    return tuple(sorted(facts.id for facts in models.values() if facts.id != model_id and facts.alias_target in names))
