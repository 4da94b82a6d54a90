"""What of a listing is not known here, told by path and example."""

import json
from typing import Any

import pytest

from batchmill.openrouter.drift import Drift, UnknownField, UnknownValue, Unreadable, drift_of
from batchmill.openrouter.simulator.catalogue import load_catalogue

PRICING = {"prompt": "0.1", "completion": "0.2"}


def drift(*entries: Any, **top: Any) -> Drift:
    return drift_of(json.dumps({"data": list(entries), **top}, separators=(",", ":")).encode())


def model(**fields: Any) -> dict[str, Any]:
    return {"id": "a/b", "pricing": PRICING} | fields


def test_the_captured_listings_hold_nothing_new() -> None:
    found = drift_of(load_catalogue().listing)
    assert found.none
    assert (found.entries, found.unpriced) == (342, ("openrouter/auto", "typesafe/jev-router"))


def test_unknown_fields_are_counted_by_path_with_the_first_example() -> None:
    found = drift(
        model(carbon={"grams": 1.50}, pricing=PRICING | {"video": "1", "overrides": [{"region": "eu", "prompt": "1"}]}),
        model(carbon=7, top_provider={"weather": "x" * 100}, reasoning={"depth": 3}),
    )
    assert found.fields == (
        UnknownField("carbon", 2, '{"grams":1.5}'),
        UnknownField("pricing.overrides[].region", 1, '"eu"'),
        UnknownField("pricing.video", 1, '"1"'),
        UnknownField("reasoning.depth", 1, "3"),
        UnknownField("top_provider.weather", 1, '"' + "x" * 59 + "…"),
    )
    assert not found.none


def test_unknown_values_of_open_lists_are_counted() -> None:
    architecture = {"input_modalities": ["text", "smell"], "output_modalities": ["file"], "tokenizer": "Novel"}
    reasoning = {"supported_efforts": ["high", "extreme", None], "default_effort": "extreme"}
    found = drift(
        model(architecture=architecture, supported_parameters=["tools", "mood"], reasoning=reasoning),
        model(supported_parameters=["mood"], pricing=PRICING | {"overrides": [{"utc_days": ["caturday"]}]}),
    )
    assert found.values == (
        UnknownValue("architecture.input_modalities", "smell", 1),
        UnknownValue("architecture.output_modalities", "file", 1),
        UnknownValue("architecture.tokenizer", "Novel", 1),
        UnknownValue("pricing.overrides[].utc_days", "caturday", 1),
        UnknownValue("reasoning.default_effort", "extreme", 1),
        UnknownValue("reasoning.supported_efforts", "extreme", 1),
        UnknownValue("supported_parameters", "mood", 2),
    )


def test_what_can_not_be_read_is_named_with_the_reason() -> None:
    found = drift(7, {"name": "nobody"}, {"id": "c/d"}, model(context_length="large"), model(id="e/f"))
    assert found.unreadable == (
        Unreadable("#1", "Expected `object`, got `int`", left_out=True),
        Unreadable("#2", "it has no id", left_out=True),
        Unreadable("c/d", "it has no pricing, and nothing else that a model has", left_out=True),
        Unreadable("a/b", "Expected `int | null`, got `str` - at `$.context_length`", left_out=False),
    )


@pytest.mark.parametrize(
    "pricing", [{"prompt": "-1", "completion": "-1"}, {"prompt": "1"}, {"prompt": "much", "completion": "1"}, {}]
)
def test_models_without_a_usable_price_are_named_and_are_no_drift(pricing: dict[str, str]) -> None:
    found = drift(model(pricing=pricing))
    assert (found.unpriced, found.none) == (("a/b",), True)


def test_a_listing_that_is_only_a_page_says_so() -> None:
    assert drift(model(), total_count=12).missing == 11
    assert not drift(model(), total_count=12).none
    assert drift(model(), total_count="many").missing == 0


@pytest.mark.parametrize("listing", [b"", b"<html>", b"[]", b'{"data":7}', b'{"data":null}', b"\xff"])
def test_what_is_no_listing_has_no_drift(listing: bytes) -> None:
    assert drift_of(listing) == Drift()
