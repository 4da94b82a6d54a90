"""Every failure of the upstream, sorted into the one taxonomy of `outcomes.py`. Pure: values in, values out.

    HTTP status, or error.code / error_type of an error inside a 200
      400 413 422        NEVER    the request itself
      401                ACCOUNT  the key
      402                ACCOUNT  credits, key cap | LATER in-flight budget | NEVER larger than that budget
      403                NEVER    moderation, guardrail, region, permission | ACCOUNT a budget is spent
      404                NEVER    no endpoint fits | BACKOFF if `availability.retryable` | ACCOUNT wrong address
      408 504 524        BACKOFF  timeout: it may have run and been billed
      429                LATER    scope from `limit_source`
      5xx                BACKOFF  the provider
      other              NEVER 4xx, BACKOFF 5xx, ACCOUNT 3xx (wrong address)

Source: OpenRouter's "Errors and Debugging", "Limits" and "Zero Completion Insurance" pages, October-November 2026.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from batchmill.openrouter.errors import REQUEST_CODES, ErrorReport
from batchmill.openrouter.outcomes import Billed, Fault, Retry, Scope


class Verdict(msgspec.Struct, frozen=True):
    """What follows from a failure."""

    code: str
    retry: Retry
    fault: Fault
    billed: Billed = Billed.NO
    scope: Scope = Scope.MODEL


def caller_fault(code: str) -> Verdict:
    """Return the verdict on a request that can't succeed as it is."""
    return Verdict(code, Retry.NEVER, Fault.CALLER)


def account_fault(code: str) -> Verdict:
    """Return the verdict on a refusal that covers whatever this account would send."""
    return Verdict(code, Retry.ACCOUNT, Fault.ACCOUNT, scope=Scope.ACCOUNT)


def provider_fault(code: str, billed: Billed = Billed.NO) -> Verdict:
    """Return the verdict on a provider that failed: try again, and let the breaker know."""
    return Verdict(code, Retry.BACKOFF, Fault.PROVIDER, billed)


def _limit(code: str, scope: Scope) -> Verdict:
    return Verdict(code, Retry.LATER, Fault.LIMIT, scope=scope)


_WRONG_ENDPOINT: Final = account_fault("wrong_endpoint")
_BY_STATUS: Final = {
    400: caller_fault("invalid_request"),
    401: account_fault("authentication"),
    408: provider_fault("timeout", Billed.MAYBE),
    413: caller_fault("payload_too_large"),
    422: caller_fault("unprocessable"),
    500: provider_fault("server_error"),
    502: provider_fault("provider_unavailable"),
    503: provider_fault("provider_unavailable"),
    504: provider_fault("timeout", Billed.MAYBE),
    524: provider_fault("timeout", Billed.MAYBE),  # Cloudflare's edge gave up; the origin may go on
    529: provider_fault("provider_overloaded"),
}
# where an error names no status: OpenRouter's error_type, and the words that OpenAI's API puts there
_STATUS_OF_KIND: Final = {
    "authentication": 401,
    "invalid_api_key": 401,
    "payment_required": 402,
    "insufficient_quota": 402,
    "permission_denied": 403,
    "not_found": 404,
    "rate_limit_exceeded": 429,
    "server": 500,
    "server_error": 500,
    "timeout": 504,
    "provider_overloaded": 529,
}
_BUDGETS: Final = {
    "openrouter_key_limit": "key_limit_reached",
    "openrouter_guardrail_budget": "guardrail_budget_spent",
    "openrouter_workspace_budget": "workspace_budget_spent",
}
_SILENT: Final = ErrorReport()
_REDIRECTS: Final = range(300, 400)
_CLIENT_ERRORS: Final = range(400, 500)
_NOT_FOUND: Final = 404
_METHOD_NOT_ALLOWED: Final = 405
_BAD_REQUEST: Final = 400
_UNNAMED: Final = 502  # an error inside a 200 that names nothing we know is the provider's


def classify(status: int, report: ErrorReport | None) -> Verdict:
    """Return what follows from an error of this HTTP status (or `error.code`), given what its body said.

    Without a report the body was not the upstream's own: something on the way spoke (a proxy, a load balancer), and
    nobody knows whether the request ran.
    """
    said = report or _SILENT
    if said.limit_source in _BUDGETS:  # with 402 or 403, the documents disagree: the source decides
        return account_fault(_BUDGETS[said.limit_source])
    if status in _BY_CONTENT:
        return _BY_CONTENT[status](said) if report or status != _NOT_FOUND else _WRONG_ENDPOINT
    verdict = _BY_STATUS.get(status) or _unlisted(status, report)
    if verdict.fault is Fault.CALLER and said.kind in REQUEST_CODES:
        return msgspec.structs.replace(verdict, code=said.kind)
    if verdict.fault is Fault.PROVIDER and report is None:
        return msgspec.structs.replace(verdict, billed=Billed.MAYBE)
    return verdict


def status_of(report: ErrorReport) -> int:
    """Return the HTTP status that an error inside a 200 stands for: the one it names, or the one of its kind."""
    if report.status is not None:
        return report.status
    kind = report.kind or ""
    return _STATUS_OF_KIND.get(kind) or (_BAD_REQUEST if kind in REQUEST_CODES else _UNNAMED)


def _unlisted(status: int, report: ErrorReport | None) -> Verdict:
    if status in _REDIRECTS or (status == _METHOD_NOT_ALLOWED and report is None):
        return _WRONG_ENDPOINT
    return caller_fault("invalid_request") if status in _CLIENT_ERRORS else provider_fault("provider_unavailable")


def _payment(said: ErrorReport) -> Verdict:
    if said.reason == "weight_exceeds_budget":
        return Verdict("request_exceeds_in_flight_budget", Retry.NEVER, Fault.LIMIT)
    if said.limit_source == "openrouter_in_flight_budget" or said.reason == "in_flight_budget_exhausted":
        return _limit("in_flight_budget_exhausted", Scope.ACCOUNT)
    if "fewer max_tokens" in said.message or "can only afford" in said.message:
        return account_fault("credits_too_low")
    return account_fault("insufficient_credits")


def _forbidden(said: ErrorReport) -> Verdict:
    if said.flagged_for is not None:
        return caller_fault("moderation")
    if said.content_blocked:
        return caller_fault("guardrail_blocked")
    if said.kind and said.kind in REQUEST_CODES:
        return caller_fault(said.kind)
    if (said.limit_source or "").startswith("openrouter"):  # a budget of next year's: the enum is open
        return account_fault("budget_spent")
    code = "region_restricted" if "region" in said.message.lower() else "permission_denied"
    return Verdict(code, Retry.NEVER, Fault.ACCOUNT)


def _not_found(said: ErrorReport) -> Verdict:
    code = next((code for code in (said.availability, said.kind) if code and code in REQUEST_CODES), "not_found")
    return provider_fault(code) if said.retryable else caller_fault(code)


def _too_many(said: ErrorReport) -> Verdict:
    if said.kind == "insufficient_quota":  # OpenAI says 429 when the money is gone
        return account_fault("insufficient_credits")
    source = said.limit_source or ""
    if source == "openrouter_free_tier_daily" or "free-models-per-day" in said.message:
        return _limit("free_daily_limit", Scope.FREE_MODELS)
    if source.startswith("openrouter_free") or "free-models-per-min" in said.message:
        return _limit("free_minute_limit", Scope.FREE_MODELS)
    return _limit("rate_limit_exceeded", Scope.ACCOUNT if source.startswith("openrouter") else Scope.MODEL)


_BY_CONTENT: Final[Mapping[int, Callable[[ErrorReport], Verdict]]] = {
    402: _payment,
    403: _forbidden,
    _NOT_FOUND: _not_found,
    429: _too_many,
}
