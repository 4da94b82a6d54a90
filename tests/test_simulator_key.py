"""The simulated key's own limit: what is counted in its window, what it refuses, and `GET /key` as it tells it."""

from datetime import date
from decimal import Decimal

import msgspec
import pytest

from batchmill.openrouter.simulator.account import KeyLimit, Reset, resets_at, window_start

from .simulator_helpers import Desk, desk

TUESDAY = 1_795_521_600.0  # 2026-11-24T12:00:00Z
DAY = 86_400.0
FREE = "z-ai/glm-4.5-air:free"


@pytest.mark.parametrize(
    ("reset", "start", "ends"),
    [
        ("daily", date(2026, 12, 31), "2027-01-01T00:00:00Z"),
        ("weekly", date(2026, 12, 28), "2027-01-04T00:00:00Z"),
        ("monthly", date(2026, 12, 1), "2027-01-01T00:00:00Z"),
        (None, None, None),
    ],
)
def test_windows_are_utc_days_weeks_from_monday_and_months(
    reset: Reset | None, start: date | None, ends: str | None
) -> None:
    today = date(2026, 12, 31)  # a Thursday
    assert (window_start(today, reset), resets_at(today, reset)) == (start, ends)


async def test_a_spent_limit_refuses_everything_until_it_resets() -> None:
    now = [TUESDAY]
    async with desk(clock=lambda: now[0], key_limit=KeyLimit(Decimal("0.5"), "daily")) as at:
        await spend(at, Decimal("0.5"))
        refused = [await at.ask(), await at.ask(model=FREE)]
        key = (await at.get("/key")).json["data"]
        now[0] += DAY / 2
        next_day = await at.ask()
        fresh = (await at.get("/key")).json["data"]
    assert [reply.status for reply in refused] == [403, 403]
    spent = refused[0].metadata["spend_usd"]
    assert spent >= Decimal("0.5")
    assert refused[0].metadata == {
        "error_type": "permission_denied",
        "limit_source": "openrouter_key_limit",
        "scope": "key_limit",
        "limit_usd": Decimal("0.5"),
        "spend_usd": spent,
        "resets_at": "2026-11-25T00:00:00Z",
    }
    assert key["effective_budget"] == key["budgets"][0]
    assert key["effective_budget"]["remaining_usd"] == key["limit_remaining"] == Decimal("0.5") - spent
    assert next_day.status == 200
    assert fresh["usage_daily"] == next_day.json["usage"]["cost"]
    assert fresh["usage"] == fresh["usage_weekly"] == spent + fresh["usage_daily"]


async def test_a_limit_can_be_set_and_lifted_while_it_runs() -> None:
    async with desk() as at:
        await at.ask()
        told = await at.post("/_sim/key", b'{"limit_usd":0,"reset":"weekly"}')
        refused = await at.ask()
        await at.post("/_sim/key", b'{"limit_usd":null}')
        allowed = await at.ask()
    assert told.json["limit"] == {"limit_usd": 0, "reset": "weekly"}
    assert (refused.status, allowed.status) == (403, 200)
    assert "weekly limit" in refused.error["message"]


async def test_the_balance_can_be_changed_while_it_runs() -> None:
    async with desk() as at:
        await at.post("/_sim/key", b'{"credits_usd":0}')
        refused = await at.ask()
        await at.post("/_sim/key", b'{"credits_usd":"2.5"}')
        allowed = await at.ask()
        balance = (await at.get("/credits")).json["data"]
        await at.post("/_sim/reset", b"")
        again = (await at.get("/credits")).json["data"]
    assert (refused.status, allowed.status) == (402, 200)
    assert (balance["total_credits"], again["total_credits"]) == (Decimal("2.5"), 1_000_000)


@pytest.mark.parametrize("body", [b'{"limit_usd":-1}', b'{"limit_usd":1,"reset":"hourly"}', b'{"limits":1}'])
async def test_a_limit_that_can_not_be_read_changes_nothing(body: bytes) -> None:
    async with desk() as at:
        assert (await at.post("/_sim/key", body)).status == 400
        assert (await at.get("/key")).json["data"]["limit"] is None


async def test_an_account_without_a_cap_on_free_models_has_requests_left() -> None:
    async with desk(free_daily=None) as at:
        await at.ask(model=FREE)
        free = (await at.get("/key")).json["data"]["free_model_daily_requests"]
    assert free["remaining"] > 0


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"limit_usd": "-1"}, KeyLimit)


async def spend(at: Desk, usd: Decimal) -> None:
    while at.simulator.stats.billed_nano < usd * 10**9:
        assert (await at.ask("x" * 200_000, model="openai/o1-pro")).status == 200
