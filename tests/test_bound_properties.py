"""No bill is over the bound, whichever model answers: lines as the producer prices them, prices of every kind."""

import json
from datetime import UTC
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from batchmill.config.policy import Policy
from batchmill.openrouter.models import ModelFacts
from batchmill.openrouter.money import to_nano
from batchmill.openrouter.prices import Billable, cost, decode_price
from batchmill.producer.forms import parse_json_line
from batchmill.producer.identities import Identities
from batchmill.producer.lines import Conditions, InputOptions, Priced, Request
from batchmill.producer.pricing import Pricer

from .test_bounds import OVERRIDES, TABLES

NAMES = ("a/one", "a/two", "a/three")
CONTEXT = 5000
RICH = 10**16  # nano-dollars: no line is refused for what it may cost
PARTS = [
    {"type": "text", "text": "Look"},
    {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
]
BODIES = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 300)},
    optional={
        "n": st.integers(1, 4),
        "cache_control": st.just({"type": "ephemeral"}),
        "tools": st.just([{"type": "function", "function": {"name": "f"}}]),
        "temperature": st.just(0.5),
    },
)


DISCOUNTS = st.sampled_from(["0", "0.3"])


@st.composite
def catalogues(draw: st.DrawFn) -> dict[str, ModelFacts]:
    """Three models with prices of their own."""
    models = {}
    for number, name in enumerate(NAMES):
        table = draw(TABLES) | {"overrides": draw(st.lists(OVERRIDES, max_size=2)), "discount": draw(DISCOUNTS)}
        models[name] = ModelFacts(name, json.dumps(table).encode(), CONTEXT - number * 1000)
    return models


@st.composite
def usages(draw: st.DrawFn, prompt: int, limit: int, images: int) -> Billable:
    """A usage of one answer that fits."""
    tokens, completion = draw(st.integers(0, prompt)), draw(st.integers(0, limit))
    cached = draw(st.integers(0, tokens))
    return Billable(
        prompt_tokens=tokens,
        completion_tokens=completion,
        cached_tokens=cached,
        cache_write_tokens=draw(st.integers(0, tokens - cached)),
        reasoning_tokens=draw(st.integers(0, completion)),
        images=images,
    )


def read(body: dict[str, Any]) -> Request:
    found = parse_json_line(json.dumps(body).encode(), 1, InputOptions(form="jsonl"), Identities())
    assert isinstance(found, Request), found
    return found


def billed(data: st.DataObject, model: ModelFacts, prompt: int, body: dict[str, Any], images: int) -> int:
    """Return the bill (nano-dollars) of all answers of one call."""
    usage = data.draw(usages(prompt, body["max_tokens"], images))
    at = data.draw(st.datetimes(timezones=st.just(UTC)))
    once = cost(decode_price(model.pricing), usage, at)
    assert once is not None
    return to_nano(once * body.get("n", 1))


@given(
    models=catalogues(), fields=BODIES, parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=3), data=st.data()
)
def test_no_bill_is_over_the_bound_whichever_of_openrouters_models_answers(
    models: dict[str, ModelFacts], fields: dict[str, Any], parts: list[Any], data: st.DataObject
) -> None:
    others = data.draw(st.lists(st.sampled_from(NAMES), max_size=3))
    body = {"model": NAMES[0], "models": others, "messages": [{"role": "user", "content": parts}], **fields}
    pricer = Pricer(models, Policy(), Conditions(max_cost=RICH), strict=True)
    priced = pricer.price(read(body))
    assert isinstance(priced, Priced), priced
    answering = models[data.draw(st.sampled_from([NAMES[0], *others]))]
    images = sum(part["type"] == "image_url" for part in parts)
    media = any(part["type"] != "text" for part in parts)
    prompt = (answering.context_length or 0) if media else len(priced.body)
    assert billed(data, answering, prompt, fields, images) <= priced.bound


@given(models=catalogues(), fields=BODIES, data=st.data())
def test_no_bill_is_over_the_fare_of_the_road_that_is_taken(
    models: dict[str, ModelFacts], fields: dict[str, Any], data: st.DataObject
) -> None:
    others = data.draw(st.lists(st.sampled_from(NAMES), max_size=2))
    body = {"model": NAMES[0], "fallback_models": list(NAMES[1:]), "models": others, **fields}
    body["messages"] = [{"role": "user", "content": "Hello"}]
    pricer = Pricer(models, Policy(), Conditions(max_cost=RICH), strict=True)
    priced = pricer.price(read(body))
    assert isinstance(priced, Priced), priced
    route = pricer.terms(priced.group).route
    assert route is not None
    for road, fare in zip(route.roads, priced.fares, strict=True):
        answering = models[data.draw(st.sampled_from([road.model, *others]))]
        assert billed(data, answering, len(priced.body), fields, 0) <= fare.bound
