"""The listing of models as facts: what is taken from it, and what it may hold without harm."""

import copy
import hashlib
import json
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.openrouter.drift import Drift, drift_of
from batchmill.openrouter.models import EFFORTS, ModelFacts, Reasoning, decode_model, decode_models, find_model
from batchmill.openrouter.prices import decode_price
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


FULL = {
    "id": "~maker/model-latest",
    "canonical_slug": "maker/model-20260901",
    "name": "Maker: Model",
    "description": "Good at things",
    "created": 1_790_100_791,
    "context_length": 200_000,
    "architecture": {
        "modality": "text+image->text",
        "input_modalities": ["text", "image"],
        "output_modalities": ["text"],
        "tokenizer": "Claude",
        "instruct_type": None,
    },
    "pricing": PRICING,
    "top_provider": {"context_length": 100_000, "max_completion_tokens": 64_000, "is_moderated": True},
    "per_request_limits": None,
    "supported_parameters": ["max_tokens", "tools"],
    "default_parameters": {"temperature": 0.7},
    "reasoning": {
        "mandatory": True,
        "default_enabled": True,
        "default_effort": "high",
        "supported_efforts": ["high", "low", None],
        "supports_max_tokens": True,
    },
    "expiration_date": "2027-01-31",
    "links": {"details": "/api/v1/models/maker/model/endpoints"},
    "alias_target": {"name": "Model 5", "slug": "maker/model-5"},
    "knowledge_cutoff": "2026-05-01",
    "hugging_face_id": "maker/model",
    "supported_voices": None,
    "benchmarks": {"design_arena": [{"elo": 1300.5}]},
}


def test_every_fact_is_taken() -> None:
    facts = decoded(FULL)["~maker/model-latest"]
    assert facts == ModelFacts(
        id="~maker/model-latest",
        pricing=json.dumps(PRICING).encode(),
        context_length=200_000,
        max_completion_tokens=64_000,
        name="Maker: Model",
        description="Good at things",
        created=1_790_100_791,
        canonical_slug="maker/model-20260901",
        input_modalities=("text", "image"),
        output_modalities=("text",),
        tokenizer="Claude",
        parameters=("max_tokens", "tools"),
        reasoning=Reasoning(True, True, ("high", "low"), "high", True),
        moderated=True,
        expires="2027-01-31",
        alias_target="maker/model-5",
        knowledge_cutoff="2026-05-01",
        hugging_face_id="maker/model",
        benchmarks=b'{"design_arena": [{"elo": 1300.5}]}',
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(facts), type=ModelFacts) == facts


@pytest.mark.parametrize(
    ("name", "count", "digest"),
    [
        ("models_2025_12.json", 335, "395b3c43b50b3434"),
        ("models_2026_09_sample.json", 7, "8fd9e6b7a846ed7b"),
    ],
)
def test_the_captured_listings_give_the_same_facts_for_ever(name: str, count: int, digest: str) -> None:
    models = captured(name)
    assert len(models) == count
    assert hashlib.sha256(msgspec.json.encode(list(models.values()))).hexdigest().startswith(digest)


def captured(name: str) -> dict[str, ModelFacts]:
    return decode_models(files("batchmill.openrouter.simulator").joinpath(name).read_bytes())


def test_models_of_the_captured_listings_in_full() -> None:
    assert captured("models_2026_09_sample.json")["upstage/solar-mini4"] == ModelFacts(
        id="upstage/solar-mini4",
        pricing=b'{"prompt":"0.00000005","completion":"0.0000002","input_cache_read":"0.000000005"}',
        context_length=524_288,
        max_completion_tokens=131_072,
        name="Upstage: Solar Mini 4",
        created=1_790_160_358,
        canonical_slug="upstage/solar-mini4-20260922",
        input_modalities=("text",),
        output_modalities=("text",),
        tokenizer="Other",
        parameters=(
            *("frequency_penalty", "include_reasoning", "max_tokens", "parallel_tool_calls", "presence_penalty"),
            *("reasoning", "reasoning_effort", "response_format", "structured_outputs", "temperature", "tool_choice"),
            *("tools", "top_p"),
        ),
        reasoning=Reasoning(False, False, ("max", "xhigh", "high", "medium", "low", "minimal", "none"), "medium"),
        moderated=False,
    )
    old = captured("models_2025_12.json")["openai/gpt-4o-mini"]
    assert (old.input_modalities, old.output_modalities) == (("text", "image", "file"), ("text",))
    assert (old.tokenizer, old.moderated, old.created, old.reasoning) == ("GPT", True, 1_721_260_800, None)
    assert (old.hugging_face_id, old.expires, old.benchmarks) == (None, None, None)


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"supported_parameters": ["tools", 7, None, "seed"]}, "parameters", ("tools", "seed")),
        ({"supported_parameters": "tools"}, "parameters", ()),
        ({"architecture": {"modality": "text+image->text"}}, "input_modalities", ("text", "image")),
        ({"architecture": {"modality": "text+image->text"}}, "output_modalities", ("text",)),
        ({"architecture": {"modality": "text", "input_modalities": None}}, "input_modalities", ()),
        ({"architecture": []}, "tokenizer", None),
        ({"architecture": {"tokenizer": "Novel"}}, "tokenizer", "Novel"),
        ({"created": 1.5}, "created", 0),
        ({"created": 10**30}, "created", 0),
        ({"created": "yesterday"}, "created", 0),
        ({"context_length": 10**30}, "context_length", None),
        ({"reasoning": True}, "reasoning", None),
        ({"reasoning": {"supported_efforts": ["extreme"]}}, "reasoning", Reasoning(efforts=("extreme",))),
        ({"reasoning": {"supported_efforts": None}}, "reasoning", Reasoning(efforts=EFFORTS)),
        (
            {"reasoning": {"mandatory": True, "supported_efforts": None}},
            "reasoning",
            Reasoning(mandatory=True, efforts=EFFORTS[:-1]),
        ),
        ({"alias_target": "a/c"}, "alias_target", "a/c"),
        ({"alias_target": {"slug": None}}, "alias_target", None),
        ({"hugging_face_id": ""}, "hugging_face_id", None),
        ({"name": None, "description": 5}, "name", ""),
        ({"benchmarks": None}, "benchmarks", None),
    ],
)
def test_what_is_strange_is_not_known(fields: dict[str, Any], name: str, expected: object) -> None:
    models = decoded(ENTRY | fields, FULL)
    assert getattr(models["a/b"], name) == expected
    assert models["~maker/model-latest"].moderated is True  # nothing else is lost
    assert models["a/b"].names_price


@pytest.mark.parametrize(
    "fields",
    [{"object": "model"}, {"context_length": 9}, {"architecture": {}}, {"top_provider": {}}, {"pricing": None}],
)
def test_a_model_without_prices_is_one_whose_price_nobody_knows(fields: dict[str, Any]) -> None:
    facts = decoded({"id": "llama", "object": "model"} | fields)["llama"]
    assert (facts.pricing, facts.names_price) == (b"{}", False)


def test_bytes_that_are_no_text_cost_only_themselves() -> None:
    models = decode_models(b'{"data":[{"id":"a/b","name":"\xff","pricing":{"prompt":"\xff"}},{"id":"c","pricing":{}}]}')
    assert [each.name for each in models.values()] == ["�", ""]
    assert decode_price(models["a/b"].pricing).base.prompt is None


def test_one_model_is_read_as_in_a_listing() -> None:
    assert decode_model(json.dumps({"data": FULL}).encode()) == decoded(FULL)["~maker/model-latest"]
    for nothing in (b"", b"[]", b'{"data":null}', b'{"data":[]}', b'{"data":{}}', b"<html>"):
        assert decode_model(nothing) is None


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """An entry in which anything, at any depth, is something else, or more, or gone."""
    entry: dict[str, Any] = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 4))):
        inside: Any = entry
        while True:
            name = draw(st.sampled_from(sorted(inside)) if inside else st.just("new"))
            below = inside.get(name)
            if not isinstance(below, dict) or draw(st.booleans()):
                break
            inside = below
        change = draw(st.sampled_from(("drop", "replace", "add")))
        if change == "drop":
            inside.pop(name, None)
        else:
            inside[name if change == "replace" else draw(st.text(max_size=5))] = draw(ANYTHING)
    return entry


@given(st.lists(mutated(), max_size=3))
def test_no_entry_harms_another_or_can_not_be_kept(entries: list[dict[str, Any]]) -> None:
    listing = json.dumps({"data": [*entries, ENTRY | {"id": "the/last"}]}).encode()
    models = decode_models(listing)
    assert models["the/last"].names_price
    kept = msgspec.msgpack.encode(list(models.values()))
    assert msgspec.msgpack.decode(kept, type=list[ModelFacts]) == list(models.values())
    for facts in models.values():
        decode_price(facts.pricing)
    drift = drift_of(listing)
    assert drift.entries == len(entries) + 1
    assert json.loads(msgspec.json.encode(drift))


@given(st.binary(max_size=80) | st.text().map(str.encode) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_anything_can_be_decoded(listing: bytes) -> None:
    assert isinstance(decode_models(listing), dict)
    assert isinstance(drift_of(listing), Drift)
