"""In which order candidates are tried: each strategy by a table, and what must hold whatever the inputs are."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.config.strategy import Strategy
from batchmill.routing.candidates import Candidate, Considered, Decision
from batchmill.routing.health import FOR_EVER, ModelHealth
from batchmill.routing.strategies import EXPLORE, decide, rank

DRAWS = 10_000
OPEN_UNTIL = 1_764_000_000_000  # 16:00:00 UTC
NO_CHANCE = 0.999  # a draw that explores nothing


def measured(model: str, seconds: float, calls: int = 200, failures: int = 0) -> ModelHealth:
    return ModelHealth(model=model, calls=calls, failures=failures, seconds=60, latency_ms=1000 * seconds)


def table(*health: ModelHealth) -> dict[str, ModelHealth]:
    return {each.model: each for each in health}


def named(*models: str) -> list[Candidate]:
    return [Candidate(model) for model in models]


def order_of(decision: Decision) -> list[str]:
    return [each.model for each in decision.considered]


def shares(
    strategy: Strategy, candidates: list[Candidate], health: dict[str, ModelHealth], preferred: tuple[str, ...] = ()
) -> dict[str, float]:
    """Return how large a share of the lines goes first to each model."""
    chance = random.Random(7)
    ranking = rank(strategy, candidates, health, preferred=preferred)
    firsts = Counter(candidates[ranking.draw(chance.random(), turn).order[0]].model for turn in range(DRAWS))
    return {each.model: firsts[each.model] / DRAWS for each in candidates}


HEALTHY = measured("healthy", 0.8)
SLOW = measured("slow", 6.0)
FAILING = measured("failing", 0.8, failures=100)
DRILL = table(SLOW, FAILING, HEALTHY)
TRIO = named("slow", "failing", "healthy")


@pytest.mark.parametrize("strategy", [Strategy.PERFORMANCE, Strategy.AVAILABILITY])
def test_the_healthy_one_of_three_gets_nearly_all_and_the_others_a_look_now_and_then(strategy: Strategy) -> None:
    found = shares(strategy, TRIO, DRILL)
    assert found["healthy"] == pytest.approx(1 - EXPLORE, abs=0.01)
    assert found["slow"] > 0.005
    assert found["failing"] > 0.005


@pytest.mark.parametrize("strategy", [Strategy.PERFORMANCE, Strategy.AVAILABILITY])
def test_after_recovery_the_shares_return(strategy: Strategy) -> None:
    recovered = table(measured("slow", 0.82), measured("failing", 0.79), HEALTHY)
    for share in shares(strategy, TRIO, recovered).values():
        assert share == pytest.approx(1 / 3, abs=0.02)


def test_order_goes_as_named_whatever_the_health() -> None:
    for draw in (0.0, 0.01, 0.5):
        assert order_of(decide(Strategy.ORDER, TRIO, DRILL, draw=draw, turn=3)) == ["slow", "failing", "healthy"]


def test_cost_takes_the_cheapest_and_the_unknown_last() -> None:
    candidates = [Candidate("dear", 900), Candidate("unknown"), Candidate("cheap", 100), Candidate("middle", 103)]
    for draw in (0.0, 0.01, 0.5, NO_CHANCE):
        decision = decide(Strategy.COST, candidates, {}, draw=draw, turn=0)
        assert order_of(decision) == ["cheap", "middle", "dear", "unknown"]
        assert decision.order == (2, 3, 0, 1)


def test_cost_takes_those_within_two_per_cent_as_equals() -> None:
    found = shares(Strategy.COST, [Candidate("a", 1000), Candidate("b", 1020), Candidate("c", 1021)], {})
    assert found == {"a": pytest.approx(0.5, abs=0.02), "b": pytest.approx(0.5, abs=0.02), "c": 0}


def test_the_estimates_of_a_line_go_before_those_of_the_candidates() -> None:
    ranking = rank(Strategy.COST, [Candidate("a", 1), Candidate("b", 1000)], {})
    assert ranking.draw(0.5, 0).order == (0, 1)
    decision = ranking.draw(0.5, 0, estimates=[3_000_000, 2_000_000])
    assert decision.order == (1, 0)
    assert decision.considered[0].reason.startswith("about $0.002000")


def test_performance_counts_the_retry_that_a_failure_costs() -> None:
    quick = measured("quick", 1.0, failures=100)  # 2 s until a success
    steady = measured("steady", 1.5)
    decision = decide(Strategy.PERFORMANCE, named("quick", "steady"), table(quick, steady), draw=NO_CHANCE, turn=0)
    assert order_of(decision) == ["steady", "quick"]


def test_what_is_stated_stands_in_for_what_was_not_measured() -> None:
    swift = ModelHealth(model="swift", stated_latency_ms=200, stated_tokens_per_second=600)  # 0.7 s
    lame = ModelHealth(model="lame", stated_latency_ms=900, stated_tokens_per_second=60)  # 5.9 s
    seen = measured("seen", 2.0)
    decision = decide(
        Strategy.PERFORMANCE, named("lame", "seen", "swift"), table(swift, lame, seen), draw=NO_CHANCE, turn=0
    )
    assert order_of(decision) == ["swift", "seen", "lame"]


def test_a_model_that_nobody_knows_is_tried_as_an_equal_of_the_best() -> None:
    found = shares(Strategy.PERFORMANCE, named("known", "new", "slow"), table(measured("known", 1.0), SLOW))
    assert found["new"] == pytest.approx(0.48, abs=0.03)
    assert found["slow"] == pytest.approx(EXPLORE, abs=0.01)


def test_one_early_failure_does_not_condemn_a_model() -> None:
    unlucky = ModelHealth(model="unlucky", calls=1, failures=1, seconds=60)
    health = table(unlucky, measured("steady", 1, calls=100_000))
    found = shares(Strategy.WEIGHTED, named("unlucky", "steady"), health)
    assert found["unlucky"] == pytest.approx(0.653 / 1.653, abs=0.02)  # two calls at 98 % are added


def test_availability_takes_a_stated_uptime_where_no_calls_were_seen() -> None:
    poor = ModelHealth(model="poor", uptime=0.9)
    good = ModelHealth(model="good", uptime=0.999)
    decision = decide(Strategy.AVAILABILITY, named("poor", "good"), table(poor, good), draw=NO_CHANCE, turn=0)
    assert order_of(decision) == ["good", "poor"]


def test_round_robin_takes_each_in_turn() -> None:
    firsts = [
        order_of(decide(Strategy.ROUND_ROBIN, named("a", "b", "c"), {}, draw=0.5, turn=turn)) for turn in range(4)
    ]
    assert firsts == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_weighted_goes_by_weight_and_success() -> None:
    candidates = [Candidate("a", weight=3), Candidate("b", weight=1), Candidate("c", weight=2)]
    health = table(measured("a", 1), measured("b", 1), measured("c", 1, failures=100))
    found = shares(Strategy.WEIGHTED, candidates, health)
    assert found == {
        "a": pytest.approx(3 / 5, abs=0.02),
        "b": pytest.approx(1 / 5, abs=0.02),
        "c": pytest.approx(1 / 5, abs=0.02),
    }


def test_equals_are_drawn_by_weight_one_after_the_other() -> None:
    candidates = [Candidate("a", 10, weight=8), Candidate("b", 10, weight=1), Candidate("c", 10, weight=1)]
    chance = random.Random(3)
    ranking = rank(Strategy.COST, candidates, {})
    seconds = Counter(ranking.draw(chance.random(), 0).order[1] for _ in range(DRAWS))
    # a comes second when it was not first: 2 x 0.1 x 8/9
    assert seconds[0] / DRAWS == pytest.approx(0.178, abs=0.02)
    assert seconds[1] / DRAWS == pytest.approx(0.411, abs=0.02)


@pytest.mark.parametrize("strategy", [Strategy.COST, Strategy.PERFORMANCE, Strategy.AVAILABILITY])
def test_preferred_models_come_before_their_equals_which_are_not_forgotten(strategy: Strategy) -> None:
    candidates = [Candidate("a", 10), Candidate("maker/b", 10)]
    found = shares(strategy, candidates, {}, preferred=("maker/*",))
    assert found["maker/b"] == pytest.approx(1 - EXPLORE, abs=0.01)
    assert found["a"] == pytest.approx(EXPLORE, abs=0.01)


def test_preferred_models_do_not_come_before_better_ones() -> None:
    decision = decide(
        Strategy.COST, [Candidate("dear", 200), Candidate("cheap", 100)], {}, draw=0.5, turn=0, preferred=("dear",)
    )
    assert order_of(decision) == ["cheap", "dear"]
    assert decision.considered[1].reason.endswith("; preferred")


def test_a_function_may_tell_who_is_preferred() -> None:
    decision = decide(Strategy.COST, named("a", "b"), {}, draw=0.5, turn=0, preferred=lambda model: model == "b")
    assert order_of(decision) == ["b", "a"]


@pytest.mark.parametrize("strategy", Strategy)
def test_an_open_breaker_comes_last_with_its_reason_until_its_time_is_over(strategy: Strategy) -> None:
    shut = ModelHealth(model="a", open=OPEN_UNTIL)
    later = ModelHealth(model="b", open=OPEN_UNTIL + 1)
    health = table(later, shut)
    decision = decide(strategy, named("b", "a", "c"), health, draw=0.01, turn=0, now=OPEN_UNTIL - 1)
    assert order_of(decision) == ["c", "a", "b"]
    assert decision.considered[1] == Considered("a", "its breaker is open until 16:00:00 UTC, so it comes last")
    again = decide(Strategy.ORDER, named("b", "a", "c"), health, draw=0.01, turn=0, now=OPEN_UNTIL)
    assert order_of(again) == ["a", "c", "b"]


def test_what_an_operator_tripped_and_what_is_probed_is_said() -> None:
    health = table(
        ModelHealth(model="tripped", open=FOR_EVER),
        ModelHealth(model="probed", calls=3, failures=3, limited=4, seconds=3600, half_open=True),
    )
    decision = decide(Strategy.ORDER, named("tripped", "probed"), health, draw=0.5, turn=0)
    assert [each.reason for each in decision.considered] == [
        (
            "number 2 of those named; over 3 calls in 1 h, 0 % succeed, 4 more met a limit of the upstream; "
            "its breaker lets a few probes through"
        ),
        "an operator tripped its breaker, so it comes last",
    ]


def test_reasons_are_words_with_numbers() -> None:
    candidates = [Candidate("measured", 4_500_000, weight=2), Candidate("stated", 10_000_000), Candidate("new")]
    stated = ModelHealth(model="stated", stated_latency_ms=400, stated_tokens_per_second=80, uptime=0.9961)
    health = table(ModelHealth(model="measured", calls=212, failures=2, seconds=300, latency_ms=812), stated)
    decision = decide(Strategy.COST, candidates, health, draw=0.5, turn=0)
    assert [each.reason for each in decision.considered] == [
        "about $0.004500; weight 2; 0.81 s median over 212 calls in 5 min, 99.1 % succeed",
        "about $0.0100; its endpoints state 0.40 s to the first token, 80 tokens/s, 99.6 % up; no calls seen yet",
        "nobody knows what it is likely to cost; nothing is known yet of how it does",
    ]


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (Strategy.ORDER, "number 1 of those named; nothing is known yet of how it does"),
        (Strategy.PERFORMANCE, "nothing is known yet of how it does; taken to be as quick as the quickest"),
        (Strategy.AVAILABILITY, "nothing is known yet of how it does"),
        (Strategy.ROUND_ROBIN, "each in turn; nothing is known yet of how it does"),
        (Strategy.WEIGHTED, "by weight and success; nothing is known yet of how it does"),
    ],
)
def test_a_reason_tells_what_the_strategy_goes_by(strategy: Strategy, reason: str) -> None:
    assert decide(strategy, named("a"), {}, draw=0.5, turn=0).considered == (Considered("a", reason),)


def test_a_line_that_explores_says_so() -> None:
    decision = decide(Strategy.PERFORMANCE, TRIO, DRILL, draw=0.0, turn=0)
    assert decision.considered[0].model != "healthy"
    assert decision.considered[0].reason.startswith("tried first now and then, so that a change is noticed: ")
    assert decision.considered[1].model == "healthy"


def test_nobody_gives_nobody() -> None:
    for strategy in Strategy:
        assert decide(strategy, [], {}, draw=0.5, turn=5) == Decision(strategy, (), ())


healths = st.builds(
    ModelHealth,
    model=st.just(""),
    calls=st.integers(0, 500),
    failures=st.integers(0, 500),
    seconds=st.sampled_from((0, 60, 300, 3600)),
    latency_ms=st.none() | st.floats(0, 1e6),
    uptime=st.none() | st.floats(-1, 2),
    stated_latency_ms=st.none() | st.floats(0, 1e6),
    stated_tokens_per_second=st.none() | st.floats(0, 1e4),
    open=st.integers(0, 2) | st.sampled_from((OPEN_UNTIL, FOR_EVER)),
)
fields = st.lists(
    st.tuples(st.none() | st.integers(0, 1 << 53), st.floats(1e-6, 1e6), st.none() | healths), min_size=1, max_size=16
)


@given(st.sampled_from(Strategy), fields, st.floats(0, 1, exclude_max=True), st.integers(0, 1 << 40), st.booleans())
def test_every_candidate_is_there_once_and_chance_is_all_that_is_drawn(
    strategy: Strategy,
    given_: list[tuple[int | None, float, ModelHealth | None]],
    draw: float,
    turn: int,
    prefers: bool,
) -> None:
    candidates = [Candidate(f"m/{n}", estimate, weight) for n, (estimate, weight, _) in enumerate(given_)]
    health = {f"m/{n}": each for n, (_, _, each) in enumerate(given_) if each is not None}
    preferred = ("m/1*",) if prefers else ()
    decision = decide(strategy, candidates, health, draw=draw, turn=turn, preferred=preferred, now=1)
    assert sorted(decision.order) == list(range(len(candidates)))
    assert [each.model for each in decision.considered] == [candidates[place].model for place in decision.order]
    assert all(each.reason for each in decision.considered)
    assert decision == decide(strategy, candidates, health, draw=draw, turn=turn, preferred=preferred, now=1)
    shut = [health[model].open > 1 if model in health else False for model in order_of(decision)]
    assert shut == sorted(shut)


@settings(deadline=None, max_examples=30)
@given(fields)
def test_under_performance_and_availability_nobody_is_forgotten(
    given_: list[tuple[int | None, float, ModelHealth | None]],
) -> None:
    candidates = [Candidate(f"m/{n}") for n in range(len(given_))]
    health = {f"m/{n}": each for n, (_, _, each) in enumerate(given_) if each is not None}
    closed = {n for n in range(len(given_)) if f"m/{n}" not in health or not health[f"m/{n}"].open}
    for strategy in (Strategy.PERFORMANCE, Strategy.AVAILABILITY):
        ranking = rank(strategy, candidates, health)
        draws = [EXPLORE * n / 1024 for n in range(1024)] + [n / 1024 for n in range(1024)]
        assert {ranking.draw(draw, 0).order[0] for draw in draws} >= closed
