"""Everything that is asked beside completions: models, the key, credits and past generations."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from batchmill.openrouter.money import to_usd
from batchmill.openrouter.simulator import refusals
from batchmill.openrouter.simulator.account import key_data
from batchmill.openrouter.simulator.catalogue import Model
from batchmill.openrouter.simulator.described import (
    endpoints_data,
    generation_data,
    model_endpoints,
    providers_data,
)
from batchmill.openrouter.simulator.refusals import Refusal
from batchmill.openrouter.simulator.upstream import Upstream, check_key
from batchmill.openrouter.simulator.wire import encoder

_Answer = dict[str, Any] | bytes | Refusal


class Lookups:
    """Answers the GET endpoints of one upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._public: dict[str, Callable[[web.BaseRequest], _Answer]] = {
            "/models": lambda _: upstream.catalogue.listing,
            "/models/count": lambda _: {"data": {"count": len(upstream.catalogue.models)}},
            "/providers": lambda _: {"data": providers_data(list(upstream.catalogue.models.values()))},
            "/endpoints/zdr": self._endpoints_without_retention,
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
            return public(request)
        private = self._private.get(path)
        if private is not None:
            return check_key(request.headers) or private(request)
        if path.startswith("/model/"):
            return self._model(path.removeprefix("/model/"), lambda model: b'{"data":' + bytes(model.listing) + b"}")
        if path.startswith("/models/") and path.endswith("/endpoints"):
            known = check_key(request.headers) is None
            traffic = self._upstream.traffic
            return self._model(
                path.removeprefix("/models/").removesuffix("/endpoints"),
                lambda model: {"data": endpoints_data(model, traffic, known=known)},
            )
        return refusals.not_found(f"{path} is not simulated")

    def _model(self, model_id: str, show: Callable[[Model], _Answer]) -> _Answer:
        model = self._upstream.catalogue.find(model_id)
        return refusals.not_found(f"Model {model_id} not found") if model is None else show(model)

    def _endpoints_without_retention(self, request: web.BaseRequest) -> _Answer:
        """Nobody here keeps anything, so these are all endpoints."""
        known = check_key(request.headers) is None
        traffic = self._upstream.traffic
        models = self._upstream.catalogue.models.values()
        return {"data": [each for model in models for each in model_endpoints(model, traffic, known=known)]}

    def _key(self) -> _Answer:
        upstream = self._upstream
        caps = upstream.caps
        data = key_data(upstream.key_limit, upstream.books.spending, caps.free_used_today, upstream.options.free_daily)
        return {"data": data}

    def _credits(self) -> _Answer:
        used = to_usd(self._upstream.books.stats.billed_nano)
        return {"data": {"total_credits": self._upstream.credits_usd, "total_usage": used}}

    def _generation(self, request: web.BaseRequest) -> _Answer:
        generation_id = request.query.get("id", "")
        generation = self._upstream.books.generations.get(generation_id)
        readable_from = self._upstream.clock() - self._upstream.options.generation_delay
        if generation is None or generation.ended > readable_from:
            return refusals.not_found(f"Generation {generation_id} not found")
        return {"data": generation_data(generation)}
