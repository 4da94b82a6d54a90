"""Why lines wait, in words."""

import pytest

from batchmill.config.policy import Breaker, Limit
from batchmill.store.gate import NEVER, Reply, Why
from batchmill.store.rules import BudgetRule, LimitRule, Rules
from batchmill.workers.reasons import Reason, reason_of

RAISE = "`batchmill budgets raise {} USD` makes some"
LINE = "a line that may cost $0.009600"
NOON = 1_795_521_600_000  # 2026-11-24 12:00:00 UTC
RULES = Rules(
    1,
    0,
    "a/b",
    (BudgetRule("daily", "key", 5), BudgetRule("monthly", "key", 50)),
    (LimitRule("slow", "key", Limit(match=("a/*",), name="slow", requests_per_minute=60)),),
    Breaker(),
)


def refused(why: Why, which: int = 1, wait: int = 60_000, upstream: str = "openrouter") -> Reason | None:
    return reason_of(RULES, Reply(0, why, which, wait, NOON), "batch_1", 9_600_000, upstream)


@pytest.mark.parametrize(
    ("reason", "scope", "kind", "text"),
    [
        (refused(Why.LIMIT), "a/b", "limit", "limit slow of a/b until 2026-11-24 12:01:00 UTC"),
        (refused(Why.BREAKER), "a/b", "breaker", "the breaker of a/b is open until 2026-11-24 12:01:00 UTC"),
        (refused(Why.BREAKER, 0, NEVER), "a/b", "breaker", "a/b is being probed"),
        (
            refused(Why.BREAKER, 1, NEVER),
            "a/b",
            "breaker",
            "the breaker of a/b was tripped by an operator, until `batchmill breakers reset a/b`",
        ),
        (
            refused(Why.BUDGET, 2),
            "batch_1",
            "budget",
            f"budget monthly has no room left until 2026-11-24 12:01:00 UTC for {LINE}; {RAISE.format('monthly')}",
        ),
        (
            refused(Why.BUDGET, wait=NEVER),
            "batch_1",
            "budget",
            f"budget daily has no room left for {LINE}; {RAISE.format('daily')}",
        ),
    ],
)
def test_a_reason_says_which_rule_binds_until_when(reason: Reason | None, scope: str, kind: str, text: str) -> None:
    budget = text.split()[1] if kind == "budget" else None
    assert reason == Reason(scope, kind, text, budget)


def test_an_operators_pause_says_how_it_ends() -> None:
    place = RULES.scopes.index("op:a/b") + 1
    reason = refused(Why.PAUSE, place, NEVER)
    assert reason is not None
    assert "until `batchmill resume a/b`" in reason.text


def test_an_alarm_is_everybodys_and_says_what_to_do() -> None:
    reason = refused(Why.ALARM, 0, NEVER)
    assert reason is not None
    assert (reason.scope, "`batchmill budgets accept-restored`" in reason.text) == ("alarm", True)


@pytest.mark.parametrize("why", [Why.POLICY, Why.WINDOW, Why.NOTHING, Why.PAUSE])
def test_what_is_no_news_or_said_by_who_paused_is_not_said(why: Why) -> None:
    assert refused(why) is None


def test_a_share_says_that_there_were_too_many() -> None:
    reason = refused(Why.SHARE, 0, NEVER)
    assert reason is not None
    assert "fewer lines at once" in reason.text


def test_in_a_rehearsal_the_commands_take_simulate() -> None:
    reasons = [
        refused(Why.BUDGET, wait=NEVER, upstream="simulator"),
        refused(Why.PAUSE, RULES.scopes.index("op:a/b") + 1, NEVER, upstream="simulator"),
        refused(Why.ALARM, 0, NEVER, upstream="simulator"),
    ]
    assert [reason.text.split("`")[1] for reason in reasons if reason is not None] == [
        "batchmill budgets raise daily USD --simulate",
        "batchmill resume a/b --simulate",
        "batchmill budgets accept-restored --simulate",
    ]
