"""Answers that are errors, with the bodies and headers that OpenRouter sends.

Shapes: the error envelope of OpenRouter's reference, and `metadata` as captures of 2026 show it.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from batchmill.openrouter.simulator.faults import FaultKind

_encoder = msgspec.json.Encoder(decimal_format="number")

USER_ID = "user_simulated"
_UPSTREAM_RETRY_SECONDS = 1
_IN_FLIGHT_RETRY_SECONDS = 2
_UNAVAILABLE_RETRY_SECONDS = 1
_FAULT_CONTEXT = 8192  # tokens; of the context that a fault says is exceeded
_ERROR_DOCS = "https://openrouter.ai/docs/api-reference/errors"
_ADD_CREDITS = "https://openrouter.ai/settings/credits"

_MASKED = ("server", "timeout")  # error types whose bodies don't tell which provider failed
# status, message, error type, seconds for Retry-After
_PROVIDER_FAULTS = {
    FaultKind.REQUEST_TIMEOUT: (408, "Request timed out", "timeout", None),
    FaultKind.INTERNAL: (500, "Internal Server Error", "server", None),
    FaultKind.BAD_GATEWAY: (502, "Provider returned error", "provider_unavailable", None),
    FaultKind.UNAVAILABLE: (503, "No instances available", "provider_unavailable", _UNAVAILABLE_RETRY_SECONDS),
    FaultKind.GATEWAY_TIMEOUT: (504, "The operation was aborted", "timeout", None),
    FaultKind.EDGE_TIMEOUT: (524, "A timeout occurred", "timeout", None),
    FaultKind.OVERLOADED: (529, "Provider is overloaded", "provider_overloaded", None),
}
_PROVIDER_LOST = (502, "Provider disconnected unexpectedly", "provider_unavailable", None)  # inside a 200


class Refusal(msgspec.Struct, frozen=True):
    """One error answer. `error` is the value of the body's `error` key."""

    status: int
    error: dict[str, Any]
    headers: dict[str, str] = {}
    seconds: float = 0.0  # that a provider took before it failed

    @property
    def body(self) -> bytes:
        """The whole body, as JSON."""
        return _encoder.encode({"error": self.error, "user_id": USER_ID})


def refuse(
    status: int,
    message: str,
    error_type: str | None = None,
    *,
    headers: dict[str, str] | None = None,
    **metadata: Any,
) -> Refusal:
    """Make an error answer in the usual envelope; rate headers are repeated in its metadata, as on the wire."""
    if headers:
        metadata["headers"] = headers
    if error_type:
        metadata = {"error_type": error_type, **metadata}
    error: dict[str, Any] = {"message": message, "code": status}
    if metadata:
        error["metadata"] = metadata
    return Refusal(status, error, headers or {})


def unauthorized(message: str = "No auth credentials found") -> Refusal:
    """401: no key, or one that is not known."""
    return refuse(401, message, "authentication")


def bad_request(message: str, error_type: str = "invalid_request", **metadata: Any) -> Refusal:
    """400: the caller's fault."""
    return refuse(400, message, error_type, **metadata)


def unknown_model(model: str) -> Refusal:
    """400, not 404, for a model id that does not exist."""
    return bad_request(f"{model} is not a valid model ID", "model_not_found")


def not_found(message: str) -> Refusal:
    """404 of the lookups."""
    return refuse(404, message, "not_found")


def no_endpoints(model: str) -> Refusal:
    """404: nobody serves the model."""
    return _unavailable(f"No endpoints found for {model}.", "no_endpoints", model, [])


def constraint_filtered(model: str, providers: list[str], step: str) -> Refusal:
    """404: no endpoint left after `provider` preferences; `step` is the one that took the last away."""
    return _unavailable(
        "No endpoints found that satisfy the requested provider routing constraints",
        "constraint_filtered",
        model,
        providers,
        step,
    )


def _unavailable(message: str, code: str, model: str, providers: list[str], step: str | None = None) -> Refusal:
    """A 404 with the `availability` that OpenRouter adds since August 2026, which says what `error_type` does not."""
    metadata: dict[str, Any] = {}
    if step is not None:
        funnel = [{"step": "model", "model": model, "endpoints": len(providers)}, {"step": step, "endpoints": 0}]
        metadata = {"failed_routing_step": step, "routing_funnel": funnel}
    refused = refuse(404, message, "not_found", **metadata)
    refused.error["availability"] = {
        "code": code,
        "retryable": False,
        "retry_after": None,
        "requested_models": [model],
        "affected_providers": providers,
        "excluded_by": [step] if step else [],
        "fallback_models": [],
        "constraint": step,
        "docs_url": _ERROR_DOCS,
    }
    return refused


def context_exceeded(context: int, prompt: int, output: int) -> Refusal:
    """400: prompt and requested output don't fit into the model's context."""
    return bad_request(
        f"This endpoint's maximum context length is {context} tokens. However, you requested about {prompt + output} "
        f"tokens ({prompt} of text input, {output} in the output). Please reduce the length of either one, or use the "
        '"context-compression" plugin to compress your prompt automatically.',
        "context_length_exceeded",
    )


def insufficient_credits() -> Refusal:
    """402: the balance is used up."""
    return refuse(
        402,
        f"Insufficient credits. Add more using {_ADD_CREDITS}",
        "payment_required",
        limit_source="openrouter_credits",
    )


def upstream_limited(model: str, provider: str, retry_after: int = _UPSTREAM_RETRY_SECONDS) -> Refusal:
    """429 of one provider's pool: no X-RateLimit headers, `retry_after` in seconds."""
    return refuse(
        429,
        "Provider returned error",
        "rate_limit_exceeded",
        headers={"Retry-After": str(retry_after)},
        raw=f"{model} is temporarily rate-limited upstream. Please retry shortly, or add your own key to accumulate "
        "your rate limits: https://openrouter.ai/settings/integrations",
        provider_name=provider,
        is_byok=False,
        limit_source="upstream_provider_shared_pool",
        retry_after_seconds=retry_after,
    )


def platform_limited(message: str, limit_source: str, limit: int, reset: float, now: float) -> Refusal:
    """429 of the platform itself; `reset` and `now` in unix seconds, the header in milliseconds."""
    rate_headers = {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(reset * 1000)),
    }
    retry_after = str(max(1, int(reset - now) + 1))
    return refuse(
        429,
        message,
        "rate_limit_exceeded",
        headers={**rate_headers, "Retry-After": retry_after},
        limit_source=limit_source,
    )


def fault(kind: FaultKind, model: str, provider: str, now: float, seconds: float = 0.0) -> Refusal:
    """Return the answer that a fault of this kind is. Kinds inside a 200 give the error that goes into it.

    `seconds` is how long a provider took until it failed; refusals of the platform itself come at once.
    """
    refused = _platform_fault(kind, model, provider, now)
    if refused is not None:
        return refused
    status, message, error_type, retry_after = _PROVIDER_FAULTS.get(kind, _PROVIDER_LOST)
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    if error_type in _MASKED:
        refused = refuse(status, message, error_type, headers=headers)
    else:
        refused = refuse(
            status, message, error_type, headers=headers, provider_name=provider, raw=message, is_byok=False
        )
    return msgspec.structs.replace(refused, seconds=seconds)


def _platform_fault(kind: FaultKind, model: str, provider: str, now: float) -> Refusal | None:
    if kind in _ALWAYS_THE_SAME:
        return _ALWAYS_THE_SAME[kind]
    match kind:
        case FaultKind.IN_FLIGHT_BUDGET:
            return _in_flight_budget()
        case FaultKind.MODERATION:
            return _moderated(model, provider)
        case FaultKind.BUDGET_SPENT:
            return _budget_spent(now)
        case FaultKind.NO_ENDPOINT:
            return no_endpoints(model)
        case FaultKind.RATE_LIMIT:
            return upstream_limited(model, provider)
    return None


def _moderated(model: str, provider: str) -> Refusal:
    return refuse(
        403,
        f"{model} requires moderation on {provider}. Your input was flagged",
        "content_policy_violation",
        reasons=["violence"],
        flagged_input="...",
        provider_name=provider,
        model_slug=model,
    )


def key_limit_spent(reset: str | None, limit_usd: Decimal, spend_usd: Decimal, resets_at: str | None) -> Refusal:
    """403: the key's own limit is spent; `reset` is its window's name."""
    return refuse(
        403,
        f"Key limit exceeded ({reset or 'total'} limit). Manage it using https://openrouter.ai/settings/keys",
        "permission_denied",
        limit_source="openrouter_key_limit",
        scope="key_limit",
        limit_usd=limit_usd,
        spend_usd=spend_usd,
        resets_at=resets_at,
    )


def _budget_spent(now: float) -> Refusal:
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return key_limit_spent("daily", Decimal(10), Decimal(10), midnight.strftime("%Y-%m-%dT%H:%M:%SZ"))


def _in_flight_budget() -> Refusal:
    return refuse(
        402,
        "This request would exceed your available credits given your current in-flight requests. "
        "Retry after in-flight requests settle, or add credits.",
        "payment_required",
        headers={"Retry-After": str(_IN_FLIGHT_RETRY_SECONDS)},
        limit_source="openrouter_in_flight_budget",
        reason="in_flight_budget_exhausted",
        remedy_hint="Retry after your in-flight requests settle (see the Retry-After header).",
    )


_ALWAYS_THE_SAME = {
    FaultKind.BAD_REQUEST: bad_request("Provider rejected the request"),
    FaultKind.CONTEXT: context_exceeded(_FAULT_CONTEXT, _FAULT_CONTEXT, _FAULT_CONTEXT),
    FaultKind.UNAUTHORIZED: unauthorized("User not found."),
    FaultKind.OUT_OF_CREDITS: insufficient_credits(),
    FaultKind.TOO_LARGE: refuse(413, "Request payload is too large", "payload_too_large"),
    FaultKind.UNPROCESSABLE: refuse(422, "Request is semantically invalid", "unprocessable"),
}
