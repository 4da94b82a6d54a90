"""Every error body of the reference, sorted, and how long each asks to wait. Pure tables, no I/O."""

import json
from typing import Any

import msgspec
import pytest

from batchmill.openrouter.classify import classify
from batchmill.openrouter.errors import read_error
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Fault, Retry, Scope
from batchmill.openrouter.replies import Reply, judge

NOW = 1_788_900_000.0  # 2026-09-08 20:40 UTC
CALLER = (Retry.NEVER, Fault.CALLER, Billed.NO, Scope.MODEL)
ACCOUNT = (Retry.ACCOUNT, Fault.ACCOUNT, Billed.NO, Scope.ACCOUNT)
FORBIDDEN = (Retry.NEVER, Fault.ACCOUNT, Billed.NO, Scope.MODEL)
PROVIDER = (Retry.BACKOFF, Fault.PROVIDER, Billed.NO, Scope.MODEL)
UNSURE = (Retry.BACKOFF, Fault.PROVIDER, Billed.MAYBE, Scope.MODEL)
DAILY = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1788912000000"}


def limited(scope: Scope) -> tuple[Retry, Fault, Billed, Scope]:
    return (Retry.LATER, Fault.LIMIT, Billed.NO, scope)


def error(code: Any, message: str = "no", top: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "metadata": metadata, **(top or {})}, "user_id": "u"}


def judged(status: int, body: Any, headers: dict[str, str] | None = None) -> Answer | Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge(Reply(status, headers or {}, raw, 7), NOW)


def failed(status: int, body: Any, headers: dict[str, str] | None = None) -> Failure:
    outcome = judged(status, body, headers)
    assert isinstance(outcome, Failure)
    return outcome


def sorts(failure: Failure) -> tuple[Retry, Fault, Billed, Scope]:
    return (failure.retry, failure.fault, failure.billed, failure.scope)


CASES: dict[str, tuple[int, dict[str, Any], str, tuple[Retry, Fault, Billed, Scope]]] = {
    "bad parameters": (400, error(400), "invalid_request", CALLER),
    "context": (400, error(400, error_type="context_length_exceeded"), "context_length_exceeded", CALLER),
    "unknown model": (400, error(400, error_type="model_not_found"), "model_not_found", CALLER),
    "refusal": (400, error(400, error_type="refusal"), "refusal", CALLER),
    "an error type of next year": (400, error(400, error_type="brand_new"), "invalid_request", CALLER),
    "error_type beside message": (400, error(400, top={"error_type": "invalid_image"}), "invalid_image", CALLER),
    "OpenAI's words": (
        400,
        {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}},
        "context_length_exceeded",
        CALLER,
    ),
    "vLLM's bare error": (400, {"object": "error", "message": "no", "code": 400}, "invalid_request", CALLER),
    "a text for an error": (400, {"error": "no such thing"}, "invalid_request", CALLER),
    "key": (401, error(401, "No auth credentials found"), "authentication", ACCOUNT),
    "402 balance": (402, error(402, limit_source="openrouter_credits"), "insufficient_credits", ACCOUNT),
    "402 balance, no source": (402, error(402, "Insufficient credits"), "insufficient_credits", ACCOUNT),
    "402 affordability": (
        402,
        error(402, "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens"),
        "credits_too_low",
        ACCOUNT,
    ),
    "402 in flight": (
        402,
        error(402, reason="in_flight_budget_exhausted", limit_source="openrouter_in_flight_budget"),
        "in_flight_budget_exhausted",
        limited(Scope.ACCOUNT),
    ),
    "402 never fits": (
        402,
        error(402, reason="weight_exceeds_budget", limit_source="openrouter_credits"),
        "request_exceeds_in_flight_budget",
        (Retry.NEVER, Fault.LIMIT, Billed.NO, Scope.MODEL),
    ),
    "402 key limit": (402, error(402, limit_source="openrouter_key_limit"), "key_limit_reached", ACCOUNT),
    "403 key limit": (403, error(403, limit_source="openrouter_key_limit"), "key_limit_reached", ACCOUNT),
    "403 guardrail budget": (
        403,
        error(403, limit_source="openrouter_guardrail_budget"),
        "guardrail_budget_spent",
        ACCOUNT,
    ),
    "403 workspace budget": (
        403,
        error(403, limit_source="openrouter_workspace_budget"),
        "workspace_budget_spent",
        ACCOUNT,
    ),
    "403 moderation": (403, error(403, reasons=["violence"], flagged_input="SECRET PROMPT"), "moderation", CALLER),
    "403 guardrail": (403, error(403, patterns=["ssn"]), "guardrail_blocked", CALLER),
    "403 policy": (403, error(403, error_type="content_policy_violation"), "content_policy_violation", CALLER),
    "403 region": (403, error(403, "This model is not available in your region."), "region_restricted", FORBIDDEN),
    "403 permission": (403, error(403, "Not allowed"), "permission_denied", FORBIDDEN),
    "404 no endpoint": (404, error(404), "not_found", CALLER),
    "404 price": (
        404,
        error(404, top={"availability": {"code": "constraint_filtered"}}),
        "constraint_filtered",
        CALLER,
    ),
    "404 availability in metadata": (
        404,
        error(404, availability={"code": "model_deprecated"}),
        "model_deprecated",
        CALLER,
    ),
    "404 for now": (
        404,
        error(404, top={"availability": {"code": "no_endpoints", "retryable": True, "retry_after": 9}}),
        "no_endpoints",
        PROVIDER,
    ),
    "408": (408, error(408), "timeout", UNSURE),
    "413": (413, error(413), "payload_too_large", CALLER),
    "422": (422, error(422), "unprocessable", CALLER),
    "418": (418, error(418), "invalid_request", CALLER),
    "429 shared pool": (
        429,
        error(429, limit_source="upstream_provider_shared_pool"),
        "rate_limit_exceeded",
        limited(Scope.MODEL),
    ),
    "429 daily": (
        429,
        error(429, limit_source="openrouter_free_tier_daily"),
        "free_daily_limit",
        limited(Scope.FREE_MODELS),
    ),
    "429 daily, by its message": (
        429,
        error(429, "Rate limit exceeded: free-models-per-day. Add 10 credits"),
        "free_daily_limit",
        limited(Scope.FREE_MODELS),
    ),
    "429 minute": (
        429,
        error(429, limit_source="openrouter_free_models_per_min"),
        "free_minute_limit",
        limited(Scope.FREE_MODELS),
    ),
    "429 minute, by its message": (
        429,
        error(429, "Rate limit exceeded: free-models-per-min."),
        "free_minute_limit",
        limited(Scope.FREE_MODELS),
    ),
    "429 platform": (429, error(429, limit_source="openrouter_new"), "rate_limit_exceeded", limited(Scope.ACCOUNT)),
    "429 unknown": (429, error(429), "rate_limit_exceeded", limited(Scope.MODEL)),
    "429 no money at OpenAI": (
        429,
        {"error": {"message": "quota", "code": "insufficient_quota"}},
        "insufficient_credits",
        ACCOUNT,
    ),
    "500": (500, error(500, error_type="server"), "server_error", PROVIDER),
    "502": (502, error(502, error_type="provider_unavailable"), "provider_unavailable", PROVIDER),
    "503": (503, error(503), "provider_unavailable", PROVIDER),
    "504": (504, error(504), "timeout", UNSURE),
    "524": (524, error(524), "timeout", UNSURE),
    "529": (529, error(529), "provider_overloaded", PROVIDER),
    "599": (599, error(599), "provider_unavailable", PROVIDER),
}


@pytest.mark.parametrize("name", CASES)
def test_an_error_status_is_sorted(name: str) -> None:
    status, body, code, expected = CASES[name]
    failure = failed(status, body)
    assert (failure.code, sorts(failure), failure.status) == (code, expected, status)
    assert failure.body is not None
    assert "error" in msgspec.json.decode(failure.body)


IN_BAND = sorted(name for name, (_, body, _, _) in CASES.items() if "user_id" in body)


@pytest.mark.parametrize("name", IN_BAND)
def test_the_same_error_inside_a_200_is_sorted_alike(name: str) -> None:
    status, body, code, expected = CASES[name]
    failure = failed(200, {**body, "id": "gen-1", "choices": []})
    assert (failure.code, sorts(failure), failure.status) == (code, expected, status)
    assert failure.generation_id == "gen-1"


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        ({"code": "server_error"}, 500, "server_error"),
        ({"code": "429"}, 429, "rate_limit_exceeded"),
        ({"error_type": "provider_overloaded"}, 529, "provider_overloaded"),
        ({"http_status": 503}, 503, "provider_unavailable"),
        ({"metadata": {"error_type": "timeout"}}, 504, "timeout"),
        ({"metadata": {"error_type": "string_too_long"}}, 400, "string_too_long"),
        ({"code": 0, "message": "?"}, 502, "provider_unavailable"),
        ({"code": None}, 502, "provider_unavailable"),
    ],
)
def test_an_error_inside_a_200_may_name_its_kind_in_many_ways(told: dict[str, Any], status: int, code: str) -> None:
    failure = failed(200, {"error": told})
    assert (failure.status, failure.code) == (status, code)


@pytest.mark.parametrize("status", [500, 502, 503, 520, 529])
@pytest.mark.parametrize(
    "body",
    [
        b"<html>Bad Gateway</html>",
        b"",
        b"{",
        b"[]",
        b'{"detail": "x"}',
        b"\xff",
        pytest.param(b"[" * 200_000, id="deep"),
    ],
)
def test_a_proxys_page_does_not_say_whether_the_request_ran(status: int, body: bytes) -> None:
    failure = failed(status, body)
    assert sorts(failure) == UNSURE
    assert failure.body is None


@pytest.mark.parametrize("status", [301, 307, 404, 405])
def test_an_address_without_a_completions_api_stops_the_account_and_fails_no_line(status: int) -> None:
    failure = failed(status, b"<html>Not Found</html>")
    assert (failure.code, sorts(failure)) == ("wrong_endpoint", ACCOUNT)
    assert "BATCHMILL_BASE_URL" in failure.message


WAITS: dict[str, tuple[dict[str, str], dict[str, Any], float | None]] = {
    "nothing told": ({}, error(429), None),
    "seconds": ({"retry-after": "30"}, error(429), 30.0),
    "a date": ({"retry-after": "Tue, 08 Sep 2026 20:41:00 GMT"}, error(429), 60.0),
    "a date that is past": ({"retry-after": "Tue, 08 Sep 2026 20:00:00 GMT"}, error(429), 0.0),
    "rubbish": ({"retry-after": "soon"}, error(429), None),
    "below zero": ({"retry-after": "-1"}, error(429), None),
    "no number": ({"retry-after": "nan"}, error(429), None),
    "a week, as told": ({"retry-after": "604800"}, error(429), 604800.0),
    "in the metadata": ({}, error(429, retry_after_seconds=12.5), 12.5),
    "in the availability": ({}, error(404, top={"availability": {"retry_after": 9}}), 9.0),
    "a header in the body": ({}, error(429, headers={"Retry-After": "8"}), 8.0),
    "reset, epoch ms": ({"x-ratelimit-reset": "1788900060000"}, error(429), 60.0),
    "reset, epoch s": ({"x-ratelimit-reset": "1788900060"}, error(429), 60.0),
    "reset, seconds": ({"x-ratelimit-reset": "6"}, error(429), 6.0),
    "reset in the body": ({}, error(429, headers=DAILY), 12_000.0),
    "the day's end beats an early retry": (
        {"retry-after": "5"},
        error(429, headers=DAILY, limit_source="openrouter_free_tier_daily"),
        12_000.0,
    ),
    "a reset means nothing elsewhere": ({"x-ratelimit-reset": "1788900060000"}, error(503), None),
    "a budget resets": (
        {},
        error(403, limit_source="openrouter_key_limit", resets_at="2026-09-08T21:00:00Z"),
        1200.0,
    ),
    "a budget for a lifetime": ({}, error(403, limit_source="openrouter_key_limit", resets_at=None), None),
    "a budget, no date": ({}, error(403, limit_source="openrouter_key_limit", resets_at="monday"), None),
}


@pytest.mark.parametrize("name", WAITS)
def test_how_long_to_wait(name: str) -> None:
    headers, body, expected = WAITS[name]
    assert failed(body["error"]["code"], body, headers).retry_after == expected


def test_only_a_provider_can_feed_a_breaker() -> None:
    faults = {status: classify(status, read_error(b'{"error":{}}')).fault for status in range(300, 600)}
    breaking = {status for status, fault in faults.items() if fault is Fault.PROVIDER}
    assert breaking == {408, *range(500, 600)}
