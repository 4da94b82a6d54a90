"""Which models "auto" chooses from, and what it says of those that it passes by."""

from decimal import Decimal
from typing import Any

import pytest

from batchmill.config.policy import Routing
from batchmill.config.strategy import Strategy
from batchmill.openrouter.models import ModelFacts, decode_models
from batchmill.openrouter.simulator.catalogue import load_catalogue
from batchmill.routing.automatic import TOLD, choose, likely_cost
from batchmill.routing.candidates import Considered
from batchmill.routing.eligibility import Needs
from batchmill.routing.health import ModelHealth

NEEDS = Needs(prompt=1000, worst=4000, likely_output=300)


def priced(model: str, usd: str, **fields: Any) -> ModelFacts:
    """A model at so many USD for a million tokens, in and out."""
    rate = f"{Decimal(usd).scaleb(-6):f}"
    return ModelFacts(model, f'{{"prompt":"{rate}","completion":"{rate}"}}'.encode(), **fields)


def shelf(*models: ModelFacts) -> dict[str, ModelFacts]:
    return {each.id: each for each in models}


PACKAGED = decode_models(load_catalogue().listing)
CHEAP, MIDDLE, DEAR = priced("m/cheap", "1"), priced("m/middle", "2"), priced("m/dear", "3")
THREE = shelf(DEAR, CHEAP, MIDDLE)


def ids(chosen: tuple[tuple[ModelFacts, ...], tuple[Considered, ...]]) -> list[str]:
    return [each.id for each in chosen[0]]


def reasons(chosen: tuple[tuple[ModelFacts, ...], tuple[Considered, ...]]) -> dict[str, str]:
    return {each.model: each.reason for each in chosen[1]}


@pytest.mark.parametrize("strategy", [Strategy.COST, Strategy.ORDER, Strategy.ROUND_ROBIN, Strategy.WEIGHTED])
def test_the_cheapest_few_that_fit_are_candidates(strategy: Strategy) -> None:
    found = choose(THREE, NEEDS, Routing(auto_candidates=2), strategy, {})
    assert ids(found) == ["m/cheap", "m/middle"]
    assert reasons(found) == {
        "m/cheap": "among the best of 3 that fit; about $0.001300",
        "m/middle": "among the best of 3 that fit; about $0.002600",
    }


def test_performance_takes_the_quick_ones_that_are_known_and_then_the_cheapest() -> None:
    health = {
        "m/dear": ModelHealth(model="m/dear", calls=50, seconds=60, latency_ms=700),
        "m/middle": ModelHealth(model="m/middle", stated_latency_ms=100, stated_tokens_per_second=1000),
    }
    assert ids(choose(THREE, NEEDS, Routing(), Strategy.PERFORMANCE, health)) == ["m/middle", "m/dear", "m/cheap"]
    assert ids(choose(THREE, NEEDS, Routing(), Strategy.PERFORMANCE, {})) == ["m/cheap", "m/middle", "m/dear"]


def test_performance_does_not_take_a_model_for_quick_of_which_only_the_uptime_is_known() -> None:
    health = {
        "m/cheap": ModelHealth(model="m/cheap", uptime=1.0),
        "m/dear": ModelHealth(model="m/dear", calls=50, seconds=60, latency_ms=9000),
    }
    assert ids(choose(THREE, NEEDS, Routing(), Strategy.PERFORMANCE, health)) == ["m/dear", "m/cheap", "m/middle"]


def test_availability_takes_the_dependable_ones_and_among_those_the_cheapest() -> None:
    health = {
        "m/dear": ModelHealth(model="m/dear", uptime=0.999),
        "m/middle": ModelHealth(model="m/middle", uptime=0.995),
        "m/cheap": ModelHealth(model="m/cheap", uptime=0.9),
    }
    found = choose(THREE, NEEDS, Routing(), Strategy.AVAILABILITY, health)
    assert ids(found) == ["m/middle", "m/dear", "m/cheap"]
    assert reasons(found)["m/middle"].endswith("its endpoints state 99.5 % up; no calls seen yet")


def test_preferred_models_get_their_places_first() -> None:
    assert ids(choose(THREE, NEEDS, Routing(prefer_models=("m/dear",), auto_candidates=2), Strategy.COST, {})) == [
        "m/dear",
        "m/cheap",
    ]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (priced("other/model", "1"), "not among auto_models of [routing]"),
        (priced("m/x", "0"), "it is free, with daily caps, and auto_free of [routing] is off"),
        (priced("m/x", "-1"), "no usable price is known for it"),
        (ModelFacts("m/x", b"{}"), "no usable price is known for it"),
        (priced("m/x", "1", alias_target="m/y"), "it stands for a model that changes, and its price with it"),
        (priced("m/x:batch", "1"), "it is an entry of OpenRouter's Batch API, which answers no calls"),
        (priced("m/x", "1", expires="2026-01-01"), "it expired on 2026-01-01"),
        (priced("m/bad", "1"), "excluded by exclude_models of [routing]"),
        (priced("m/x", "1", context_length=500), "its context of 500 tokens is too short: about 1,000 go in"),
        (priced("m/x", "9"), "$9 a million prompt tokens, over the $5 that is allowed"),
    ],
)
def test_what_auto_may_not_choose_it_does_not_choose_and_says_why(facts: ModelFacts, reason: str) -> None:
    routing = Routing(auto_models=("m/*",), exclude_models=("m/bad",), auto_max_input_price=Decimal(5), auto_free=False)
    found = choose(shelf(CHEAP, facts), NEEDS, routing, Strategy.COST, {}, today="2026-11-24")
    assert ids(found) == ["m/cheap"]
    assert reasons(found)[facts.id] == reason


def test_free_models_may_be_allowed() -> None:
    free = priced("m/x:free", "0")
    assert ids(choose(shelf(CHEAP, free), NEEDS, Routing(auto_free=True), Strategy.COST, {})) == ["m/x:free", "m/cheap"]


def test_the_lower_of_two_price_caps_holds() -> None:
    needs = Needs(prompt=1000, worst=4000, max_input_price=Decimal("1.5"), max_output_price=Decimal(9))
    routing = Routing(auto_max_input_price=Decimal(9), auto_max_output_price=Decimal("1.5"))
    found = choose(THREE, needs, routing, Strategy.COST, {})
    assert ids(found) == ["m/cheap"]
    assert reasons(found)["m/middle"] == "$2 a million prompt tokens, over the $1.5 that is allowed"


def test_nothing_that_fits_leaves_each_reason_once_and_first_those_that_lie_in_the_line() -> None:
    small = [priced(f"m/small{n}", str(n + 1), context_length=500) for n in range(3)]
    dear = priced("m/dear", "9", context_length=400)
    free = [priced(f"m/free{n}", "0") for n in range(2)]
    chosen, considered = choose(shelf(*free, dear, *small), NEEDS, Routing(), Strategy.COST, {})
    assert chosen == ()
    assert considered == (
        Considered("m/small0", "its context of 500 tokens is too short: about 1,000 go in (so for 2 more)"),
        Considered("m/dear", "its context of 400 tokens is too short: about 1,000 go in"),
        Considered("m/free0", "it is free, with daily caps, and auto_free of [routing] is off (so for 1 more)"),
    )


def test_only_the_first_few_reasons_are_told() -> None:
    small = [priced(f"m/{n}", "1", context_length=500 + n) for n in range(TOLD + 1)]
    assert len(choose(shelf(*small), NEEDS, Routing(), Strategy.COST, {})[1]) == TOLD


def test_a_candidate_of_which_nobody_says_that_it_can_is_noted() -> None:
    needs = Needs(prompt=1, worst=1, capabilities=frozenset({"tools"}))
    found = choose(shelf(CHEAP), needs, Routing(), Strategy.COST, {})
    assert reasons(found)["m/cheap"].endswith("; nobody says whether it can do tools")


def test_the_likely_cost_is_that_of_prompt_answer_and_call_rounded_up() -> None:
    pricing = b'{"prompt":"0.0000015","completion":"0.000002","request":"0.001"}'
    assert likely_cost(pricing, NEEDS) == 1_500_000 + 600_000 + 1_000_000
    assert likely_cost(b'{"prompt":"0.0000000001","completion":"0"}', Needs(prompt=1, worst=1)) == 1
    assert likely_cost(b'{"prompt":"0.1","completion":"0.1","request":"-1"}', NEEDS) is None


def test_every_candidate_of_the_packaged_catalogue_can_serve_the_line() -> None:
    needs = Needs(prompt=90_000, worst=300_000, output=4000, capabilities=frozenset({"tools", "vision"}))
    chosen, considered = choose(PACKAGED, needs, Routing(auto_candidates=16), Strategy.COST, {})
    assert len(chosen) == 16
    assert len(considered) == 16 + TOLD
    for facts in chosen:
        assert {"tools"} <= set(facts.parameters)
        assert "image" in facts.input_modalities
        assert (facts.context_length or 0) >= 94_000
    costs = [likely_cost(facts.pricing, needs) for facts in chosen]
    assert costs == sorted(costs, key=lambda cost: cost or 0)
