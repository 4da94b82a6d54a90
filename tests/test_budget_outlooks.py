"""When budgets run out: on courses that everybody can work out by hand."""

from datetime import timedelta
from fractions import Fraction

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from batchmill.spend.ledger import Rollup
from batchmill.spend.outlooks import BudgetOutlook, Cause, Verdict, budget_outlooks
from batchmill.spend.pace import Span
from batchmill.spend.queue import QueuedLines
from batchmill.store.gauges import BudgetGauge

from .forecast_helpers import DAY_MS, MIDNIGHT, MODEL, TODAY, budget, days, dollars, listed, rollup

STEADY = days(lambda _: 10.0, 28)  # a week until December: 70 more


def outlook(gauge: BudgetGauge, rollups: list[Rollup] = STEADY, *queued: QueuedLines) -> BudgetOutlook:
    return budget_outlooks([gauge], rollups, queued, MIDNIGHT)[0]


def waiting(
    usd: float, lasts_ms: int | None = None, *, batch: str = "batch_1", project: str = "default"
) -> QueuedLines:
    each = Fraction(dollars(usd), 100)
    return QueuedLines(
        batch=batch, project=project, lane=MODEL, lines=100, models=(MODEL,), observed=each, lasts_ms=lasts_ms
    )


def test_one_that_is_large_enough_holds() -> None:
    found = outlook(budget(400, 230))
    assert (found.remaining, found.verdict) == (dollars(170), Verdict.HOLDS)
    assert found.projected == Span(dollars(300), dollars(300), dollars(300))
    assert (found.runs_out_ms, found.cause) == (None, None)


def test_one_that_is_too_small_says_when_it_runs_out() -> None:
    found = outlook(budget(265, 230))
    assert (found.verdict, found.cause) == (Verdict.EXCEEDS, Cause.PACE)
    assert found.runs_out_ms == MIDNIGHT + DAY_MS * 7 // 2  # $35 at $10 a day


def test_suspects_and_debt_are_gone_and_an_exhausted_one_says_so() -> None:
    found = outlook(budget(240, 230, suspect=dollars(6), debt=dollars(4)))
    assert (found.spent, found.remaining, found.verdict) == (dollars(240), 0, Verdict.EXHAUSTED)
    assert found.runs_out_ms == MIDNIGHT
    assert outlook(budget(0)).verdict is Verdict.EXHAUSTED


def test_it_may_exceed_when_only_the_upper_end_does() -> None:
    uneven = listed([5.0] * 7 + [8.0, 12.0] * 7 + [11.0] * 7 + [9.0] * 7 + [11.0] * 7)
    assert outlook(budget(306, 230), uneven).verdict is Verdict.MAY_EXCEED
    assert outlook(budget(400, 230), uneven).verdict is Verdict.HOLDS


def test_a_budget_looks_only_at_what_it_pays_for() -> None:
    rollups = STEADY + [rollup(TODAY - timedelta(days=back), 1.0, project="evals") for back in range(1, 15)]
    of_evals, of_model = budget(8, 2, project="evals"), budget(1, models=("anthropic/*",))
    assert outlook(of_evals, rollups).runs_out_ms == MIDNIGHT + 6 * DAY_MS
    assert outlook(of_model, rollups).verdict is Verdict.UNKNOWN  # no such model was ever called
    assert outlook(of_evals, rollups, waiting(100)).queue == 0
    assert outlook(of_evals, rollups, waiting(100, project="evals")).queue == dollars(100)


def test_by_the_queue_it_runs_out_as_fast_as_that_runs() -> None:
    found = outlook(budget(250, 230), STEADY, waiting(40, DAY_MS))
    assert (found.verdict, found.cause) == (Verdict.EXCEEDS, Cause.QUEUE)
    assert found.runs_out_ms == MIDNIGHT + DAY_MS // 2
    assert found.projected == Span(dollars(300), dollars(300), dollars(300))


def test_when_nobody_knows_how_fast_the_queue_is_it_is_not_said_when() -> None:
    found = outlook(budget(250, 230), [], waiting(40))
    assert (found.verdict, found.cause, found.runs_out_ms) == (Verdict.EXCEEDS, Cause.QUEUE, None)


def test_what_comes_first_is_the_cause() -> None:
    found = outlook(budget(250, 230), STEADY, waiting(40, 7 * DAY_MS))
    assert (found.cause, found.runs_out_ms) == (Cause.PACE, MIDNIGHT + 2 * DAY_MS)


def test_two_queues_run_beside_each_other() -> None:
    both = (waiting(10, DAY_MS), waiting(20, 2 * DAY_MS))
    found = outlook(budget(25, 0), [], *both)
    assert found.runs_out_ms == MIDNIGHT + DAY_MS * 3 // 2  # 20 on the first day, then 10 a day


def test_one_without_a_window_has_no_end_to_project() -> None:
    endless = budget(100, 0, window="total", period="total", resets_ms=None)
    found = outlook(endless)
    assert (found.projected, found.ends_ms) == (None, None)
    assert (found.runs_out_ms, found.cause) == (MIDNIGHT + 10 * DAY_MS, Cause.PACE)
    assert found.verdict is Verdict.HOLDS  # to run out one day is what it is there for
    assert outlook(endless, STEADY, waiting(101)).verdict is Verdict.EXCEEDS
    assert outlook(msgspec.structs.replace(endless, limit=dollars(9000))).runs_out_ms is None


def test_that_of_a_batch_goes_by_its_own_lines_alone() -> None:
    cap = BudgetGauge(name="batch_1", window="batch", limit=dollars(10), spent=dollars(4))
    enough = outlook(cap, STEADY, waiting(5, DAY_MS), waiting(50, batch="batch_2"))
    assert (enough.projected, enough.verdict) == (Span(dollars(9)), Verdict.HOLDS)
    short = outlook(cap, STEADY, waiting(12, DAY_MS))
    assert (short.verdict, short.runs_out_ms) == (Verdict.EXCEEDS, MIDNIGHT + DAY_MS // 2)


def test_that_of_a_batch_is_unknown_while_nobody_knows_what_its_lines_cost() -> None:
    cap = BudgetGauge(name="batch_1", window="batch", limit=dollars(10))
    unpriced = QueuedLines(batch="batch_1", project="default", lane="m/1", lines=1, models=("m/1",))
    assert outlook(cap, STEADY, unpriced).verdict is Verdict.UNKNOWN


def test_lines_that_do_not_move_are_told_apart_from_those_that_do() -> None:
    slow = waiting(100, 100 * DAY_MS)
    found = outlook(budget(30, 0), [], slow, waiting(25))
    assert (found.cause, found.runs_out_ms) == (Cause.QUEUE, None)  # the slow ones alone reach it after the window


def test_days_of_a_zone_end_when_they_do() -> None:
    berlin = budget(
        100, 3, window="day", timezone="Europe/Berlin", period="2026-11-24", resets_ms=MIDNIGHT + DAY_MS // 4
    )
    found = outlook(berlin)
    assert found.projected is not None
    assert found.projected.likely == dollars(3 + 10 / 4)


@given(
    st.lists(st.integers(0, 50_000), max_size=60),
    st.integers(0, 500_000),
    st.integers(0, 500_000),
    st.integers(0, 500_000),
    st.one_of(st.none(), st.integers(1, 10 * DAY_MS)),
)
def test_flags_times_and_sums_agree(costs: list[int], limit: int, spent: int, queued: int, lasts: int | None) -> None:
    gauge = budget(limit / 1000, spent / 1000)
    found = outlook(gauge, listed([each / 1000 for each in costs]), waiting(queued / 1000, lasts))
    assert found.projected is not None
    if found.verdict in (Verdict.HOLDS, Verdict.MAY_EXCEED):
        assert found.projected.likely <= found.limit
        assert found.runs_out_ms is None
    elif found.verdict is Verdict.EXCEEDS:
        assert found.projected.likely >= found.limit
    if found.runs_out_ms is not None:
        assert MIDNIGHT <= found.runs_out_ms <= MIDNIGHT + 7 * DAY_MS
