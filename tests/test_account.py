"""What the key's own books stop, by tables: every layer, every reset, and what no upstream should say but might."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from batchmill.openrouter.account import CODES, Stop, next_reset, stops, words_of
from batchmill.openrouter.outcomes import Scope
from batchmill.openrouter.wire import KeyBudget, KeyEnvelope, KeyInfo, salvage


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOW = at("2026-11-24T15:00:00")  # a Tuesday
MIDNIGHT = at("2026-11-25T00:00:00")


def key(**told: Any) -> KeyInfo:
    return KeyInfo(**told)


def spent(scope: str | None = "workspace", resets_at: str | None = None, remaining: str = "0") -> KeyBudget:
    return KeyBudget(
        scope=scope,
        limit_usd=Decimal(20),
        remaining_usd=Decimal(remaining),
        reset_interval="daily",
        resets_at=resets_at,
    )


FREE = {"used": 50, "limit": 50, "remaining": 0}
CASES: dict[str, tuple[dict[str, Any], list[tuple[Scope, str, float | None]]]] = {
    "nothing told": ({}, []),
    "no cap": ({"limit": None, "limit_remaining": None, "budgets": [], "effective_budget": None}, []),
    "a cap with room": ({"limit": 10, "limit_remaining": 0.01, "limit_reset": "daily"}, []),
    "a cap that is spent": (
        {"limit": 10, "limit_remaining": 0, "limit_reset": "daily"},
        [(Scope.ACCOUNT, "key_limit_reached", MIDNIGHT)],
    ),
    "overspent, for a week": (
        {"limit": 10, "limit_remaining": -2.5, "limit_reset": "weekly"},
        [(Scope.ACCOUNT, "key_limit_reached", at("2026-11-30T00:00:00"))],
    ),
    "spent for its lifetime": ({"limit": 10, "limit_remaining": 0}, [(Scope.ACCOUNT, "key_limit_reached", None)]),
    "a reset of next year's kind": (
        {"limit": 10, "limit_remaining": 0, "limit_reset": "fortnightly"},
        [(Scope.ACCOUNT, "key_limit_reached", None)],
    ),
    "the effective budget": (
        {"effective_budget": {"scope": "workspace", "remaining_usd": 0, "resets_at": "2026-12-01T00:00:00Z"}},
        [(Scope.ACCOUNT, "workspace_budget_spent", at("2026-12-01T00:00:00"))],
    ),
    "one of several, not the effective one": (
        {
            "effective_budget": {"scope": "workspace", "remaining_usd": 3},
            "budgets": [
                {"scope": "workspace", "remaining_usd": 3},
                {"scope": "member", "remaining_usd": -0.5, "resets_at": "2026-11-25T00:00:00+00:00"},
            ],
        },
        [(Scope.ACCOUNT, "guardrail_budget_spent", MIDNIGHT)],
    ),
    "of two the one that lasts": (
        {
            "budgets": [
                {"scope": "workspace", "remaining_usd": 0, "resets_at": "2026-12-01T00:00:00Z"},
                {"scope": "key_limit", "remaining_usd": 0, "resets_at": "2026-11-25T00:00:00Z"},
            ]
        },
        [(Scope.ACCOUNT, "workspace_budget_spent", at("2026-12-01T00:00:00"))],
    ),
    "without an end lasts longest": (
        {
            "budgets": [
                {"scope": "workspace", "remaining_usd": 0, "resets_at": None},
                {"scope": "key_limit", "remaining_usd": 0, "resets_at": "2026-11-25T00:00:00Z"},
            ]
        },
        [(Scope.ACCOUNT, "workspace_budget_spent", None)],
    ),
    "a reset that is past": (
        {"budgets": [{"scope": "key_limit", "remaining_usd": 0, "resets_at": "2026-11-24T00:00:00Z"}]},
        [(Scope.ACCOUNT, "key_limit_reached", None)],
    ),
    "a reset that is no date": (
        {"budgets": [{"scope": "brand_new", "remaining_usd": 0, "resets_at": "monday"}]},
        [(Scope.ACCOUNT, "guardrail_budget_spent", None)],
    ),
    "expired": ({"expires_at": "2026-11-24T14:59:59Z"}, [(Scope.ACCOUNT, "key_expired", None)]),
    "expires later": ({"expires_at": "2026-11-24T15:00:01Z"}, []),
    "a management key": ({"is_management_key": True}, [(Scope.ACCOUNT, "management_key", None)]),
    "free requests left": ({"free_model_daily_requests": {"used": 49, "limit": 50, "remaining": 1}}, []),
    "no free requests left": (
        {"free_model_daily_requests": FREE},
        [(Scope.FREE_MODELS, "free_daily_limit", MIDNIGHT)],
    ),
    "an upstream that counts no free requests": (
        {"free_model_daily_requests": {"used": 0, "limit": 0, "remaining": 0}},
        [],
    ),
    "both": (
        {"limit_remaining": 0, "limit_reset": "daily", "free_model_daily_requests": FREE},
        [(Scope.ACCOUNT, "key_limit_reached", MIDNIGHT), (Scope.FREE_MODELS, "free_daily_limit", MIDNIGHT)],
    ),
    "rubbish": (
        {
            "limit_remaining": "NaN",
            "expires_at": "never",
            "budgets": [{"remaining_usd": "-Infinity"}, {"remaining_usd": "-1E+99999"}, 7],
            "free_model_daily_requests": [],
        },
        [],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_books_of_a_key_stop(name: str) -> None:
    told, expected = CASES[name]
    envelope = salvage(msgspec.json.encode({"data": told}), KeyEnvelope)
    assert envelope is not None
    assert envelope.data is not None
    found = stops(envelope.data, NOW)
    assert [(stop.scope, stop.code, stop.until) for stop in found] == expected
    assert {stop.code for stop in found} <= CODES


def test_a_stop_says_which_layer_and_until_when() -> None:
    (stop,) = stops(key(effective_budget=spent(resets_at="2026-11-25T00:00:00Z", remaining="-0.5")), NOW)
    assert stop == Stop(
        Scope.ACCOUNT,
        "workspace_budget_spent",
        "spent: workspace budget of $20.00 (daily), -$0.50 remaining, resets 2026-11-25T00:00:00Z",
        MIDNIGHT,
    )
    (limit,) = stops(key(limit=Decimal(10), limit_remaining=Decimal(0), limit_reset="monthly"), NOW)
    assert limit.reason == "the API key's own limit of $10.00 (monthly) is spent"
    assert words_of(KeyBudget()) == "unnamed budget (lifetime)"
    assert words_of(KeyBudget(limit_usd=Decimal("1E+99999"))) == "unnamed budget of $? (lifetime)"


@pytest.mark.parametrize(
    ("interval", "now", "reset"),
    [
        ("daily", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
        ("daily", "2026-11-24T00:00:00", "2026-11-25T00:00:00"),
        ("weekly", "2026-11-23T00:00:00", "2026-11-30T00:00:00"),
        ("weekly", "2026-11-29T23:00:00", "2026-11-30T00:00:00"),
        ("monthly", "2026-11-30T12:00:00", "2026-12-01T00:00:00"),
        ("monthly", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
    ],
)
def test_caps_are_reset_by_the_calendar_of_utc(interval: str, now: str, reset: str) -> None:
    assert next_reset(interval, at(now)) == at(reset)


def test_a_cap_for_a_lifetime_is_never_reset() -> None:
    assert next_reset(None, NOW) is None
