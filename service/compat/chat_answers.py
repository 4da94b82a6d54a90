"""What became of a chat completion, as an HTTP answer: the upstream's own body, or its error in OpenAI's shape."""

from typing import Any

import msgspec
from starlette.responses import Response

from batchmill.openrouter.errors import read_error
from batchmill.openrouter.wire import UNREADABLE
from batchmill.producer.errors import InputError
from batchmill.producer.intake import BadLinesError
from batchmill.service import problems
from batchmill.service.problems import INVALID, ApiError
from batchmill.store.model import BatchStatus, LineState, Result

PASSED_ON = (400, 403, 404, 408, 413, 422, 429)
"""Statuses of the upstream that are about the request, and mean the same to our client; others are its own trouble."""

_FAILED_UPSTREAM, _TIMED_OUT, _PAYMENT, _BUSY = 502, 504, 402, 503
_KINDS = {403: "permission_error", 429: "rate_limit_error"}
_RATES = {"limit", "pause", "share"}  # the gate's words for too much at once
_CAP = "max_cost_usd"
_TIMEOUTS = {"timeout", "connect_timeout", "batch_expired"}


def answer_of(batch_id: str, result: Result) -> Response:
    """Return the answer of a line that has its result. Raises ApiError for one without a completion."""
    headers = headers_of(batch_id, result)
    if result.succeeded and result.response is not None:
        return Response(result.response, result.status_code or 200, headers, "application/json")
    raise failure_of(result, headers)


def headers_of(batch_id: str, result: Result | None = None) -> dict[str, str]:
    """Return what our headers say: which batch it was, and what it took."""
    told = {"x-batch-id": batch_id}
    if result is None:
        return told
    told |= {"x-attempts": str(len(result.attempts)), "x-cached": "true" if result.cached else "false"}
    model = next((each.model for each in reversed(result.attempts) if each.model), result.model)
    if model:
        told["x-model"] = header_text(model)
    if result.cost_usd is not None:
        told["x-cost-usd"] = f"{result.cost_usd:f}"
    return told


def failure_of(result: Result, headers: dict[str, str]) -> ApiError:
    """Return the error of a line that failed. It was tried as often as it may be: the client need not try again."""
    code = (result.attempts[-1].outcome if result.attempts else None) or result.error_code or "server_error"
    headers = {**headers, "x-should-retry": "false"}
    if result.state is LineState.CANCELLED:
        return ApiError(409, "The completion was cancelled.", code="batch_cancelled", headers=headers)
    message, param = _told(result)
    status = result.status_code
    if code == "model_not_found":  # as OpenAI has it, whatever the upstream calls it
        status, param = 404, "model"
    if status not in PASSED_ON:
        status = _TIMED_OUT if code in _TIMEOUTS else _FAILED_UPSTREAM
    kind = _KINDS.get(status, INVALID if status in PASSED_ON else "server_error")
    return ApiError(status, message or code, kind=kind, param=param, code=code, headers=headers)


def blocked(status: BatchStatus, waited: float) -> ApiError:
    """Return the error of a completion that did not begin in time, and says why."""
    reason = status.blocked_on or "nobody knows why"
    headers = {"x-batch-id": status.id, "x-blocked-on": header_text(reason)}
    message = f"The completion did not begin within {waited:.0f} seconds and was cancelled: {reason}."
    by = set(status.blocked_by)
    if "budget" in by:
        headers["x-should-retry"] = "false"
        return ApiError(_PAYMENT, message, kind="insufficient_quota", code="budget_exceeded", headers=headers)
    if by & _RATES:
        return ApiError(429, message, kind="rate_limit_error", code="rate_limit_exceeded", headers=headers)
    headers["x-should-retry"] = "false"  # it has waited long enough
    code = "no_worker" if "worker" in by else "not_begun"
    return ApiError(_BUSY if by else _TIMED_OUT, message, kind="server_error", code=code, headers=headers)


def refusal_of(error: InputError) -> ApiError:
    """Return the error of a request that could not be handed over."""
    if not isinstance(error, BadLinesError):
        known = error.__cause__ is None or isinstance(error.__cause__, ValueError)
        return problems.invalid(str(error)) if known else problems.unavailable(str(error))
    bad = error.survey.bad[0]
    param = bad.param and bad.param.removeprefix("body.")
    if bad.code == "line_too_large":
        return problems.too_large("The request is too large: " + bad.message)
    message = bad.message.replace("the batch's --max-cost", _CAP).replace("--max-cost", _CAP)
    if bad.code == "no_price":  # of a model that the catalogue does not have, nearly always
        return ApiError(404, f"The model can't be used: {message}", param="model", code="model_not_found")
    if bad.code == "no_candidate":  # as OpenRouter: there is no endpoint for it
        return ApiError(404, message, param=param, code=bad.code)
    return problems.invalid(message, param, bad.code)


def header_text(text: str) -> str:
    """Return text as a header can hold it."""
    return " ".join(text.encode("ascii", "replace").decode().split())


class _Blame(msgspec.Struct):
    param: Any = None


class _Error(msgspec.Struct):
    error: _Blame | None = None


_decode = msgspec.json.Decoder(_Error).decode


def _told(result: Result) -> tuple[str, str | None]:
    """Return what the upstream said went wrong, and the parameter that it blames."""
    said = result.error_message or (result.attempts[-1].message if result.attempts else None) or ""
    if result.response is None:
        return said, None
    report = read_error(result.response)
    try:
        blame = _decode(result.response).error
    except UNREADABLE:
        blame = None
    param = blame.param if blame is not None and isinstance(blame.param, str) else None
    return said or (report.message if report else ""), param
