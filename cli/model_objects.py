"""Models, comparisons and recommendations as JSON. Prices of tokens are USD a million, as exact numbers."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from batchmill.openrouter.capabilities import evidence
from batchmill.openrouter.drift import Drift
from batchmill.openrouter.endpoints import Endpoint
from batchmill.openrouter.list_prices import MILLION, ListPrice, list_price
from batchmill.openrouter.prices import Override
from batchmill.routing.comparison import Compared, Comparison
from batchmill.routing.health import ModelHealth, Traffic
from batchmill.routing.performance import Figure
from batchmill.routing.recommendation import Recommendation
from batchmill.routing.shelf import Item

_RATES = ("input", "output", "blended", "cache_read", "cache_write", "reasoning", "request", "image")


def model_object(item: Item, health: ModelHealth | None) -> dict[str, Any]:
    """Return one model."""
    facts = item.facts
    return {
        "id": item.id,
        "name": facts.name or None,
        "author": item.author,
        "author_name": item.author_name,
        "family": item.family,
        "base": item.base,
        "variant": item.variant,
        "created": facts.created or None,
        "expires": facts.expires,
        "context_length": facts.context_length,
        "max_completion_tokens": facts.max_completion_tokens,
        "input_modalities": facts.input_modalities,
        "output_modalities": facts.output_modalities,
        "prices": price_object(item.price),
        "capabilities": sorted(item.capabilities),
        "tags": sorted(item.tags),
        "health": None if health is None else msgspec.to_builtins(health),
    }


def details_object(item: Item, health: ModelHealth | None, variants: Sequence[str]) -> dict[str, Any]:
    """Return one model with all that is known of it, but for its endpoints."""
    facts = item.facts
    return model_object(item, health) | {
        "description": facts.description or None,
        "canonical_slug": facts.canonical_slug or None,
        "variants": list(variants),
        "alias_target": facts.alias_target,
        "knowledge_cutoff": facts.knowledge_cutoff,
        "hugging_face_id": facts.hugging_face_id,
        "tokenizer": facts.tokenizer,
        "moderated": facts.moderated,
        "reasoning": None if facts.reasoning is None else msgspec.structs.asdict(facts.reasoning),
        "parameters": facts.parameters,
        "capabilities_by": dict(sorted(evidence(facts).items())),
        "overrides": [override_object(override) for override in item.price.price.overrides],
        "benchmarks": None if facts.benchmarks is None else msgspec.Raw(facts.benchmarks),
    }


def endpoint_object(endpoint: Endpoint) -> dict[str, Any]:
    """Return one endpoint; uptimes are percent, latencies milliseconds to the first token."""
    told = {name: getattr(endpoint, name) for name in endpoint.__struct_fields__ if name != "pricing"}
    for name in ("latency_ms", "throughput"):
        told[name] = None if told[name] is None else msgspec.structs.asdict(told[name])
    return told | {"prices": price_object(list_price(endpoint.pricing))}


def traffic_object(seen: Traffic) -> dict[str, Any]:
    """Return what the fleet saw of a model in a window, as a whole and by provider; times in milliseconds."""
    found: dict[str, Any] = msgspec.to_builtins(seen)
    return found | {"success_rate": seen.success_rate}


def price_object(price: ListPrice) -> dict[str, Decimal | None]:
    """Return a price: tokens in USD a million, `request` and `image` in USD each."""
    return {name: getattr(price, name) for name in _RATES}


def override_object(override: Override) -> dict[str, Any]:
    """Return one override: its conditions, and the rates that it replaces."""
    rates = msgspec.structs.asdict(override.rates)
    conditions = {
        "above_prompt_tokens": override.min_prompt_tokens,
        "weekdays": None if override.days is None else sorted(override.days),
        "utc_start": override.start,
        "utc_end": override.end,
    }
    named = {name: rate for name, rate in rates.items() if rate is not msgspec.UNSET}
    listed = {name: None if rate is None else rate * MILLION for name, rate in named.items()}
    return conditions | {"prices": listed}


def comparison_object(compared: Comparison) -> dict[str, Any]:
    """Return a comparison: `cost_usd` is what the mix costs."""
    return {
        "mix": msgspec.structs.asdict(compared.mix),
        "models": [_compared_object(model) for model in compared.models],
        "wins": compared.wins,
    }


def recommendation_object(one: Recommendation, health: ModelHealth | None) -> dict[str, Any]:
    """Return a recommendation: scores from 0 to 1."""
    return {
        "model": one.item.id,
        "score": one.score,
        "reason": one.reason,
        "marked_down": one.marked_down,
        "parts": [msgspec.structs.asdict(part) for part in one.parts],
        "facts": model_object(one.item, health),
    }


def drift_object(drift: Drift) -> dict[str, Any]:
    """Return what of a listing was not known."""
    found: dict[str, Any] = msgspec.to_builtins(drift)
    return found


def _compared_object(model: Compared) -> dict[str, Any]:
    return model_object(model.item, model.health) | {
        "cost_usd": model.cost,
        "answer_ms": _figure(model.answer_ms),
        "first_token_ms": _figure(model.first_token_ms),
        "tokens_per_second": _figure(model.tokens_per_second),
        "success": _figure(model.success),
        "trouble": model.trouble,
        "benchmark": None if model.benchmark is None else msgspec.structs.asdict(model.benchmark),
    }


def _figure(figure: Figure | None) -> dict[str, Any] | None:
    return None if figure is None else msgspec.structs.asdict(figure)
