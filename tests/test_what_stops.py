"""Every refusal of the reference by its body: what stops because of it, and for how long. Nothing else does.

"line" fails alone, "again" is tried again alone; anything else is a scope that rests for the whole fleet.
"""

import time
from typing import Any

import pytest

from batchmill.config.settings import RetrySettings
from batchmill.store.lanes import Claim
from batchmill.workers import journey
from batchmill.workers.line import LineRun, ShardRun

from .store_helpers import line
from .test_classify import error, failed

MODEL = "a/b:free"
DAY = 86_400.0
RETRY = RetrySettings(first_delay=0.001, max_delay=0.002)
CAP: dict[str, Any] = {"scope": "key", "limit_usd": 10, "spend_usd": 10.2}


def resets(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_788_900_000 + seconds))


# body, headers -> what stops, and the seconds that were told (None: none were)
CASES: dict[str, tuple[int, dict[str, Any], dict[str, str], str, float | None]] = {
    "400": (400, error(400), {}, "line", None),
    "400 context": (400, error(400, error_type="context_length_exceeded"), {}, "line", None),
    "400 unknown model": (400, error(400, error_type="model_not_found"), {}, "line", None),
    "401 bad key": (401, error(401, error_type="authentication"), {}, "refused", 60.0),
    "402 balance": (402, error(402, "Insufficient credits", limit_source="openrouter_credits"), {}, "refused", 60.0),
    "402 can't afford so many max_tokens": (
        402,
        error(402, "This request requires more credits, or fewer max_tokens. You can only afford 12"),
        {},
        "refused",
        60.0,
    ),
    "402 in flight": (
        402,
        error(402, reason="in_flight_budget_exhausted", limit_source="openrouter_in_flight_budget"),
        {"retry-after": "7"},
        "account",
        7.0,
    ),
    "402 larger than the in-flight budget": (
        402,
        error(402, reason="weight_exceeds_budget", limit_source="openrouter_credits"),
        {},
        "line",
        None,
    ),
    "402 key limit": (
        402,
        error(402, limit_source="openrouter_key_limit", resets_at=resets(1200), **CAP),
        {},
        "refused",
        1200.0,
    ),
    "403 key limit": (
        403,
        error(403, limit_source="openrouter_key_limit", resets_at=resets(1200), **CAP),
        {},
        "refused",
        1200.0,
    ),
    "403 key limit for a lifetime": (
        403,
        error(403, limit_source="openrouter_key_limit", resets_at=None, **CAP),
        {},
        "refused",
        60.0,
    ),
    "403 guardrail budget": (
        403,
        error(403, limit_source="openrouter_guardrail_budget", resets_at=resets(30)),
        {},
        "refused",
        30.0,
    ),
    "403 workspace budget, asked again daily": (
        403,
        error(403, limit_source="openrouter_workspace_budget", resets_at=resets(9 * DAY)),
        {},
        "refused",
        DAY,
    ),
    "403 a budget of next year": (
        403,
        error(403, limit_source="openrouter_team_budget", resets_at=resets(30)),
        {},
        "refused",
        30.0,
    ),
    "403 moderation": (403, error(403, reasons=["violence"], flagged_input="SECRET"), {}, "line", None),
    "403 guardrail content": (403, error(403, patterns=["ssn"]), {}, "line", None),
    "403 moderation, whatever else is told": (
        403,
        error(403, reasons=["violence"], limit_source="openrouter_moderation"),
        {},
        "line",
        None,
    ),
    "403 region": (403, error(403, "not available in your region"), {}, "line", None),
    "403 permission": (403, error(403, "Not allowed"), {}, "line", None),
    "404 no endpoint": (404, error(404, top={"availability": {"code": "no_endpoints"}}), {}, "line", None),
    "404 for now": (404, error(404, top={"availability": {"code": "no_endpoints", "retryable": True}}), {}, "again", 0),
    "408": (408, error(408), {}, "again", 0),
    "413": (413, error(413), {}, "line", None),
    "422": (422, error(422), {}, "line", None),
    "429 shared pool": (
        429,
        error(429, limit_source="upstream_provider_shared_pool", retry_after_seconds=3),
        {},
        MODEL,
        3.0,
    ),
    "429 daily": (
        429,
        error(429, "Rate limit exceeded: free-models-per-day", limit_source="openrouter_free_tier_daily"),
        {"x-ratelimit-reset": "1788912000000"},
        ":free",
        12_000.0,
    ),
    "429 minute": (429, error(429, limit_source="openrouter_free_models_per_min"), {}, ":free", None),
    "429 of the platform": (429, error(429, limit_source="openrouter_new"), {"retry-after": "2"}, "account", 2.0),
    "429 nobody says whose": (429, error(429), {}, MODEL, None),
    "500": (500, error(500, error_type="server"), {}, "again", 0),
    "502": (502, error(502, error_type="provider_unavailable"), {}, "again", 0),
    "503": (503, error(503), {"retry-after": "1"}, "again", 1),
    "504": (504, error(504), {}, "again", 0),
    "524": (524, error(524), {}, "again", 0),
    "529": (529, error(529, error_type="provider_overloaded"), {}, "again", 0),
}


@pytest.mark.parametrize("way", ["status", "inside a 200"])
@pytest.mark.parametrize("name", CASES)
async def test_a_refusal_stops_exactly_what_it_must(name: str, way: str) -> None:
    status, body, headers, stops, seconds = CASES[name]
    if way == "status":
        failure = failed(status, body, headers)
    else:
        failure = failed(200, {**body, "id": "gen-1", "choices": []}, headers)
    claim = Claim("upstream", MODEL, "batch_1.0.1", "run-1", "1")
    run = LineRun(line(0), ShardRun(claim, [line(0)]))
    match journey.judge(run, failure, RETRY):
        case journey.Settled():
            assert stops == "line"
        case journey.TryAgain(_, delay):
            assert stops == "again"
            assert seconds is not None
            assert seconds <= delay <= seconds + RETRY.max_delay
        case journey.RestScope(refusal, delay):
            assert (journey.scope_of(MODEL, refusal), delay) == (stops, seconds)
            assert run.failures == 0  # no attempt is burnt
