"""What a line needs, read off its body, and which models can serve it."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.config.policy import Routing
from batchmill.openrouter.models import ModelFacts, Reasoning
from batchmill.routing.eligibility import Needs, needs_of, unfit, unsure
from batchmill.routing.needs import IMAGE_TOKENS, rounded

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
TOOL = {"type": "function", "function": {"name": "f"}}
PRICING = b'{"prompt":"0.000001","completion":"0.000002"}'
ABLE = ModelFacts(
    "maker/able",
    PRICING,
    context_length=8000,
    max_completion_tokens=1000,
    input_modalities=("text",),
    output_modalities=("text",),
    parameters=("max_tokens", "temperature"),
)
UNTOLD = ModelFacts("maker/untold", PRICING)
PLAIN = Needs(prompt=100, worst=400)


def body(content: object = "hello", **settings: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}], **settings}).encode()


def able(**changes: Any) -> ModelFacts:
    return ModelFacts(**({field: getattr(ABLE, field) for field in ABLE.__struct_fields__} | changes))


def needing(**changes: Any) -> Needs:
    return Needs(**({"prompt": 100, "worst": 400} | changes))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (body(), set()),
        (body(["hello"]), set()),
        (body([{"type": "text", "text": "hello"}]), set()),
        (body([IMAGE]), {"vision"}),
        (body([{"type": "input_audio", "input_audio": {}}]), {"audio"}),
        (body([{"type": "video_url", "video_url": {}}]), {"video"}),
        (body([{"type": "file", "file": {}}, IMAGE]), {"files", "vision"}),
        (body(tools=[TOOL]), {"tools"}),
        (body(tools=[]), set()),
        (body(functions=[{"name": "f"}]), {"tools"}),
        (body(response_format={"type": "json_schema", "json_schema": {}}), {"structured_outputs"}),
        (body(response_format={"type": "json_object"}), {"json_mode"}),
        (body(response_format={"type": "text"}), set()),
        (body(logprobs=True), {"logprobs"}),
        (body(logprobs=False), set()),
        (body(reasoning={"effort": "high"}), {"reasoning"}),
        (body(reasoning={"max_tokens": 100}), {"reasoning"}),
        (body(reasoning={"enabled": True}), {"reasoning"}),
        (body(reasoning={"exclude": True}), set()),
        (body(reasoning={"effort": "none"}), set()),
        (body(reasoning_effort="low"), {"reasoning"}),
        (body(modalities=["text", "image"]), {"image_output"}),
        (b'{"t\\u006fols":[{"type":"function"}]}', {"tools"}),
    ],
)
def test_a_body_says_what_it_needs(line: bytes, words: set[str]) -> None:
    assert needs_of(line).capabilities == words


def test_sizes_are_those_of_the_text_and_of_the_likely_answer() -> None:
    line = body("x" * 4000, max_tokens=50, n=3)
    needs = needs_of(line)
    assert 1000 < needs.prompt < 1030
    assert needs.worst > 4000
    assert (needs.output, needs.answers, needs.likely_output) == (50, 3, 150)
    assert needs_of(body(max_tokens=10, max_completion_tokens=20)).output == 20
    assert needs_of(body(max_completion_tokens=5000)).likely_output == 300


def test_the_bytes_of_an_image_are_no_text() -> None:
    needs = needs_of(body(["hello", IMAGE]))
    assert IMAGE_TOKENS < needs.prompt < IMAGE_TOKENS + 50
    assert needs.worst < IMAGE_TOKENS + 500


@pytest.mark.parametrize("line", [b"", b"[]", b"{", b'{"max_tokens":"many"}', b'{"messages":[1]}', b'{"n":"\xff"}'])
def test_what_cannot_be_read_needs_nothing(line: bytes) -> None:
    needs = needs_of(line)
    assert (needs.capabilities, needs.output, needs.thoughtless) == (frozenset(), None, False)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["messages", "content", "tools", "type", "n", "reasoning"]), inner, max_size=3),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_needs_are_read_off_anything(line: bytes) -> None:
    assert needs_of(line).prompt >= 0


@given(st.integers(0, 1 << 40))
def test_rounded_sizes_are_a_little_larger(size: int) -> None:
    needs = rounded(Needs(prompt=size, worst=size, output=size))
    assert needs.prompt == needs.worst == needs.output
    assert size <= needs.prompt <= size + size / 8
    assert rounded(needs) == needs


@pytest.mark.parametrize(
    ("facts", "needs", "reason"),
    [
        (ABLE, PLAIN, None),
        (ABLE, needing(prompt=7500), None),
        (
            ABLE,
            needing(prompt=7500, output=501),
            "its context of 8,000 tokens is too short: about 7,500 go in and up to 501 come out",
        ),
        (ABLE, needing(prompt=8001), "its context of 8,000 tokens is too short: about 8,001 go in"),
        (ABLE, needing(output=1001), "it answers with 1,000 tokens at most, the line asks for up to 1,001"),
        (ABLE, needing(output=1000), None),
        (
            ABLE,
            needing(min_context=9000),
            "the line requires a context of 9,000 tokens, its own is 8,000 tokens",
        ),
        (UNTOLD, needing(min_context=9000), "the line requires a context of 9,000 tokens, its own is unknown"),
        (UNTOLD, needing(prompt=10**6, output=10**6), None),
        (
            ABLE,
            needing(capabilities=frozenset({"tools"})),
            "no tools: nothing says that it calls functions of the caller",
        ),
        (able(parameters=("tools",)), needing(capabilities=frozenset({"tools"})), None),
        (UNTOLD, needing(capabilities=frozenset({"tools", "vision", "logprobs"})), None),
        (ABLE, needing(capabilities=frozenset({"vision"})), "no vision: nothing says that it reads images"),
        (able(input_modalities=("text", "image")), needing(capabilities=frozenset({"vision"})), None),
        (able(parameters=()), needing(capabilities=frozenset({"tools"})), None),
        (able(parameters=("structured_outputs",)), needing(capabilities=frozenset({"json_mode"})), None),
        (able(parameters=("response_format",)), needing(capabilities=frozenset({"json_mode"})), None),
        (
            able(parameters=("response_format",)),
            needing(capabilities=frozenset({"structured_outputs"})),
            "no structured_outputs: nothing says that it answers by a JSON schema",
        ),
        (able(reasoning=Reasoning(mandatory=True)), needing(capabilities=frozenset({"reasoning"})), None),
        (
            able(reasoning=Reasoning(mandatory=True)),
            needing(thoughtless=True),
            "it always thinks, and the line switches that off",
        ),
        (able(reasoning=Reasoning()), needing(thoughtless=True), None),
        (
            able(reasoning=Reasoning(efforts=("low",))),
            needing(capabilities=frozenset({"reasoning_effort:high"})),
            "no reasoning_effort:high: nothing says that it can be told to think so hard",
        ),
        (able(output_modalities=("image",)), PLAIN, "it does not answer in text"),
        (able(output_modalities=("image",)), needing(capabilities=frozenset({"image_output"})), None),
        (able(id="a/b:batch"), PLAIN, "it is an entry of OpenRouter's Batch API, which answers no calls"),
        (
            able(id="openrouter/auto"),
            PLAIN,
            "it passes lines on to other models, nobody knows to which and at what price",
        ),
        (able(expires="2026-11-23"), PLAIN, "it expired on 2026-11-23"),
        (able(expires="2026-11-24"), PLAIN, None),
        (able(id="bad/one"), PLAIN, "excluded by exclude_models of [routing]"),
        (ABLE, needing(exclude_models=("maker/*",)), "excluded by the line's requirements"),
        (ABLE, needing(max_input_price=Decimal(1), max_output_price=Decimal(2)), None),
        (
            ABLE,
            needing(max_input_price=Decimal("0.99")),
            "$1 a million prompt tokens, over the $0.99 that is allowed",
        ),
        (
            ABLE,
            needing(max_output_price=Decimal("1.5")),
            "$2 a million completion tokens, over the $1.5 that is allowed",
        ),
        (
            able(pricing=b'{"prompt":"-1","completion":"-1"}'),
            needing(max_input_price=Decimal(1)),
            "its price is not known, and at most $1 a million prompt tokens is allowed",
        ),
        (able(pricing=b"{}"), PLAIN, None),
    ],
)
def test_a_model_that_cannot_serve_a_line_says_why(facts: ModelFacts, needs: Needs, reason: str | None) -> None:
    assert unfit(facts, needs, Routing(exclude_models="bad/*"), today="2026-11-24") == reason


def test_a_dearer_price_counts_as_soon_as_the_prompt_may_be_long_enough_for_it() -> None:
    tiered = able(
        pricing=b'{"prompt":"0.000001","completion":"0.000002",'
        b'"overrides":[{"min_prompt_tokens":1000,"prompt":"0.000003"}]}'
    )
    short, long = needing(max_input_price=Decimal(2)), needing(worst=1001, max_input_price=Decimal(2))
    assert unfit(tiered, short, Routing()) is None
    assert unfit(tiered, long, Routing()) == "$3 a million prompt tokens, over the $2 that is allowed"


def test_without_a_date_nothing_has_expired() -> None:
    assert unfit(able(expires="2001-01-01"), PLAIN, Routing()) is None


def test_what_nobody_says_is_told_apart_from_what_is_there() -> None:
    needs = needing(capabilities=frozenset({"tools", "vision"}))
    assert unsure(UNTOLD, needs) == "nobody says whether it can do tools, vision"
    assert unsure(able(parameters=("tools",)), needing(capabilities=frozenset({"tools"}))) is None
    assert unsure(ABLE, needs) is None  # it says that it can't
