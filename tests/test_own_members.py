"""What a line says about who may answer it: our own members are taken out, and OpenRouter's own are checked."""

import json
from typing import Any

import pytest

from batchmill.config.strategy import Strategy
from batchmill.producer.forms import parse_json_line
from batchmill.producer.identities import Identities
from batchmill.producer.lines import BadLine, InputOptions, Request
from batchmill.producer.own_members import make_wish

OPTIONS = InputOptions(form="jsonl")
MESSAGES = [{"role": "user", "content": "Hello"}]


def read(options: InputOptions = OPTIONS, *, bare: bool = False, **members: Any) -> Request | BadLine:
    body = {"model": "a/b", "messages": MESSAGES, **members}
    envelope = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return parse_json_line(json.dumps(body if bare else envelope).encode(), 1, options, Identities())


def request(options: InputOptions = OPTIONS, *, bare: bool = False, **members: Any) -> Request:
    found = read(options, bare=bare, **members)
    assert isinstance(found, Request), found
    return found


@pytest.mark.parametrize("bare", [False, True])
def test_own_members_are_not_sent(bare: bool) -> None:
    found = request(
        bare=bare,
        fallback_models=["c/d", "fast"],
        strategy="cost",
        requirements={"needs": ["tools"], "min_context": 1000, "max_input_price": 0.5, "exclude_models": ["x/*"]},
        stream_to=True,
        seed=1,
    )
    assert json.loads(found.body) == {"model": "a/b", "messages": MESSAGES, "seed": 1}
    wish = found.wish
    assert found.live
    assert wish is not None
    assert (wish.fallbacks, wish.strategy) == (("c/d", "fast"), Strategy.COST)
    assert wish.requirements is not None
    assert (wish.requirements.needs, wish.requirements.min_context) == (("tools",), 1000)
    assert str(wish.requirements.max_input_price) == "0.5"
    assert list(json.loads(b"{%b}" % wish.members)) == ["fallback_models", "strategy", "requirements"]


def test_nulls_count_as_missing_and_are_not_sent() -> None:
    found = request(fallback_models=None, strategy=None, requirements=None, stream_to=None)
    assert (found.wish, found.live) == (None, False)
    assert json.loads(found.body) == {"model": "a/b", "messages": MESSAGES}


def test_a_batchs_wish_is_for_lines_that_say_nothing() -> None:
    options = InputOptions(form="jsonl", wish=make_wish(("c/d",), Strategy.WEIGHTED))
    plain = request(options)
    assert plain.wish == options.wish
    assert plain.wish is not None
    assert plain.wish.members == b'"fallback_models":["c/d"],"strategy":"weighted"'
    own = request(options, fallback_models=["e/f"]).wish
    assert own is not None
    assert (own.fallbacks, own.strategy) == (("e/f",), Strategy.WEIGHTED)


@pytest.mark.parametrize(
    ("members", "param", "words"),
    [
        ({"fallback_models": "c/d"}, "fallback_models", "array of strings"),
        ({"fallback_models": [1]}, "fallback_models", "array of strings"),
        ({"fallback_models": []}, "fallback_models", "names no model"),
        ({"fallback_models": [" "]}, "fallback_models", "1 to 256 bytes"),
        ({"fallback_models": ["x"] * 9}, "fallback_models", "At most 8"),
        ({"fallback_models": ["auto"]}, "fallback_models", "can't be a fallback"),
        ({"strategy": "costs"}, "strategy", "did you mean 'cost'?"),
        ({"strategy": 1}, "strategy", "must be a string, not a number"),
        ({"requirements": []}, "requirements", "must be an object, not an array"),
        ({"requirements": {"neds": []}}, "requirements", "did you mean 'needs'?"),
        ({"requirements": {"needs": ["visoin"]}}, "requirements.needs", "did you mean 'vision'?"),
        ({"requirements": {"needs": "vision"}}, "requirements.needs", "array of strings"),
        ({"requirements": {"min_context": "1"}}, "requirements.min_context", "positive integer"),
        ({"requirements": {"min_context": 0}}, "requirements.min_context", "positive integer"),
        ({"requirements": {"max_input_price": -1}}, "requirements.max_input_price", "USD for a million tokens"),
        ({"requirements": {"max_output_price": []}}, "requirements.max_output_price", "USD for a million tokens"),
        ({"stream_to": "yes"}, "stream_to", "must be a boolean, not a string"),
        ({"models": "c/d"}, "models", "an array"),
        ({"models": ["c/d", 7]}, "models[1]", "a string"),
        ({"models": ["x"] * 4}, "models", "at most 3"),
        ({"provider": "openai"}, "provider", "an object"),
        ({"provider": {"order": "openai"}}, "provider.order", "an array"),
        ({"provider": {"only": [None]}}, "provider.only[0]", "a string"),
        ({"provider": {"zdr": "yes"}}, "provider.zdr", "a boolean"),
        ({"provider": {"sort": "cheapest"}}, "provider.sort", "one of price, throughput, latency and exacto"),
        ({"provider": {"sort": {"by": "cheapest"}}}, "provider.sort.by", "one of price"),
        ({"provider": {"sort": {"partition": "all"}}}, "provider.sort.partition", "model or none"),
        ({"provider": {"max_price": {"prompt": "cheap"}}}, "provider.max_price.prompt", "a number"),
        ({"provider": {"preferred_max_latency": {"p50": "2"}}}, "provider.preferred_max_latency.p50", "a number"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(members: dict[str, Any], param: str, words: str) -> None:
    found = read(**members)
    assert isinstance(found, BadLine)
    assert found.param == f"body.{param}"
    assert words in found.message
    bare = read(bare=True, **members)
    assert isinstance(bare, BadLine)
    assert bare.param == param


def test_openrouters_own_options_pass_as_they_are() -> None:
    provider: dict[str, Any] = {
        "order": ["openai"],
        "only": ["openai", "azure"],
        "ignore": None,
        "allow_fallbacks": False,
        "require_parameters": True,
        "data_collection": "deny",
        "zdr": True,
        "enforce_distillable_text": False,
        "quantizations": ["fp8", "of tomorrow"],
        "sort": {"by": "price", "partition": "none"},
        "preferred_min_throughput": 40,
        "preferred_max_latency": {"p90": 2.5},
        "max_price": {"prompt": "1.5", "completion": 2},
        "options": {"openai": {"x": 1}},
        "a member of tomorrow": {"x": []},
    }
    found = request(provider=provider, models=["c/d"])
    assert json.loads(found.body)["provider"] == provider
    assert (found.models, found.wish) == (("c/d",), None)


def test_elsewhere_they_may_mean_something_else() -> None:
    elsewhere = InputOptions(form="jsonl", speaks_openrouter=False)
    assert json.loads(request(elsewhere, provider="mine", models=7).body)["provider"] == "mine"


def test_what_holds_of_lines_is_refused_for_a_batch() -> None:
    with pytest.raises(ValueError, match="at most 8"):
        make_wish(("x",) * 9, None)
    assert make_wish((), None) is None
