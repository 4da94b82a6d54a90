"""Filters over the catalogue: each criterion, how they combine, what they left out, and what sorts the rest."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.routing.health import ModelHealth
from batchmill.routing.selection import Filter, Sort, select
from batchmill.routing.shelf import Shelf

from .shelf_helpers import catalogue, facts, shelf

CHEAP = facts("acme/cheap-coder", "0.0000001", "0.0000004", name="Acme Labs: Cheap", created=3, context_length=8_000)
DEAR = facts(
    "zeta/dear", "0.00001", "0.00004", parameters=("tools", "seed"), created=2, max_completion_tokens=64_000,
    input_modalities=("text", "image"), description="Sees pictures.",
)  # fmt: skip
FREE = facts("acme/gift:free", "0", "0", parameters=("tools",), context_length=1_000_000)
AUTO = facts("openrouter/auto", "-1", "-1", parameters=(), context_length=None, output_modalities=("text", "image"))
SHELF = shelf(CHEAP, DEAR, FREE, AUTO)
EVERY = {"acme/cheap-coder", "zeta/dear", "acme/gift:free", "openrouter/auto"}


def ids(shelf: Shelf, wanted: Filter, sort: Sort = Sort.PRICE, **how: Any) -> list[str]:
    return [item.id for item in select(shelf, wanted, sort, **how).found]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), EVERY),
        (Filter(text="sees ZETA"), {"zeta/dear"}),
        (Filter(authors=("acme",)), {"acme/cheap-coder", "acme/gift:free"}),
        (Filter(authors=("Acme Labs",)), {"acme/cheap-coder"}),
        (Filter(authors=("ze*", "openrouter")), {"zeta/dear", "openrouter/auto"}),
        (Filter(families=("other",)), EVERY),
        (Filter(families=("gpt",)), set()),
        (Filter(providers=("zeta",)), {"zeta/dear"}),
        (Filter(capabilities=("tools",)), {"zeta/dear", "acme/gift:free"}),
        (Filter(capabilities=("tools", "vision")), {"zeta/dear"}),
        (Filter(inputs=("image",)), {"zeta/dear"}),
        (Filter(outputs=("image",)), {"openrouter/auto"}),
        (Filter(tags=("code",)), {"acme/cheap-coder"}),
        (Filter(without_tags=("code", "router")), {"zeta/dear", "acme/gift:free"}),
        (Filter(free=True), {"acme/gift:free"}),
        (Filter(free=False), EVERY - {"acme/gift:free"}),
        (Filter(max_input=Decimal("0.1")), {"acme/cheap-coder", "acme/gift:free"}),
        (Filter(max_output=Decimal("0.39")), {"acme/gift:free"}),
        (Filter(max_price=Decimal("0.175")), {"acme/cheap-coder", "acme/gift:free"}),
        (Filter(min_context=8_001), {"zeta/dear", "acme/gift:free"}),
        (Filter(min_output=64_000), {"zeta/dear"}),
        (Filter(authors=("acme",), capabilities=("tools",), max_price=Decimal(1)), {"acme/gift:free"}),
    ],
)
def test_each_criterion_and_several_together(wanted: Filter, found: set[str]) -> None:
    assert set(ids(SHELF, wanted)) == found


def test_a_provider_is_who_serves_a_model_where_that_is_known() -> None:
    served = {"zeta/dear": frozenset({"deepinfra", "deepinfra/turbo"}), "acme/cheap-coder": frozenset({"acme"})}
    assert ids(SHELF, Filter(providers=("DeepInfra",)), providers=served) == ["zeta/dear"]
    assert ids(SHELF, Filter(providers=("zeta",)), providers=served) == []


def test_available_leaves_out_who_is_known_to_be_in_trouble() -> None:
    health = {
        "zeta/dear": ModelHealth(model="zeta/dear", open=5),
        "acme/cheap-coder": ModelHealth(model="acme/cheap-coder", calls=30, failures=20),
        "acme/gift:free": ModelHealth(model="acme/gift:free", calls=30, failures=1, uptime=0.9),
    }
    assert set(ids(SHELF, Filter(available=True), health=health)) == {"acme/gift:free", "openrouter/auto"}


def test_what_was_left_out_is_counted_by_the_first_criterion_that_fails() -> None:
    found = select(SHELF, Filter(capabilities=("vision",), max_price=Decimal(1), min_context=100_000))
    assert found.found == ()
    assert found.left_out == {"capability": 3, "price": 1}
    assert found.alone == {"capability": 1, "price": 1}
    assert found.explain() == "4 left out: 3 by capability, 1 by price"
    assert found.advice() == "there would be 1 without capability, 1 without price"
    assert select(SHELF, Filter()).explain() == select(SHELF, Filter()).advice() == ""


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        (Sort.PRICE, ["acme/gift:free", "acme/cheap-coder", "zeta/dear", "openrouter/auto"]),
        (Sort.INPUT, ["acme/gift:free", "acme/cheap-coder", "zeta/dear", "openrouter/auto"]),
        (Sort.OUTPUT, ["acme/gift:free", "acme/cheap-coder", "zeta/dear", "openrouter/auto"]),
        (Sort.CONTEXT, ["acme/gift:free", "zeta/dear", "acme/cheap-coder", "openrouter/auto"]),
        (Sort.CREATED, ["acme/cheap-coder", "zeta/dear", "acme/gift:free", "openrouter/auto"]),
        (Sort.NAME, ["acme/cheap-coder", "acme/gift:free", "openrouter/auto", "zeta/dear"]),
        (Sort.LATENCY, ["zeta/dear", "acme/cheap-coder", "acme/gift:free", "openrouter/auto"]),
        (Sort.THROUGHPUT, ["acme/cheap-coder", "zeta/dear", "acme/gift:free", "openrouter/auto"]),
        (Sort.UPTIME, ["zeta/dear", "acme/cheap-coder", "acme/gift:free", "openrouter/auto"]),
    ],
)
def test_the_best_come_first_and_those_that_nobody_knows_last(sort: Sort, order: list[str]) -> None:
    health = {
        "zeta/dear": ModelHealth(model="zeta/dear", calls=50, failures=0, latency_ms=900, tokens_per_second=40),
        "acme/cheap-coder": ModelHealth(
            model="acme/cheap-coder", uptime=0.99, stated_latency_ms=500, stated_tokens_per_second=100
        ),
    }
    assert ids(SHELF, Filter(), sort, health=health) == order
    backwards = ids(SHELF, Filter(), sort, health=health, reverse=True)
    known = len([model for model in order if sort is Sort.NAME or model in health]) if sort in (
        Sort.NAME, Sort.LATENCY, Sort.THROUGHPUT, Sort.UPTIME) else 2 if sort is Sort.CREATED else 3  # fmt: skip
    assert backwards[:known] == order[:known][::-1], "turned round"
    assert backwards[known:] == order[known:], "and the unknown are last all the same"


def test_a_wrong_word_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'vision'"):
        Filter(capabilities=("vison",))
    with pytest.raises(ValueError, match="did you mean 'open_weights'"):
        Filter(tags=("open_weight",))


PACKAGED = Shelf(catalogue())
CRITERIA: dict[str, st.SearchStrategy[Any]] = {
    "text": st.sampled_from(("", "gpt", "a", "no such model")),
    "authors": st.sampled_from(((), ("openai",), ("meta-*", "google"))),
    "capabilities": st.sampled_from(((), ("tools",), ("vision", "tools"))),
    "tags": st.sampled_from(((), ("cheap",), ("open_weights",))),
    "free": st.sampled_from((None, True, False)),
    "max_price": st.none() | st.decimals(0, 20, places=2),
    "min_context": st.none() | st.integers(0, 2_000_000),
}


@given(st.fixed_dictionaries(CRITERIA), st.sampled_from(Sort))
def test_criteria_only_take_away_and_every_model_is_found_or_counted(given: dict[str, Any], sort: Sort) -> None:
    found = select(PACKAGED, Filter(**given), sort)
    assert len(found.found) + sum(found.left_out.values()) == len(PACKAGED)
    together = {item.id for item in found.found}
    for name, value in given.items():
        alone = {item.id for item in select(PACKAGED, Filter(**{name: value})).found}
        assert together <= alone
    assert sum(found.alone.values()) <= sum(found.left_out.values())


def test_a_search_for_an_id_that_is_not_there_finds_the_nearest() -> None:
    assert PACKAGED.nearest("openai/gpt-4o-mimi")[0] == "openai/gpt-4o-mini"
    assert "anthropic/claude-haiku-4.5" in PACKAGED.nearest("haiku-4.5")
    assert PACKAGED.nearest("§§§§§§§§§§") == ()
    found = PACKAGED.find("openai/gpt-4o-mini:floor")
    assert found is not None
    assert found.id == "openai/gpt-4o-mini"
