"""The listing of models as facts: what is taken from it, and what it may hold without harm."""

import json
from typing import Any

import pytest

from batchmill.openrouter.models import ModelFacts, decode_models, find_model
from batchmill.openrouter.simulator.catalogue import load_catalogue

PRICING = {"prompt": "0.000001", "completion": "0.000002", "overrides": [{"min_prompt_tokens": 5, "prompt": "1"}]}
ENTRY = {"id": "a/b", "pricing": PRICING}


def decoded(*entries: Any) -> dict[str, ModelFacts]:
    return decode_models(json.dumps({"data": list(entries)}).encode())


def test_the_real_catalogue_is_read_whole() -> None:
    models = decode_models(load_catalogue().listing)
    assert len(models) == 342
    facts = models["openai/gpt-4o-mini"]
    assert (facts.context_length, facts.max_completion_tokens) == (128_000, 16_384)
    assert json.loads(facts.pricing)["prompt"] == "0.00000015"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (None, None)),
        ({"context_length": 10, "top_provider": {"context_length": 9, "max_completion_tokens": 8}}, (10, 8)),
        ({"context_length": None, "top_provider": {"context_length": 9}}, (9, None)),
        ({"context_length": 0, "top_provider": {"max_completion_tokens": -1}}, (None, None)),
        ({"context_length": "large", "top_provider": {"max_completion_tokens": 8, "new": {}}}, (None, 8)),
        ({"context_length": 10, "top_provider": None}, (10, None)),
    ],
)
def test_lengths(fields: dict[str, Any], expected: tuple[int | None, int | None]) -> None:
    facts = decoded(ENTRY | fields)["a/b"]
    assert (facts.context_length, facts.max_completion_tokens) == expected
    assert json.loads(facts.pricing) == PRICING


@pytest.mark.parametrize(
    "entry",
    [{"id": "a/b"}, {"id": "a/b", "pricing": "free"}, {"id": 5, "pricing": PRICING}, {"pricing": PRICING}, 7, None],
)
def test_an_entry_without_id_or_price_is_left_out(entry: Any) -> None:
    assert list(decoded(entry, ENTRY | {"id": "c/d"})) == ["c/d"]


@pytest.mark.parametrize("listing", [b"", b"<html>", b"[]", b'{"data":7}', b'{"data":null}', b"{}", b"\xff"])
def test_what_is_no_listing_has_no_models(listing: bytes) -> None:
    assert decode_models(listing) == {}


@pytest.mark.parametrize(
    ("model", "found"), [("a/b", True), ("a/b:floor", True), ("a/b:nitro", True), ("a/b:free", False), ("a", False)]
)
def test_a_model_is_found_under_a_routing_suffix(model: str, found: bool) -> None:
    assert (find_model(decoded(ENTRY), model) is not None) is found
