"""Models side by side, and the ranking of those that can do what is needed."""

from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.routing.comparison import Mix, UnknownModelError, compare
from batchmill.routing.health import ModelHealth
from batchmill.routing.performance import FLEET, STATED, Figure, answer_ms, success, trouble
from batchmill.routing.quality import benchmark_of
from batchmill.routing.recommendation import OPTIMIZE, UNKNOWN, Needs, Optimize, recommend
from batchmill.routing.selection import Filter
from batchmill.routing.shelf import Shelf

from .shelf_helpers import catalogue, facts, shelf

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
TODAY = AT.date()
ONE = facts("acme/one", created=1_760_000_000, parameters=("tools",))
TWO = facts("acme/two", "0.000002", "0.000008", created=1_770_000_000, context_length=1_000_000)
PACKAGED = Shelf(catalogue())


def ranked(*models: msgspec.Struct, **needs: object) -> list[str]:
    return [one.item.id for one in recommend(shelf(*models), Needs(today=TODAY, **needs)).best]  # type: ignore[arg-type]


def test_the_cost_is_that_of_the_mix_with_cache_and_long_prompts() -> None:
    tiered = facts(
        "acme/tiered",
        pricing={
            "input_cache_read": "0.0000001",
            "overrides": [{"min_prompt_tokens": 9_999, "prompt": "0.000002"}],
        },
    )
    of = shelf(tiered)
    costs = {
        mix: compare(of, ["acme/tiered"], at=AT, mix=mix).models[0].cost
        for mix in (Mix(1000, 100), Mix(1000, 100, 400), Mix(10_000, 0))
    }
    assert costs == {
        Mix(1000, 100): Decimal("0.0014"),
        Mix(1000, 100, 400): Decimal("0.00104"),
        Mix(10_000, 0): Decimal("0.02"),
    }


def test_who_wins_at_what() -> None:
    health = {
        "acme/one": ModelHealth(model="acme/one", calls=40, failures=0, latency_ms=900),
        "acme/two": ModelHealth(model="acme/two", uptime=0.95, stated_latency_ms=300, stated_tokens_per_second=150),
    }
    found = compare(shelf(ONE, TWO), ["acme/one", "acme/two", "acme/one"], at=AT, health=health)
    assert [model.item.id for model in found.models] == ["acme/one", "acme/two"]
    assert found.wins == {
        "cost": ("acme/one",),
        "context": ("acme/two",),
        "capabilities": ("acme/one",),
        "answer time": ("acme/one",),  # 900 ms against 300 ms and 300 tokens at 150 a second
        "success": ("acme/one",),
        "age": ("acme/two",),
    }
    assert found.models[1].answer_ms == Figure(2300.0, STATED)
    assert "tools" in found.capabilities


def test_nobody_wins_alone_or_where_all_are_alike() -> None:
    health = {"acme/one": ModelHealth(model="acme/one", calls=40, latency_ms=900)}
    twin = msgspec.structs.replace(ONE, id="acme/twin")
    assert compare(shelf(ONE, twin), ["acme/one", "acme/twin"], at=AT, health=health).wins == {}


def test_a_model_that_nobody_knows_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="no model 'acme/on' in the catalogue; did you mean acme/one"):
        compare(shelf(ONE, TWO), ["acme/one", "acme/on"], at=AT)


@pytest.mark.parametrize("mix", [(-1, 0, 0), (1, -1, 0), (5, 1, 6)])
def test_a_mix_is_of_tokens_that_can_be(mix: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="a mix has"):
        Mix(*mix)


def test_the_fleet_s_own_numbers_go_before_stated_ones() -> None:
    health = ModelHealth(
        model="a", calls=80, failures=8, uptime=1.0, latency_ms=700, stated_latency_ms=1, stated_tokens_per_second=1
    )
    assert answer_ms(health) == Figure(700, FLEET)
    assert success(health) == Figure(92 / 100, FLEET)
    assert success(ModelHealth(model="a", uptime=0.4)) == Figure(0.4, STATED)
    assert trouble(ModelHealth(model="a", uptime=0.4)) == "40 % succeed"
    assert trouble(ModelHealth(model="a", open=1)) == "its breaker is open"
    assert trouble(ModelHealth(model="a")) is None
    assert (success(None), answer_ms(None), trouble(None)) == (None, None, None)


def test_a_score_is_the_sum_of_its_weighted_parts_and_tells_why() -> None:
    best, second = recommend(shelf(ONE, TWO), Needs(today=TODAY)).best
    assert (best.item.id, second.item.id) == ("acme/one", "acme/two")
    assert best.score == pytest.approx(sum(part.value * part.weight for part in best.parts))
    assert {part.name: part.weight for part in best.parts} == OPTIMIZE[Optimize.COST]
    assert best.reason.startswith("$1.75 a million, blended")
    words = {part.name: part.words for part in best.parts}
    assert words["speed"] == "nobody measured its speed"
    assert words["reliability"] == "nobody knows how reliable it is"
    assert words["quality"].endswith("(proxy, no benchmark)")
    assert {part.name: part.value for part in best.parts}["speed"] == UNKNOWN


@pytest.mark.parametrize(("goal", "first"), [("cost", "acme/one"), ("speed", "acme/two"), ("reliability", "acme/two")])
def test_the_goal_decides(goal: str, first: str) -> None:
    health = {
        "acme/one": ModelHealth(model="acme/one", calls=100, failures=8, latency_ms=5000),
        "acme/two": ModelHealth(model="acme/two", calls=100, failures=0, latency_ms=500),
    }
    best = recommend(shelf(ONE, TWO), Needs(today=TODAY, optimize=Optimize(goal)), health).best
    assert best[0].item.id == first


def test_benchmarks_tell_the_quality_and_a_proxy_says_that_it_is_one() -> None:
    proven = msgspec.structs.replace(ONE, benchmarks=b'{"artificial_analysis":{"intelligence_index":61.5}}')
    best, second = recommend(shelf(proven, TWO), Needs(today=TODAY, optimize=Optimize.QUALITY)).best
    assert best.item.id == "acme/one", "dearer, newer and with more context, the other is only guessed to be better"
    assert best.parts[0].words == "61.5 in Artificial Analysis intelligence index"
    assert "proxy, no benchmark" in second.parts[0].words
    assert second.parts[0].value <= 0.7, "what is only guessed is never as good as what was measured"
    assert ranked(ONE, TWO, optimize=Optimize.QUALITY)[0] == "acme/two", "without benchmarks it goes by the proxy"


@pytest.mark.parametrize(
    ("raw", "score"),
    [
        (b'{"artificial_analysis":{"intelligence_index":null,"coding_index":40},"design_arena":[]}', 40.0),
        (b'{"design_arena":[{"win_rate":50},{"win_rate":60,"elo":1200}]}', 55.0),
        (b'{"design_arena":[]}', None),
        (b'{"artificial_analysis":"soon"}', None),
        (b"[1]", None),
        (b"nonsense", None),
        (None, None),
    ],
)
def test_benchmarks_are_read_as_far_as_they_can_be(raw: bytes | None, score: float | None) -> None:
    mark = benchmark_of(raw)
    assert (mark.score if mark else None) == score


@pytest.mark.parametrize(
    ("expires", "told"),
    [("2026-12-01", "in 7 days"), ("2027-02-01", "in 69 days"), ("2028-01-01", None), ("some day", None)],
)
def test_a_model_that_expires_soon_is_marked_down_and_named(expires: str, told: str | None) -> None:
    going = msgspec.structs.replace(ONE, expires=expires)
    (best,) = recommend(shelf(going), Needs(today=TODAY)).best
    whole = sum(part.value * part.weight for part in best.parts)
    assert (best.score < whole) == (told is not None)
    assert ("marked down: may be removed on" in best.reason) == (told is not None)
    assert told is None or told in best.reason


def test_a_model_in_trouble_is_marked_down_and_named() -> None:
    health = {"acme/one": ModelHealth(model="acme/one", open=7)}
    best, second = recommend(shelf(ONE, TWO), Needs(today=TODAY), health).best
    assert best.item.id == "acme/two"
    assert second.reason.endswith("marked down: its breaker is open")


def test_what_can_not_be_taken_is_never_recommended() -> None:
    shown = ranked(
        ONE,
        facts("acme/one:batch", "0.0000005"),
        facts("acme/router", tokenizer="Router"),
        facts("acme/unknown", "-1"),
        facts("acme/gone", expires="2026-11-23"),
        facts("acme/painter", output_modalities=("image",)),
        facts("acme/gift:free", "0", "0"),
    )
    assert shown == ["acme/one"]
    assert ranked(ONE, facts("acme/gift:free", "0", "0"), free=True) == ["acme/gift:free", "acme/one"]


@given(
    st.sampled_from(Optimize),
    st.sampled_from((Filter(), Filter(capabilities=("tools",)), Filter(max_price=Decimal(1)))),
    st.dictionaries(
        st.sampled_from([item.id for item in PACKAGED.items]),
        st.builds(
            ModelHealth,
            model=st.just("any"),
            calls=st.integers(1, 1000),
            latency_ms=st.none() | st.floats(1, 1e6),
            uptime=st.none() | st.floats(0, 1),
        ),
        max_size=20,
    ),
)
def test_parts_are_shares_and_the_ranking_is_sorted_and_complete(
    goal: Optimize, wanted: Filter, health: dict[str, ModelHealth]
) -> None:
    ranking = recommend(PACKAGED, Needs(today=date(2026, 11, 24), wanted=wanted, optimize=goal), health, most=1000)
    scores = [one.score for one in ranking.best]
    assert scores == sorted(scores, reverse=True)
    assert len(ranking.best) == len(ranking.selection.found)
    assert len(ranking.best) + sum(ranking.selection.left_out.values()) == len(PACKAGED)
    for one in ranking.best:
        assert all(0 <= part.value <= 1 for part in one.parts), one.parts
        assert sum(part.weight for part in one.parts) == pytest.approx(1)
        assert one.reason
