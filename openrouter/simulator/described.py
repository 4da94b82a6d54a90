"""The simulator's models, endpoints, providers and generations as the lookups describe them."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from batchmill.openrouter.money import to_usd
from batchmill.openrouter.simulator.books import Generation
from batchmill.openrouter.simulator.catalogue import Endpoint, Model
from batchmill.openrouter.simulator.traffic import EndpointTraffic, Traffic

_MILLISECONDS = 1000


class _Architecture(msgspec.Struct):
    modality: str | None = None
    input_modalities: list[str] = []
    output_modalities: list[str] = []
    tokenizer: str | None = None
    instruct_type: str | None = None


class _Described(msgspec.Struct):
    id: str
    name: str
    created: int
    architecture: _Architecture
    description: str = ""
    supported_parameters: list[str] = []


def endpoints_data(model: Model, traffic: Traffic, *, known: bool) -> dict[str, Any]:
    """Return the `data` of a model's endpoints; latency and throughput only for a caller who is `known` by a key."""
    entry = _entry(model)
    return {
        "id": entry.id,
        "name": entry.name,
        "created": entry.created,
        "description": entry.description,
        "architecture": entry.architecture,
        "endpoints": model_endpoints(model, traffic, known=known),
    }


def model_endpoints(model: Model, traffic: Traffic, *, known: bool) -> list[dict[str, Any]]:
    """Return a model's endpoints as the wire has them."""
    entry = _entry(model)
    return [_endpoint(model, entry, each, traffic.of(model.id, each.tag), known=known) for each in model.endpoints]


def providers_data(models: list[Model]) -> list[dict[str, Any]]:
    """Return everyone who serves one of the models."""
    names = {endpoint.tag: endpoint.provider for model in models for endpoint in model.endpoints}
    return [
        {"name": name, "slug": tag, "privacy_policy_url": None, "terms_of_service_url": None, "status_page_url": None}
        for tag, name in sorted(names.items())
    ]


def generation_data(generation: Generation) -> dict[str, Any]:
    """Return the `data` of `GET /generation`."""
    usage = generation.usage
    cost = to_usd(generation.billed_nano)
    milliseconds = int((generation.ended - generation.started) * _MILLISECONDS)
    return {
        "id": generation.id,
        "upstream_id": f"chatcmpl-{generation.id.rpartition('-')[2]}",
        "model": generation.model,
        "provider_name": generation.provider,
        "router": None,
        "api_type": "completions",
        "created_at": datetime.fromtimestamp(generation.started, UTC).isoformat(),
        "streamed": generation.streamed,
        "cancelled": generation.cancelled,
        "finish_reason": generation.finish_reason,
        "native_finish_reason": generation.native_finish_reason,
        "total_cost": cost,
        "usage": cost,
        "upstream_inference_cost": None,
        "cache_discount": None,
        "is_byok": False,
        "tokens_prompt": usage.prompt_tokens,
        "tokens_completion": usage.completion_tokens,
        "native_tokens_prompt": usage.prompt_tokens,
        "native_tokens_completion": usage.completion_tokens,
        "native_tokens_reasoning": usage.reasoning_tokens,
        "native_tokens_cached": usage.cached_tokens,
        "native_tokens_completion_images": 0,
        "num_media_prompt": usage.images,
        "num_media_completion": 0,
        "num_input_audio_prompt": 0,
        "num_search_results": 0,
        "num_fetches": 0,
        "web_search_engine": None,
        "latency": milliseconds,
        "generation_time": milliseconds,
        "moderation_latency": None,
        "provider_responses": [_attempt(generation.provider, milliseconds)],
        "service_tier": None,
        "session_id": None,
        "external_user": None,
        "origin": "",
        "http_referer": None,
        "user_agent": None,
        "app_id": None,
        "preset_id": None,
        "data_region": "global",
        "workspace_id": None,
    }


def _attempt(provider: str, milliseconds: int) -> dict[str, Any]:
    return {"provider_name": provider, "status": 200, "latency": milliseconds, "is_byok": False}


def _entry(model: Model) -> _Described:
    return msgspec.json.decode(model.listing, type=_Described)


def _endpoint(
    model: Model, entry: _Described, endpoint: Endpoint, traffic: EndpointTraffic, *, known: bool
) -> dict[str, Any]:
    tools = "tool_choice" in entry.supported_parameters
    return {
        "name": f"{endpoint.provider} | {model.id}",
        "model_id": model.id,
        "model_name": entry.name,
        "provider_name": endpoint.provider,
        "tag": endpoint.tag,
        "context_length": model.context_length or 0,
        "max_completion_tokens": model.max_completion_tokens,
        "max_prompt_tokens": None,
        "pricing": endpoint.pricing,
        "quantization": "unknown",
        "service_tier": None,
        "status": traffic.status,
        **traffic.uptimes,
        "latency_last_30m": traffic.latency if known else None,
        "throughput_last_30m": traffic.throughput if known else None,
        "supports_implicit_caching": False,
        "supports_diarization": False,
        "supports_tool_choice": dict.fromkeys(("auto", "function", "none", "required"), tools),
        "native_tools": {},
        "supported_parameters": entry.supported_parameters,
    }
