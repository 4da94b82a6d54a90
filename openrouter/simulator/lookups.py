"""Everything that is asked beside completions: models, the key, credits and past generations."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from batchmill.openrouter.money import to_usd
from batchmill.openrouter.simulator import refusals
from batchmill.openrouter.simulator.books import Generation
from batchmill.openrouter.simulator.catalogue import Endpoint, Model
from batchmill.openrouter.simulator.refusals import Refusal
from batchmill.openrouter.simulator.upstream import Upstream, check_key
from batchmill.openrouter.simulator.wire import encoder

_Answer = dict[str, Any] | bytes | Refusal
_MILLISECONDS = 1000


class Lookups:
    """Answers the GET endpoints of one upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._public: dict[str, Callable[[], _Answer]] = {
            "/models": lambda: upstream.catalogue.listing,
            "/models/count": lambda: {"data": {"count": len(upstream.catalogue.models)}},
        }
        self._private: dict[str, Callable[[web.BaseRequest], _Answer]] = {
            "/models/user": lambda _: upstream.catalogue.listing,
            "/key": lambda _: self._key(),
            "/credits": lambda _: self._credits(),
            "/generation": self._generation,
        }

    def __call__(self, request: web.BaseRequest, path: str) -> web.Response:
        """Answer one lookup; `path` is what follows the base URL."""
        answer = self._answer(request, path)
        if isinstance(answer, Refusal):
            return web.Response(status=answer.status, body=answer.body, content_type="application/json")
        body = answer if isinstance(answer, bytes) else encoder.encode(answer)
        return web.Response(body=body, content_type="application/json")

    def _answer(self, request: web.BaseRequest, path: str) -> _Answer:
        public = self._public.get(path)
        if public is not None:
            return public()
        private = self._private.get(path)
        if private is not None:
            return check_key(request.headers) or private(request)
        if path.startswith("/model/"):
            return self._model(path.removeprefix("/model/"), lambda model: b'{"data":' + bytes(model.listing) + b"}")
        if path.startswith("/models/") and path.endswith("/endpoints"):
            return self._model(path.removeprefix("/models/").removesuffix("/endpoints"), _endpoints)
        return refusals.not_found(f"{path} is not simulated")

    def _model(self, model_id: str, show: Callable[[Model], _Answer]) -> _Answer:
        model = self._upstream.catalogue.find(model_id)
        return refusals.not_found(f"Model {model_id} not found") if model is None else show(model)

    def _key(self) -> _Answer:
        upstream = self._upstream
        used = to_usd(upstream.books.stats.billed_nano)
        free_limit = upstream.options.free_daily or 0
        free_used = upstream.caps.free_used_today
        return {
            "data": {
                "label": "sk-or-v1-sim...ulated",
                "limit": None,
                "limit_remaining": None,
                "limit_reset": None,
                "usage": used,
                "usage_daily": used,
                "usage_weekly": used,
                "usage_monthly": used,
                "byok_usage": 0,
                "byok_usage_daily": 0,
                "byok_usage_weekly": 0,
                "byok_usage_monthly": 0,
                "include_byok_in_limit": False,
                "is_free_tier": False,
                "is_management_key": False,
                "is_provisioning_key": False,
                "free_model_daily_requests": {
                    "used": free_used,
                    "limit": free_limit,
                    "remaining": max(0, free_limit - free_used),
                },
                "budgets": [],
                "effective_budget": None,
                "creator_user_id": refusals.USER_ID,
                "organization_id": None,
                "workspace_id": None,
                "expires_at": None,
                "allowed_data_regions": ["global"],
                "rate_limit": {"interval": "10s", "requests": -1, "note": "This field is deprecated"},
            }
        }

    def _credits(self) -> _Answer:
        used = to_usd(self._upstream.books.stats.billed_nano)
        return {"data": {"total_credits": self._upstream.options.credits_usd, "total_usage": used}}

    def _generation(self, request: web.BaseRequest) -> _Answer:
        generation_id = request.query.get("id", "")
        generation = self._upstream.books.generations.get(generation_id)
        readable_from = self._upstream.clock() - self._upstream.options.generation_delay
        if generation is None or generation.ended > readable_from:
            return refusals.not_found(f"Generation {generation_id} not found")
        return {"data": _generation_data(generation)}


def _generation_data(generation: Generation) -> dict[str, Any]:
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
        "num_search_results": 0,
        "latency": milliseconds,
        "generation_time": milliseconds,
        "moderation_latency": None,
        "provider_responses": [
            {"provider_name": generation.provider, "status": 200, "latency": milliseconds, "is_byok": False}
        ],
        "service_tier": None,
        "session_id": None,
        "external_user": None,
        "origin": "",
        "user_agent": None,
        "app_id": None,
    }


class _Described(msgspec.Struct):
    id: str
    name: str
    created: int
    architecture: msgspec.Raw
    description: str = ""
    supported_parameters: list[str] = []


def _endpoints(model: Model) -> _Answer:
    entry = msgspec.json.decode(model.listing, type=_Described)
    return {
        "data": {
            "id": entry.id,
            "name": entry.name,
            "created": entry.created,
            "description": entry.description,
            "architecture": entry.architecture,
            "endpoints": [_endpoint(model, entry, endpoint) for endpoint in model.endpoints],
        }
    }


def _endpoint(model: Model, entry: _Described, endpoint: Endpoint) -> dict[str, Any]:
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
        "status": 0,
        "uptime_last_5m": 100,
        "uptime_last_30m": 100,
        "uptime_last_1d": 100,
        "latency_last_30m": None,
        "throughput_last_30m": None,
        "supports_implicit_caching": False,
        "supported_parameters": entry.supported_parameters,
    }
