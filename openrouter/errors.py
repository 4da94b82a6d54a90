"""What the upstream says when it refuses: exceptions for the account, codes, and a reader of every shape of error body.

BatchmillError
├── UpstreamRefusedError        the key, the credits or the address is wrong; waiting won't mend it
└── UpstreamUnavailableError    no usable answer came; another try may bring one

Only calls about the account raise these (`Upstream.key`). What happens to a line is a value: `outcomes.Failure`.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec

from batchmill.config.errors import BatchmillError
from batchmill.openrouter.outcomes import Failure
from batchmill.openrouter.wire import UNREADABLE

_MESSAGE_CHARS = 300
_ERROR_STATUSES = range(400, 600)
_EPOCH_MILLISECONDS = 1e11  # as seconds this is the year 5138, as milliseconds 1973
_EPOCH_SECONDS = 1e9  # below this a reset can only be a number of seconds from now
_TOO_MANY_REQUESTS = 429
_FREE_DAILY = "openrouter_free_tier_daily"
_T = TypeVar("_T")

REQUEST_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "invalid_request": "the upstream can't accept the request",
        "invalid_prompt": "the prompt is not valid",
        "context_length_exceeded": "prompt and answer don't fit into the model's context",
        "max_tokens_exceeded": "max_tokens is more than the model can answer",
        "token_limit_exceeded": "more tokens than the upstream accepts",
        "string_too_long": "a string is longer than the upstream accepts",
        "content_policy_violation": "the provider's content policy refuses the request",
        "refusal": "the provider refuses the request",
        "moderation": "moderation flagged the input",
        "guardrail_blocked": "a guardrail of the account blocks the content",
        "invalid_image": "an image can't be used",
        "image_too_large": "an image is too large",
        "image_too_small": "an image is too small",
        "unsupported_image_format": "an image has a format that the model can't read",
        "image_not_found": "an image was not found",
        "image_download_failed": "an image could not be fetched",
        "precondition_failed": "a precondition of the request failed",
        "payload_too_large": "the request is too large",
        "unprocessable": "the request is well-formed but makes no sense to the upstream",
        "model_not_found": "the upstream knows no such model",
        "not_found": "what the request names does not exist",
        "no_endpoints": "no endpoint serves this request",
        "privacy_restricted": "the account's privacy settings leave no endpoint",
        "constraint_filtered": "the request's constraints (maximum price, provider, ...) leave no endpoint",
        "model_deprecated": "the model was taken out of service",
        "free_variant_ended": "the free variant of the model has ended",
    }
)
"""The codes that blame the request itself; most are OpenRouter's own `error_type` values."""

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        **REQUEST_CODES,
        # the account
        "authentication": "the API key is wrong, disabled or expired",
        "permission_denied": "the API key may not do this",
        "region_restricted": "not available in this region",
        "insufficient_credits": "the account's credits are used up",
        "credits_too_low": "the account's credits don't cover the most that this request may cost",
        "key_limit_reached": "the API key's own spending limit is reached",
        "guardrail_budget_spent": "a guardrail's budget is spent",
        "workspace_budget_spent": "the workspace's budget is spent",
        "budget_spent": "a budget of the account is spent",
        "wrong_endpoint": "no completions API answers at this address",
        # limits
        "rate_limit_exceeded": "too many requests",
        "free_daily_limit": "the account's free requests of this UTC day are used up",
        "free_minute_limit": "too many free requests in this minute",
        "in_flight_budget_exhausted": "requests in the air hold all that the account may have in flight",
        "request_exceeds_in_flight_budget": "this one request holds more than the account may have in flight",
        # the provider
        "timeout": "no answer in time",
        "server_error": "the upstream failed internally",
        "provider_unavailable": "the provider failed, or none is available",
        "provider_overloaded": "the provider is overloaded",
        "provider_error": "the provider gave up in mid-answer",
        "invalid_response": "the answer is not a completion",
        # the connection
        "connect_failed": "no connection to the upstream",
        "connect_timeout": "no connection to the upstream in time",
        "connection_lost": "the connection broke after the request was sent",
        "stream_incomplete": "the stream broke off, or was damaged, before the answer was whole",
    }
)
"""Every `Failure.code` that calls can end with, and its meaning."""


class UpstreamRefusedError(BatchmillError):
    """The upstream refuses the account; `failure` says which rule, and until when if it was told."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"the upstream refuses the account ({failure.code}): {failure.message}")
        self.failure = failure


class UpstreamUnavailableError(BatchmillError):
    """The upstream gave no usable answer; `failure` says what happened."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"the upstream can't be used now ({failure.code}): {failure.message}")
        self.failure = failure


class ErrorReport(msgspec.Struct, frozen=True):
    """An error object with its meaning gathered from all the places where upstreams put it.

    `status` is the HTTP status that the object itself names; `retry_after` in seconds; `headers` are those repeated
    in the body (`error.metadata.headers`), with names in lower case. Prompt text (`flagged_input`, `raw`) stays out.
    """

    message: str = ""
    status: int | None = None
    kind: str | None = None
    limit_source: str | None = None
    reason: str | None = None
    provider: str | None = None
    availability: str | None = None
    retryable: bool = False
    retry_after: float | None = None
    resets_at: str | None = None
    headers: dict[str, str] = {}
    flagged_for: str | None = None
    content_blocked: bool = False


def read_error(body: bytes) -> ErrorReport | None:
    """Return what an error body says; None when it is not the JSON of an error (a proxy's page, nothing at all).

    Shapes: OpenRouter's and OpenAI's `{"error": {...}}`, `{"error": "text"}`, and vLLM's bare
    `{"object": "error", "message": ...}`.
    """
    try:
        table = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    if not isinstance(table, dict):
        return None
    error = table.get("error")
    if isinstance(error, str):
        return report_of({"message": error, "error_type": table.get("error_type")})
    if error is None and table.get("object") == "error":
        error = table
    return report_of(error) if isinstance(error, dict) else None


def error_body(body: bytes | msgspec.Raw) -> bytes:
    """Return an error as an object with an `error` key, whatever shape it came in."""
    text = bytes(body)
    try:
        table = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        table = {}
    return text if "error" in table else b'{"error":%b}' % text


def report_of(error: dict[str, Any]) -> ErrorReport:
    """Return the meaning of one error object: `error` of a body or a chunk, or `choices[].error`."""
    metadata = _table(error.get("metadata"))
    availability = _table(error.get("availability")) or _table(metadata.get("availability"))
    code = error.get("code")
    told = (metadata.get("error_type"), error.get("error_type"), _word(code), error.get("type"))
    waits = (metadata.get("retry_after_seconds"), availability.get("retry_after"), error.get("retry_after"))
    return ErrorReport(
        message=_one_line(error.get("message")),
        status=_first(_status(each) for each in (code, error.get("http_status"), metadata.get("http_status"))),
        kind=_first(_text(each) for each in told),
        limit_source=_text(metadata.get("limit_source")) or _text(error.get("limit_source")),
        reason=_text(metadata.get("reason")) or _text(error.get("reason")),
        provider=_text(metadata.get("provider_name")),
        availability=_text(availability.get("code")),
        retryable=availability.get("retryable") is True,
        retry_after=_first(_seconds(each) for each in waits),
        resets_at=_text(metadata.get("resets_at")) or _text(error.get("resets_at")),
        headers={name.lower(): str(value) for name, value in _table(metadata.get("headers")).items()},
        flagged_for=_flagged_for(metadata),
        content_blocked=bool(metadata.get("patterns")),
    )


def wait_told(status: int, report: ErrorReport | None, headers: Mapping[str, str], now: float) -> float | None:
    """Return how many seconds the upstream asks to wait, as told and uncapped; None when it did not say.

    `headers` are the response's, names in lower case; `now` in epoch seconds. `Retry-After` is in seconds or an HTTP
    date (RFC 9110, 10.2.3). `X-RateLimit-Reset` comes with OpenRouter's own 429s only, in epoch milliseconds; the
    daily limit on free models is over then and not sooner. A spent budget names `resets_at` (ISO 8601).
    """
    said = report or ErrorReport()
    asked = (
        _retry_after(headers.get("retry-after"), now),
        said.retry_after,
        _retry_after(said.headers.get("retry-after"), now),
    )
    resets = headers.get("x-ratelimit-reset") or said.headers.get("x-ratelimit-reset")
    reset = _until_reset(resets, now) if status == _TOO_MANY_REQUESTS else None
    if said.limit_source == _FREE_DAILY and reset is not None:
        return reset
    return _first((*asked, reset, _until_date(said.resets_at, now)))


def _retry_after(value: str | None, now: float) -> float | None:
    if value is None:
        return None
    wait = _seconds(value)
    if wait is not None:
        return wait
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, _timestamp(when) - now)


def _until_reset(value: str | None, now: float) -> float | None:
    reset = _seconds(value)
    if reset is None or reset < _EPOCH_SECONDS:
        return reset
    return max(0.0, (reset / 1000 if reset >= _EPOCH_MILLISECONDS else reset) - now)


def date_of(value: str | None) -> float | None:
    """Return an ISO 8601 date as unix seconds, UTC where it names no zone; None for what is no date."""
    try:
        return _timestamp(datetime.fromisoformat(value)) if value else None
    except ValueError:
        return None


def _until_date(value: str | None, now: float) -> float | None:
    date = date_of(value)
    return None if date is None else max(0.0, date - now)


def _timestamp(when: datetime) -> float:
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _flagged_for(metadata: dict[str, Any]) -> str | None:
    reasons = metadata.get("reasons")
    if not reasons and "flagged_input" not in metadata:
        return None
    return _one_line(", ".join(str(reason) for reason in reasons)) if isinstance(reasons, list) else "no reason told"


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _word(code: Any) -> str | None:
    return code if isinstance(code, str) and not code.isdigit() else None


def _status(code: Any) -> int | None:
    if isinstance(code, str) and code.isdecimal():
        code = int(code) if len(code) <= len("599") else 0
    return int(code) if isinstance(code, int | float) and code in _ERROR_STATUSES else None


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _first(values: Iterable[_T | None]) -> _T | None:
    return next((value for value in values if value is not None), None)


def _one_line(value: Any) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return text if len(text) <= _MESSAGE_CHARS else text[: _MESSAGE_CHARS - 1] + "…"
