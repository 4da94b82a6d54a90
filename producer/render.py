"""Results and states as others read them: OpenAI's batch output lines and Batch object, or flat simple lines.

Shapes after OpenAI's BatchRequestOutput and Batch; what OpenAI does not have is in fields that begin with `x_`.
"""

from decimal import Decimal
from typing import Any

import msgspec

from batchmill.openrouter.money import to_usd, usd_if_known
from batchmill.store.model import Attempt, BatchState, BatchStatus, Result, Routed

_encode = msgspec.json.Encoder(decimal_format="number").encode

URL = "/v1/chat/completions"
_COMPLETION_WINDOW = "24h"


def line_id(batch_id: str, result: Result) -> str:
    """Return the id of a line's output, unique over all batches."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{result.index}"


def openai_line(batch_id: str, result: Result) -> bytes:
    """Return a result as a line of OpenAI's output or error file; a failed line can be handed in again as it is."""
    line: dict[str, Any] = {
        "id": line_id(batch_id, result),
        "custom_id": result.custom_id,
        "response": _response(result),
        "error": None,
    }
    if line["response"] is None:
        line["error"] = {"code": result.error_code, "message": result.error_message}
    if result.request is not None:
        line |= {"method": "POST", "url": URL, "body": msgspec.Raw(result.request)}
    line["x_cost_usd"] = result.cost_usd
    line["x_latency_ms"] = result.latency_ms
    if result.cached:
        line["x_cached"] = True
    line["x_attempts"] = [_attempt(attempt) for attempt in result.attempts]
    if result.routed is not None:
        line["x_routed"] = _routed(result.routed)
    return _encode(line) + b"\n"


def simple_line(result: Result) -> bytes:
    """Return a result as one flat object, for `jq` and data frames."""
    usage = result.usage
    line: dict[str, Any] = {
        "custom_id": result.custom_id,
        "content": result.content,
        "model": _served_model(result),
        "finish_reason": result.finish_reason,
        "usage": None
        if usage is None
        else {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
        },
        "cost_usd": result.cost_usd,
        "latency_ms": result.latency_ms,
        "attempts": len(result.attempts),
    }
    if result.cached:
        line["cached"] = True
    if result.routed is not None:
        line["routed"] = _routed(result.routed)
    return _encode(line) + b"\n"


def batch_object(status: BatchStatus) -> dict[str, Any]:
    """Return a batch as OpenAI's Batch object; `failed` holds every line that has no completion and never will."""
    usage = status.usage
    return {
        "id": status.id,
        "object": "batch",
        "endpoint": URL,
        "errors": None,
        "input_file_id": None,
        "completion_window": _COMPLETION_WINDOW,
        "status": "finalizing" if status.state is BatchState.EXPIRING else status.state.value,
        "output_file_id": None,
        "error_file_id": None,
        "created_at": status.created_at,
        "in_progress_at": status.in_progress_at,
        "expires_at": status.expires_at,
        "finalizing_at": status.finalizing_at or status.completed_at,
        "completed_at": status.completed_at,
        "failed_at": None,
        "expired_at": status.expired_at,
        "cancelling_at": status.cancelling_at,
        "cancelled_at": status.cancelled_at,
        "request_counts": {
            "total": status.total,
            "completed": status.succeeded,
            "failed": status.failed + status.cancelled + status.expired,
        },
        "metadata": None,
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
        **_additions(status),
    }


def to_json(value: object) -> str:
    """Return JSON text with exact decimals."""
    return _encode(value).decode()


def _additions(status: BatchStatus) -> dict[str, Any]:
    return {
        "x_counts": {
            "pending": status.pending,
            "running": status.running,
            "succeeded": status.succeeded,
            "failed": status.failed,
            "cancelled": status.cancelled,
            "expired": status.expired,
        },
        "x_cost": {
            "spent_usd": to_usd(status.cost),
            "untold_lines": status.uncosted,
            "cached_lines": status.cached,
            "max_usd": usd_if_known(status.max_cost),
        },
        "x_project": status.project,
        "x_priority": status.priority.value,
        "x_metadata": dict(tag.split("=", 1) for tag in status.tags),
        "x_models": status.models,
        "x_upstream": status.upstream,
        "x_source": status.source,
        "x_retry_of": status.retry_of,
        "x_blocked_on": status.blocked_on,
    }


def _response(result: Result) -> dict[str, Any] | None:
    if result.status_code is None or result.response is None:
        return None
    request_id = result.attempts[-1].generation_id if result.attempts else None
    return {"status_code": result.status_code, "request_id": request_id, "body": msgspec.Raw(result.response)}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    described = {name: getattr(attempt, name) for name in attempt.__struct_fields__ if name not in ("cost", "cached")}
    if attempt.cached:
        described["cached"] = True
    cost: Decimal | None = usd_if_known(attempt.cost)
    return {name: value for name, value in {**described, "cost_usd": cost}.items() if value is not None}


def _routed(routed: Routed) -> dict[str, Any]:
    """Return how a line came to its model: what it asked for, and each model that was considered, with the reason."""
    return {
        "asked": routed.asked,
        "strategy": routed.strategy.value,
        "chosen": routed.chosen,
        "considered": [each.model for each in routed.considered],
        "reasons": {each.model: each.reason for each in routed.considered},
    }


def _served_model(result: Result) -> str:
    return next((attempt.model for attempt in reversed(result.attempts) if attempt.model), result.model)
