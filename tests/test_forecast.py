"""The forecast on histories of which everybody knows how they go on."""

import random
from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.config.windows import WindowKind
from batchmill.spend.course import Basis, Course, first_day
from batchmill.spend.forecast import PeriodForecast, forecast
from batchmill.spend.ledger import Rollup
from batchmill.spend.pace import HISTORY_DAYS, Span, history_of
from batchmill.spend.queue import Evidence, QueuedLines

from .forecast_helpers import DAY_MS, MIDNIGHT, MODEL, NOON, TODAY, days, dollars, listed, rollup

WEEKEND = 5


def periods(rollups: list[Rollup], now: int = NOON, *queued: QueuedLines) -> dict[WindowKind, PeriodForecast]:
    return {each.period: each for each in forecast(rollups, queued, (), now).periods}


def exactly(usd: float) -> Span:
    return Span(dollars(usd), dollars(usd), dollars(usd))


def working_day(day: date) -> float:
    return 2.0 if day.weekday() >= WEEKEND else 10.0


def growing(day: date) -> float:
    return 100.0 - (TODAY - day).days


def test_what_was_always_the_same_stays_so() -> None:
    found = periods(days(lambda _: 8.0, 28, today=4.0))
    assert found[WindowKind.DAY].projected == exactly(8)
    assert found[WindowKind.WEEK].projected == exactly(7 * 8)  # Monday was yesterday
    assert found[WindowKind.MONTH].projected == exactly(8 * 27 - 4 + 4 + 8 * 3)  # November began 23 days ago
    assert found[WindowKind.MONTH].spent == dollars(8 * 23 + 4)
    assert found[WindowKind.MONTH].ends_ms == MIDNIGHT + 7 * DAY_MS


def test_weekdays_go_on_as_they_went() -> None:
    found = periods(days(working_day, 28, today=5.0))
    assert found[WindowKind.DAY].projected == exactly(10)
    assert found[WindowKind.WEEK].projected == exactly(5 * 10 + 2 * 2)
    assert found[WindowKind.MONTH].projected == exactly(sum(working_day(date(2026, 11, day)) for day in range(1, 31)))


def test_a_steady_trend_goes_on() -> None:
    found = periods(days(growing, 42), MIDNIGHT)
    assert found[WindowKind.DAY].projected == exactly(100)
    assert found[WindowKind.WEEK].projected == exactly(99 + 100 + 101 + 102 + 103 + 104 + 105)
    assert found[WindowKind.MONTH].projected == exactly(sum(growing(date(2026, 11, day)) for day in range(1, 31)))


def test_a_trend_needs_weeks_that_agree() -> None:
    def pace_of(*weeks: float) -> tuple[int, int]:
        pace = history_of(listed([week for week in weeks for _ in range(7)]), TODAY).pace
        assert pace is not None
        return round(pace.trend * 7), round(pace.expected(60))

    assert pace_of(10, 12, 11, 13) == (0, dollars(12))
    assert pace_of(10, 12) == (0, dollars(11))  # two may well be chance
    assert pace_of(30, 10, 11, 12, 13)[0] == dollars(1)  # those before moved otherwise


def test_a_trend_at_most_doubles_or_halves_the_level() -> None:
    rising = history_of(days(lambda day: 29.0 - (TODAY - day).days, 28), TODAY).pace
    falling = history_of(days(lambda day: 0.0 + (TODAY - day).days, 28), TODAY).pace
    assert rising is not None
    assert falling is not None
    assert [rising.level, rising.expected(0), rising.expected(99)] == [dollars(25), dollars(29), dollars(50)]
    assert [falling.level, falling.expected(0), falling.expected(99)] == [dollars(4), dollars(2), dollars(2)]


def test_a_step_is_level_after_two_weeks_and_the_range_tells_of_it() -> None:
    before = periods(listed([10.0] * 28 + [30.0] * 7), MIDNIGHT)[WindowKind.DAY].projected
    after = periods(listed([10.0] * 28 + [30.0] * 14), MIDNIGHT)[WindowKind.DAY].projected
    assert (before.likely, after.likely) == (dollars(20), dollars(30))
    assert before.high is not None
    assert before.high >= dollars(30)


def test_what_remains_of_today_goes_by_today_s_own_pace_as_far_as_it_is_over() -> None:
    rollups = days(lambda _: 10.0, 14, today=50.0)
    assert periods(rollups)[WindowKind.DAY].projected.likely == dollars(50 + (5 + 50) / 2)
    assert periods(rollups, MIDNIGHT + DAY_MS * 9 // 10)[WindowKind.DAY].projected.likely == dollars(50 + (1 + 50) / 10)


def test_the_first_day_goes_by_itself_without_a_range() -> None:
    found = periods(listed([], today=3.0))
    assert found[WindowKind.DAY].projected == Span(dollars(6))
    assert found[WindowKind.WEEK].projected == Span(dollars(6 * 6))
    assert Course(listed([], today=3.0), NOON).basis is Basis.TODAY
    assert Course(listed([], today=3.0), MIDNIGHT + 1000).basis is Basis.NOTHING  # a second stands for no day


def test_without_a_call_nothing_is_foreseen_but_the_queue() -> None:
    assert periods([])[WindowKind.MONTH].projected == Span(0)
    assert periods([])[WindowKind.MONTH].pace is None
    waiting = QueuedLines(batch="batch_1", project="default", lane=MODEL, lines=100, estimate=Fraction(dollars(0.02)))
    assert periods([], NOON, waiting)[WindowKind.DAY].projected == Span(dollars(2))


def test_days_before_the_first_call_are_no_history_and_days_between_cost_nothing() -> None:
    day = TODAY - timedelta(days=4)
    history = history_of([rollup(day, 9.0), rollup(TODAY, 1.0)], TODAY)
    assert history.days == (dollars(9), 0, 0, 0)
    assert history.spent_today == dollars(1)


def test_it_looks_eight_weeks_back() -> None:
    assert len(history_of(days(lambda _: 1.0, 100), TODAY).days) == HISTORY_DAYS
    assert first_day(NOON) == (TODAY - timedelta(days=HISTORY_DAYS)).isoformat()


def test_suspects_count_as_spent_and_say_nothing_of_the_pace() -> None:
    rollups = [*days(lambda _: 1.0, 14), rollup(TODAY - timedelta(days=1), 0.0, suspect=dollars(70))]
    found = periods(rollups, MIDNIGHT)
    assert found[WindowKind.WEEK].spent == dollars(71)
    assert found[WindowKind.DAY].projected == exactly(1)


def test_the_queue_is_a_part_of_what_comes_and_more_where_it_is_larger() -> None:
    waiting = QueuedLines(batch="batch_1", project="default", lane=MODEL, lines=100, observed=Fraction(dollars(0.3)))
    found = periods(days(lambda _: 8.0, 28), MIDNIGHT, waiting)
    assert found[WindowKind.DAY].projected == exactly(30)
    assert found[WindowKind.WEEK].projected == exactly(8 + 6 * 8)  # 48 by the pace, of which 30 are queued
    assert found[WindowKind.WEEK].queue == dollars(30)


def test_a_slow_queue_spends_in_a_period_what_it_can() -> None:
    waiting = QueuedLines(
        batch="batch_1", project="p", lane=MODEL, lines=10, observed=Fraction(dollars(5)), lasts_ms=2 * DAY_MS
    )
    found = periods([], MIDNIGHT, waiting)
    assert found[WindowKind.DAY].queue == dollars(25)
    assert found[WindowKind.WEEK].queue == dollars(50)


def test_a_line_costs_what_its_batch_its_model_or_its_prices_say() -> None:
    lines = QueuedLines(batch="batch_1", project="p", lane=MODEL, lines=4, models=(MODEL,), estimate=Fraction(7))
    routed = QueuedLines(batch="b", project="p", lane="auto#1", lines=4, models=(MODEL, "m/2"), estimate=Fraction(7))
    observed = QueuedLines(batch="b", project="p", lane=MODEL, lines=3, models=(MODEL,), observed=Fraction(1, 3))
    unknown = QueuedLines(batch="b", project="p", lane="m/3", lines=3, models=("m/3",))
    answered = [rollup(TODAY, 1e-7, answered=3), rollup(TODAY, 0.0, answered=2)]  # 100 nano-dollars, 5 answers
    found = forecast(answered, [lines, routed, observed, unknown], (), NOON).queue
    assert [(cost.likely, cost.evidence) for cost in found] == [
        (80, Evidence.MODEL),
        (28, Evidence.PRICES),
        (1, Evidence.BATCH),
        (0, Evidence.NOTHING),
    ]
    assert forecast([], [lines], (), NOON).queue[0].evidence is Evidence.PRICES


@pytest.mark.parametrize("ahead", [1, 7, 30])
def test_the_range_holds_what_it_promises_where_days_differ_by_chance(ahead: int) -> None:
    """Four days and weeks of five, and two months of three: eight weeks are few to know a month by."""
    dice, held, tries = random.Random(5), 0, 150
    for _ in range(tries):
        future = [dice.lognormvariate(2, 0.5) for _ in range(HISTORY_DAYS + ahead)]
        course = Course(listed(future[:HISTORY_DAYS]), MIDNIGHT)
        span = course.between(MIDNIGHT + ahead * DAY_MS)
        assert span is not None
        held += (span.low or 0) <= dollars(sum(future[HISTORY_DAYS:])) <= (span.high or 0)
    assert 60 <= 100 * held // tries <= 95


@given(
    st.lists(st.integers(0, 10**6), max_size=70),
    st.integers(0, 10**6),
    st.integers(0, DAY_MS - 1),
    st.integers(0, 10**12),
)
def test_spent_is_never_unspent_and_the_likely_is_within_the_range(
    costs: list[int], today: int, time: int, queued: int
) -> None:
    waiting = QueuedLines(batch="b", project="p", lane=MODEL, lines=1, observed=Fraction(queued))
    for found in forecast(
        listed([each / 1000 for each in costs], today / 1000), [waiting], (), MIDNIGHT + time
    ).periods:
        span = found.projected
        assert found.spent + found.queue <= span.likely
        if span.low is not None and span.high is not None:
            assert found.spent <= span.low <= span.likely <= span.high
