"""Bounds: what a body may cost at most, what has no bound, and the ceiling that is sent along."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.openrouter.bounds import (
    TEMPLATE_TOKENS,
    TOOL_TOKENS,
    Bound,
    Ceiling,
    Reading,
    Unbounded,
    bound,
    ceiling_of,
    default_output,
    max_price,
    with_max_tokens,
)
from batchmill.openrouter.models import ModelFacts
from batchmill.openrouter.money import to_nano
from batchmill.openrouter.prices import Billable, cost, decode_price
from batchmill.openrouter.simulator.answers import prompt_tokens
from batchmill.openrouter.simulator.catalogue import load_catalogue
from batchmill.openrouter.simulator.wire import CompletionRequest
from batchmill.openrouter.splices import to_send

PRICING = {"prompt": "0.000002", "completion": "0.00001"}
NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
IMAGE = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}


def pricing_of(**pricing: Any) -> bytes:
    return json.dumps(PRICING | pricing).encode()


def ceiling(**pricing: Any) -> Ceiling:
    found = ceiling_of(decode_price(pricing_of(**pricing)))
    assert found is not None
    return found


def facts(model: str = "a/b", context_length: int | None = 8192) -> ModelFacts:
    return ModelFacts(model, pricing_of(), context_length)


def body(content: Any = "Hello", **fields: Any) -> bytes:
    members = {"model": "a/b", "messages": [{"role": "user", "content": content}], "max_tokens": 100, **fields}
    return json.dumps(members).encode()


def bounded(text: bytes, *, model: ModelFacts | None = None, **pricing: Any) -> Bound:
    found = bound(text, model or facts(), ceiling(**pricing))
    assert isinstance(found, Bound), found
    return found


def nano(usd: str) -> int:
    return to_nano(Decimal(usd) * Decimal("1.01"))


def test_a_bound_is_every_byte_a_token_and_the_longest_answer() -> None:
    text = body()
    tokens = len(text) + TEMPLATE_TOKENS
    assert bounded(text) == Bound(nano(f"{tokens * 2 + 100 * 10}e-6"), tokens + 100)


def test_the_request_and_every_answer_cost() -> None:
    text = body(n=3)
    tokens = len(text) + TEMPLATE_TOKENS
    assert bounded(text, request="0.5").nano == nano(f"{3 * (tokens * 2 + 100 * 10 + 500_000)}e-6")
    assert bounded(text).tokens == 3 * (tokens + 100)


def test_the_larger_of_two_limits_counts() -> None:
    assert bounded(body(max_completion_tokens=200)).tokens - bounded(body(max_completion_tokens=50)).tokens == 101


def test_tools_bring_a_text_of_their_own() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    text = body(tools=tools, response_format={"type": "json_object"})
    assert bounded(text).tokens == len(text) + TEMPLATE_TOKENS + TOOL_TOKENS + 100
    assert bounded(body(functions=[{"name": "f"}])).tokens > TOOL_TOKENS


@pytest.mark.parametrize(
    "part",
    [IMAGE, {"type": "input_audio", "input_audio": {"data": "AAAA"}}, {"type": "video_url", "video_url": {}}],
)
def test_what_is_no_text_may_fill_the_context(part: Any) -> None:
    text = body([{"type": "text", "text": "what is this?"}, part])
    assert bounded(text).tokens == 8192 + 100
    assert isinstance(bound(text, facts(context_length=None), ceiling()), Unbounded)


def test_an_earlier_answer_may_be_spoken() -> None:
    messages = [{"role": "assistant", "audio": {"id": "a"}}, {"role": "user", "content": "more"}]
    assert bounded(body(messages=messages)).tokens == 8192 + 100


def test_images_are_billed_each() -> None:
    text = body([IMAGE, IMAGE])
    assert bounded(text, image="0.5").nano - bounded(text).nano == nano("1")


def test_images_of_an_earlier_answer_count() -> None:
    messages = [{"role": "assistant", "content": "", "images": [IMAGE]}, {"role": "user", "content": "more"}]
    assert bounded(body(messages=messages)).tokens == 8192 + 100


def test_a_key_in_escapes_hides_nothing() -> None:
    text = body([IMAGE]).replace(b'"type"', b'"\\u0074ype"')
    assert bounded(text, image="0.5").nano >= nano("0.5")


def test_text_in_escapes_is_text() -> None:
    text = body("Grüße, 世界")
    assert b"\\u4e16" in text
    assert bounded(text).tokens == len(text) + TEMPLATE_TOKENS + 100


def test_files_are_bounded_only_with_a_free_parser() -> None:
    files = [{"type": "file", "file": {"filename": "a.pdf", "file_data": "https://x.test/a.pdf"}}]
    assert isinstance(bound(body(files), facts(), ceiling()), Unbounded)
    free = [{"id": "file-parser", "pdf": {"engine": "cloudflare-ai"}}]
    assert bounded(body(files, plugins=free)).tokens == 8192 + 100


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"models": ["c/d"]}, "models"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"plugins": [{"id": "file-parser"}]}, "plugins"),
        ({"plugins": [{"id": "file-parser", "pdf": {"engine": "mistral-ocr"}}]}, "plugins"),
        ({"tools": [{"type": "openrouter:web_search"}]}, "tools"),
        ({"tools": [{"type": "function"}, {"type": "web_search"}]}, "tools"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"service_tier": ["flex"]}, "service_tier"),
        ({"modalities": ["text", "image"]}, "modalities"),
        ({"modalities": "audio"}, "modalities"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"preset": "mine"}, "preset"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"n": 0}, "n"),
        ({"n": "2"}, None),
        ({"max_tokens": 1.5}, None),
        ({"max_tokens": None}, "max_tokens"),
        ({"model": "a/b:online"}, "model"),
        ({"model": "a/b:nitro"}, "model"),
        ({"model": "@preset/mine"}, "model"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"image_url": "x", "type": None}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages"),
        ({"messages": [{"role": "assistant", "images": 7}]}, None),
        ({"messages": ["odd"]}, None),
        ({"max_tokens": 10**15}, "model"),
    ],
)
def test_what_has_no_bound(fields: dict[str, Any], param: str | None) -> None:
    found = bound(body(**fields), facts(), ceiling())
    assert isinstance(found, Unbounded)
    assert found.param == param
    assert found.reason


@pytest.mark.parametrize(
    "fields",
    [
        {"models": []},
        {"models": None},
        {"plugins": [{"id": "web", "enabled": False}, {"id": "context-compression"}]},
        {"tools": []},
        {"service_tier": "flex"},
        {"modalities": ["text"]},
        {"n": None},
        {"model": "a/b:floor"},
        {"audio": None},
        {"messages": [{"role": "user", "content": None}, {"role": "tool", "content": ["odd"], "type": 5}]},
        {"messages": [{"role": "user", "content": "", "images": [], "audio": None}, {"type": "x"}]},
    ],
)
def test_what_costs_nothing_more(fields: dict[str, Any]) -> None:
    text = body(**fields)
    assert bounded(text).tokens == len(text) + TEMPLATE_TOKENS + 100


@pytest.mark.parametrize("model", ["perplexity/sonar-pro", "openai/o3-deep-research", "openai/gpt-4o-search-preview"])
def test_models_that_search_unasked(model: str) -> None:
    assert isinstance(bound(body(), facts(model), ceiling(web_search="0.01")), Unbounded)
    assert isinstance(bound(body(), facts(model), ceiling(web_search="0")), Bound)
    assert isinstance(bound(body(), facts(), ceiling(web_search="0.01")), Bound)


@pytest.mark.parametrize(
    ("pricing", "prompt", "completion"),
    [
        ({}, 2, 10),
        ({"input_cache_write": "0.0000025"}, Decimal("2.5"), 10),
        ({"input_cache_write_1h": "0.000004"}, 2, 10),
        ({"audio": "0.000009"}, 2, 10),
        ({"internal_reasoning": "0.00003"}, 2, 30),
        ({"image_output": "0.00006"}, 2, 60),
        ({"overrides": [{"min_prompt_tokens": 9, "prompt": "0.000004"}, {"completion": "0.00002"}]}, 4, 20),
        ({"overrides": [{"prompt": "0.000001"}]}, 2, 10),
        ({"discount": 0.5}, 2, 10),
    ],
)
def test_the_highest_rates_count(pricing: dict[str, Any], prompt: Any, completion: Any) -> None:
    found = ceiling(**pricing)
    assert found.prompt == Decimal(prompt) * Decimal("1.01") / 10**6
    assert found.completion == Decimal(completion) * Decimal("1.01") / 10**6


HOUR = {"type": "ephemeral", "ttl": "1h"}


@pytest.mark.parametrize(
    "text",
    [
        body(cache_control=HOUR),
        body(prompt_cache_retention="24h"),
        body([{"type": "text", "text": "x", "cache_control": HOUR}]),
        body([{"type": "text", "text": "x", "cache_control": HOUR}]).replace(b"cache_", b"\\u0063ache_"),
        body(messages=[{"role": "user", "content": "x", "cache_control": HOUR}]),
        body(tools=[{"type": "function", "cache_control": HOUR}]),
    ],
)
def test_an_hour_in_the_cache_counts_for_those_who_ask_for_it(text: bytes) -> None:
    assert bounded(text, input_cache_write_1h="0.000004").nano > bounded(text).nano


@pytest.mark.parametrize(
    "pricing",
    [
        {"prompt": "-1"},
        {"completion": None},
        {"request": "much"},
        {"input_cache_write": "-1"},
        {"overrides": [{"prompt": "-1"}]},
        {"overrides": "odd"},
        {"discount": -1},
    ],
)
def test_an_unknown_rate_is_no_usable_price(pricing: dict[str, Any]) -> None:
    assert ceiling_of(decode_price(pricing_of(**pricing))) is None


def test_max_price_is_for_a_million_tokens_and_has_a_margin() -> None:
    sent = max_price(ceiling(input_cache_write="0.1", request="0.5", image="1"))
    assert sent == b'{"prompt":2.02,"completion":10.1,"request":0.505}'
    assert max_price(ceiling(prompt="0", completion="0")) is None
    assert max_price(ceiling(prompt="0")) == b'{"completion":10.1}'


CEILING = b'{"prompt":2.02,"completion":10.1}'


@pytest.mark.parametrize(
    ("given_body", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"a","provider":{"max_price":{"prompt":2.02,"completion":10.1}}}'),
        (b'{"x":"{"} ', b'{"x":"{","provider":{"max_price":{"prompt":2.02,"completion":10.1}}}'),
        (b"{ }", b'{"provider":{"max_price":{"prompt":2.02,"completion":10.1}}}'),
        (b'{"x":"\\u00e9"}', b'{"x":"\\u00e9","provider":{"max_price":{"prompt":2.02,"completion":10.1}}}'),
    ],
)
def test_max_price_goes_to_the_end(given_body: bytes, expected: bytes) -> None:
    assert to_send(given_body, max_price=CEILING) == expected


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ({"sort": "price"}, {"sort": "price", "max_price": {"prompt": 2.02, "completion": 10.1}}),
        ({"max_price": {"prompt": 1, "completion": 99}}, {"max_price": {"prompt": 1, "completion": 10.1}}),
        (
            {"max_price": {"prompt": "1.5", "image": 3}},
            {"max_price": {"prompt": "1.5", "image": 3, "completion": 10.1}},
        ),
        ({"max_price": {"prompt": -1}}, {"max_price": {"prompt": 2.02, "completion": 10.1}}),
        ({"max_price": "low"}, {"max_price": {"prompt": 2.02, "completion": 10.1}}),
        (None, {"max_price": {"prompt": 2.02, "completion": 10.1}}),
        ("odd", {"max_price": {"prompt": 2.02, "completion": 10.1}}),
    ],
)
def test_the_lower_of_two_prices_holds(provider: Any, expected: Any) -> None:
    sent = json.loads(to_send(body(provider=provider), max_price=CEILING))
    assert sent == json.loads(body(provider=expected))


@pytest.mark.parametrize(
    ("given_body", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"a","max_tokens":7}'),
        (b'{"max_tokens": null, "model":"a"}', b'{"model":"a","max_tokens":7}'),
        (b'{"max_token\\u0073":null}', b'{"max_tokens":7}'),
        (b'{"max_completion_tokens":null}', b'{"max_completion_tokens":null,"max_tokens":7}'),
    ],
)
def test_a_limit_goes_to_the_end(given_body: bytes, expected: bytes) -> None:
    assert with_max_tokens(given_body, 7) == expected


@pytest.mark.parametrize(
    ("size", "context", "limit", "expected"),
    [
        (100, None, None, None),
        (100, None, 500, 500),
        (100, 8192, 500, 500),
        (100, 8192, None, 8192 - 100 - TEMPLATE_TOKENS),
        (100, 8192, 8192, 8192 - 100 - TEMPLATE_TOKENS),
        (9000, 8192, None, 2048),
        (9000, 8192, 100, 100),
        (100, 2, None, 1),
    ],
)
def test_the_limit_of_an_answer_that_has_none(
    size: int, context: int | None, limit: int | None, expected: int | None
) -> None:
    assert default_output(Reading(size), ModelFacts("a/b", b"{}", context, limit)) == expected


def test_a_provider_in_escapes_is_found() -> None:
    sent = to_send(b'{"\\u0070rovider":{"only":["x"]}}', max_price=CEILING)
    assert json.loads(sent) == {"provider": {"only": ["x"], "max_price": {"prompt": 2.02, "completion": 10.1}}}


RATES = st.decimals(0, 2, places=9).map(str)
NAMES = ["prompt", "completion", "request", "image", "internal_reasoning", "input_cache_read", "input_cache_write"]
TABLES = st.fixed_dictionaries({"prompt": RATES, "completion": RATES}, optional=dict.fromkeys(NAMES[2:], RATES))
OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "min_prompt_tokens": st.integers(0, 2000),
        "utc_start": st.integers(0, 23).map(lambda hour: hour * 100),
        "utc_days": st.lists(st.sampled_from(["monday", "tuesday"])),
        **dict.fromkeys(NAMES, RATES),
    },
)


@given(
    pricing=TABLES,
    overrides=st.lists(OVERRIDES, max_size=3),
    discount=st.sampled_from(["0", "0.3", "1"]),
    limit=st.integers(1, 500),
    images=st.integers(0, 3),
    content=st.text(max_size=200),
    data=st.data(),
)
def test_no_bill_of_a_usage_that_fits_is_over_the_bound(
    pricing: dict[str, Any], overrides: list[Any], discount: str, limit: int, images: int, content: str, data: Any
) -> None:
    table = json.dumps(pricing | {"overrides": overrides, "discount": discount}).encode()
    price = decode_price(table)
    highest = ceiling_of(price)
    assert highest is not None
    parts = [{"type": "text", "text": content}, *([IMAGE] * images)]
    found = bound(body(parts, max_tokens=limit), facts(), highest)
    assert isinstance(found, Bound)
    prompt = data.draw(st.integers(0, found.tokens - limit))
    completion = data.draw(st.integers(0, limit))
    cached = data.draw(st.integers(0, prompt))
    usage = Billable(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        cache_write_tokens=data.draw(st.integers(0, prompt - cached)),
        reasoning_tokens=data.draw(st.integers(0, completion)),
        images=images,
    )
    billed = cost(price, usage, data.draw(st.datetimes(timezones=st.just(UTC))))
    assert billed is not None
    assert to_nano(billed) <= found.nano


@given(st.lists(st.text(max_size=100), min_size=1, max_size=5))
def test_the_bytes_of_a_body_are_more_than_the_tokens_that_the_simulator_counts(contents: list[str]) -> None:
    request = {"messages": [{"role": "user", "content": content} for content in contents], "max_tokens": 1}
    text = json.dumps(request, ensure_ascii=False).encode()
    counted, _ = prompt_tokens(msgspec.json.decode(text, type=CompletionRequest))
    assert counted < bounded(text).tokens


def test_every_model_of_the_real_catalogue_has_a_ceiling_but_the_routers() -> None:
    models = load_catalogue().models.values()
    without = [model.id for model in models if ceiling_of(model.endpoints[0].price) is None]
    assert without == ["openrouter/auto", "typesafe/jev-router"]
