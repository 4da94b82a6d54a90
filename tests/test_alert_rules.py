"""Which alerts are due, from a state of the money alone."""

from decimal import Decimal
from typing import Any

import pytest

from batchmill.config.alerting import AlertKind, Alerts
from batchmill.spend.alerts import BudgetState, OpenBreaker, Remaining, State, due

NANO = 1_000_000_000
NOON = 4_102_488_000_000  # 2100-01-01T12:00Z
MIDNIGHT = NOON + 43_200_000
RULES = Alerts()


def budget(used: int, **more: Any) -> BudgetState:
    """A budget of 100 dollars of which so many are used."""
    given = {"period": "2100-01-01", "ends_ms": MIDNIGHT, "limit": 100 * NANO, **more}
    return BudgetState(name="daily", used=used * NANO, **given)


def kinds(state: State, rules: Alerts = RULES) -> list[str]:
    return [one.alert.kind.value for one in due(state, rules)]


def of(*budgets: BudgetState, **more: Any) -> State:
    return State(**{"now_ms": NOON, "upstream": "https://openrouter.ai/api/v1", "budgets": budgets, **more})


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (79, []),
        (80, ["budget.warning"]),
        (94, ["budget.warning"]),
        (95, ["budget.warning", "budget.critical"]),
        (100, ["budget.warning", "budget.critical", "budget.exhausted"]),
        (130, ["budget.warning", "budget.critical", "budget.exhausted"]),  # debt
    ],
)
def test_a_budget_is_alerted_of_at_its_shares(used: int, expected: list[str]) -> None:
    assert kinds(of(budget(used))) == expected


def test_thresholds_are_exact_to_the_nano_dollar() -> None:
    limit = 3 * NANO + 1
    at = -(-limit * 8 // 10)
    assert kinds(of(BudgetState(name="b", period="total", ends_ms=None, limit=limit, used=at - 1))) == []
    assert kinds(of(BudgetState(name="b", period="total", ends_ms=None, limit=limit, used=at))) == ["budget.warning"]


def test_a_budget_is_exhausted_when_work_waits_and_nothing_comes_back() -> None:
    assert kinds(of(budget(50, waits=True, held=1))) == []
    assert kinds(of(budget(50, waits=True))) == ["budget.exhausted"]


def test_a_budget_of_nothing_is_no_news() -> None:
    assert kinds(of(budget(0, limit=0, waits=True))) == []


def test_a_forecast_over_the_limit_is_alerted_of_until_it_has_come_true() -> None:
    assert kinds(of(budget(40, projected=100 * NANO))) == []
    assert kinds(of(budget(40, projected=101 * NANO))) == ["budget.forecast"]
    assert kinds(of(budget(40, projected=101 * NANO)), Alerts(forecast=False)) == []
    assert "budget.forecast" not in kinds(of(budget(100, projected=101 * NANO)))


def test_an_alert_tells_what_where_and_what_next() -> None:
    (found,) = due(of(budget(80)), Alerts(critical=Decimal("0.8")))[1:]
    assert found.alert.text == (
        "budget daily: $80.00 of $100.00 used (80 %) until 2100-01-02 00:00:00 UTC; "
        "`batchmill budgets raise daily USD` makes room"
    )
    assert (found.alert.level, found.ends_ms) == ("critical", MIDNIGHT)
    assert (found.alert.amount, found.alert.limit) == (80 * NANO, 100 * NANO)


def test_in_a_rehearsal_the_command_takes_simulate() -> None:
    *_, found = due(of(budget(100), upstream="simulator"), RULES)
    assert found.alert.text.endswith("; `batchmill budgets raise daily USD --simulate` makes room")


def test_an_alert_is_the_same_until_window_level_or_limit_change() -> None:
    same = [due(of(budget(used)), RULES)[0].alert.identity for used in (80, 85, 99)]
    other = [
        due(of(budget(80, period="2100-01-02")), RULES)[0].alert.identity,
        due(of(budget(80, limit=90 * NANO)), RULES)[0].alert.identity,
        due(of(budget(95)), RULES)[1].alert.identity,
    ]
    assert len({*same}) == 1
    assert len({*same, *other}) == 4


def test_the_least_that_the_key_may_spend_counts() -> None:
    left = (Remaining("the key's own limit", Decimal(20)), Remaining("workspace budget (daily)", Decimal("4.99")))
    (found,) = due(of(remaining=left), RULES)
    assert found.alert.kind is AlertKind.CREDITS_LOW
    assert "$4.99 more (workspace budget (daily))" in found.alert.text
    assert kinds(of(remaining=left), Alerts(credits_low_usd=Decimal("4.99"))) == []


def test_a_refused_account_is_critical() -> None:
    (found,) = due(of(refused="insufficient_credits: the account's credits are used up"), RULES)
    assert (found.alert.kind, found.alert.level) == (AlertKind.ACCOUNT_REFUSED, "critical")


@pytest.mark.parametrize(("minutes", "alerted"), [(9, False), (10, True), (500, True)])
def test_a_breaker_is_alerted_of_when_it_is_open_for_long(minutes: int, alerted: bool) -> None:
    state = of(breakers=(OpenBreaker("a/b", NOON - minutes * 60_000, "failures"),))
    assert kinds(state) == (["breaker.open"] if alerted else [])


def test_the_same_trip_is_the_same_alert_and_the_next_one_another() -> None:
    trips = [OpenBreaker("a/b", NOON - since, "failures") for since in (3_600_000, 7_200_000)]
    identities = [
        due(of(now_ms=now, breakers=(trip,)), RULES)[0].alert.identity
        for trip in trips
        for now in (NOON, NOON + 86_400_000)
    ]
    assert len(set(identities)) == 2


def test_suspects_are_alerted_of_above_their_threshold() -> None:
    assert kinds(of(suspects=3, suspect=NANO)) == []
    assert kinds(of(suspects=3, suspect=NANO + 1)) == ["suspects.outstanding"]
    assert kinds(of(suspects=1, suspect=1), Alerts(suspects_over_usd=Decimal(0))) == ["suspects.outstanding"]


def test_breaches_are_alerted_of_when_there_are_new_ones() -> None:
    assert kinds(of(breaches=4, breaches_told=4)) == []
    (found,) = due(of(breaches=5, breaches_told=4), RULES)
    assert (found.alert.kind, found.alert.count) == (AlertKind.BOUND_BREACHED, 1)
