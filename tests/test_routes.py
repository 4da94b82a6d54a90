"""Which models may answer a line that does not name one alone, and what it costs on each."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.config.policy import Alias, Budget, Policy, Routing
from batchmill.config.strategy import Strategy
from batchmill.openrouter.models import ModelFacts
from batchmill.openrouter.splices import with_members
from batchmill.producer.forms import parse_json_line
from batchmill.producer.identities import Identities
from batchmill.producer.lines import BadLine, Conditions, InputOptions, Priced, Request
from batchmill.producer.own_members import make_wish
from batchmill.producer.pricing import Pricer
from batchmill.store.model import Priority, Route


def model(name: str, prompt: str = "0.000001", completion: str = "0.000002", **fields: Any) -> ModelFacts:
    pricing = json.dumps({"prompt": prompt, "completion": completion}).encode()
    return ModelFacts(name, pricing, **{"context_length": 8192, "max_completion_tokens": 1000, **fields})


MODELS = {
    each.id: each
    for each in (
        model("a/one"),
        model("a/two", "0.000002", "0.000008", max_completion_tokens=500),
        model("a/dear", "0.001", "0.002"),
        model("a/short", context_length=300, max_completion_tokens=200),
        model("a/deaf", parameters=("max_tokens",)),
        model("a/able", parameters=("max_tokens", "tools")),
        model("a/free:free", "0", "0"),
        model("a/unpriced", "-1", "-1"),
    )
}
POLICY = Policy(
    aliases=(
        Alias(name="fast", models=("a/one", "a/two")),
        Alias(name="heavy", models=("a/one", "a/two"), weights=(3, 1), strategy=Strategy.WEIGHTED),
    )
)
OPTIONS = InputOptions(form="jsonl")


def pricer(policy: Policy = POLICY, *, strict: bool = True, **conditions: Any) -> Pricer:
    return Pricer(MODELS, policy, Conditions(**conditions), strict=strict, today="2026-11-24")


def request(name: str, options: InputOptions = OPTIONS, **members: Any) -> Request:
    body = {"model": name, "messages": [{"role": "user", "content": "Hello"}], **members}
    found = parse_json_line(json.dumps(body).encode(), 1, options, Identities())
    assert isinstance(found, Request), found
    return found


def routed(by: Pricer, line: Request) -> tuple[Priced, Route]:
    found = by.price(line)
    assert isinstance(found, Priced), found
    route = by.terms(found.group).route
    assert route is not None
    assert len(found.fares) == len(route.roads)
    assert found.model.startswith(f"{line.model}#")
    return found, route


def models_of(route: Route) -> list[str]:
    return [road.model for road in route.roads]


def refused(by: Pricer, line: Request) -> BadLine:
    found = by.price(line)
    assert isinstance(found, BadLine)
    assert by.check(line) == found
    return found


def test_an_alias_is_its_models_with_their_weights() -> None:
    _, route = routed(pricer(), request("heavy"))
    assert [(road.model, road.weight) for road in route.roads] == [("a/one", 3), ("a/two", 1)]
    assert (route.asked, route.strategy, route.members) == ("heavy", Strategy.WEIGHTED, b'"model":"heavy"')


def test_fallbacks_come_after_the_model_each_once_and_by_their_order() -> None:
    _, route = routed(pricer(), request("a/dear", fallback_models=["fast", "a/able", "a/dear", "a/one"]))
    assert models_of(route) == ["a/dear", "a/one", "a/two", "a/able"]
    assert route.strategy is Strategy.ORDER


def test_whose_strategy_it_is() -> None:
    batch = InputOptions(form="jsonl", wish=make_wish((), Strategy.AVAILABILITY))
    own = request("heavy", batch, strategy="performance")
    for line, strategy in (
        (own, Strategy.PERFORMANCE),
        (request("heavy", batch), Strategy.AVAILABILITY),
        (request("heavy"), Strategy.WEIGHTED),
        (request("fast"), Strategy.COST),
    ):
        assert routed(pricer(), line)[1].strategy is strategy


def test_a_strategy_alone_routes_nothing() -> None:
    found = pricer().price(request("a/one", strategy="cost"))
    assert isinstance(found, Priced)
    assert (found.model, found.fares) == ("a/one", ())


def test_the_body_is_kept_without_a_model_and_comes_back_with_it() -> None:
    line = request("fast", max_tokens=10, strategy="cost", seed=5)
    found, route = routed(pricer(), line)
    assert json.loads(found.body) == {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10, "seed": 5}
    back = json.loads(with_members(found.body, route.members))
    assert back == {**json.loads(line.body), "strategy": "cost"}
    again = parse_json_line(json.dumps(back).encode(), 1, OPTIONS, Identities())
    assert isinstance(again, Request)
    assert routed(pricer(), again)[0].model == found.model


def test_a_line_without_a_limit_gets_one_that_every_road_takes() -> None:
    found, _ = routed(pricer(), request("fast"))
    assert json.loads(found.body)["max_tokens"] == 500


def test_each_road_has_its_own_price_and_fare() -> None:
    found, route = routed(
        pricer(max_cost=10**12, project="web", priority=Priority.LOW), request("fast", max_tokens=100)
    )
    one, two = found.fares
    alone = [pricer().price(request(name, max_tokens=100)) for name in ("a/one", "a/two")]
    for fare, priced in zip(found.fares, alone, strict=True):
        assert isinstance(priced, Priced)
        assert 0 < fare.bound < priced.bound  # the name of the model is no part of the kept body
        assert fare.estimate is not None
        assert 0 < fare.estimate < fare.bound
    assert one.bound < two.bound
    assert [road.max_price for road in route.roads] == [
        b'{"prompt":1.01,"completion":2.02}',
        b'{"prompt":2.02,"completion":8.08}',
    ]
    assert [road.pricing for road in route.roads] == [MODELS["a/one"].pricing, MODELS["a/two"].pricing]
    terms = pricer(max_cost=5, project="web", priority=Priority.LOW).terms("a/one")
    assert (terms.capped, terms.project, terms.priority) == (True, "web", Priority.LOW)


@pytest.mark.parametrize(
    ("name", "members", "words"),
    [
        ("a/unpriced", {}, "no usable price"),
        ("nobody/nothing", {}, "no usable price"),
        ("a/short", {"max_tokens": 400}, "context"),
        ("a/deaf", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ("a/dear", {"requirements": {"max_input_price": 5}}, "over the $5"),
        ("a/dear", {"requirements": {"exclude_models": ["*/dear"]}}, "excluded"),
        ("a/short", {"requirements": {"min_context": 1000}}, "context"),
        ("a/dear", {"max_tokens": 1000}, "over the whole of budget small"),
        ("a/barred", {}, "exclude_models of [routing]"),
        ("a/one:nitro", {}, "dearer endpoints"),
    ],
)
def test_a_model_that_can_not_serve_the_line_is_left_out_with_the_reason(
    name: str, members: dict[str, Any], words: str
) -> None:
    policy = Policy(
        budgets=(Budget(name="small", limit_usd=Decimal("0.5")),), routing=Routing(exclude_models=("a/barred",))
    )
    _, route = routed(pricer(policy), request(name, fallback_models=["a/able"], **members))
    assert models_of(route) == ["a/able"]
    assert [each.model for each in route.unfit] == [name]
    assert words in route.unfit[0].reason
    alone = refused(pricer(policy), request(name, fallback_models=[name], **members))
    assert (alone.code, alone.param) == ("no_candidate", "model")
    assert f"{name}: " in alone.message
    assert words in alone.message


def test_a_refusal_names_the_first_few() -> None:
    found = refused(pricer(), request("x/1", fallback_models=["x/2", "x/3", "x/4", "x/5"]))
    assert "x/3" in found.message
    assert "x/4" not in found.message
    assert found.message.endswith("and 2 more.")


def test_auto_takes_what_can_serve_the_line() -> None:
    _, route = routed(pricer(), request("auto"))
    assert models_of(route)[0] in ("a/one", "a/able", "a/deaf", "a/short")
    assert not {"a/unpriced", "a/free:free"} & set(models_of(route))
    few = pricer(Policy(routing=Routing(auto_candidates=2, auto_models=("a/deaf", "a/able", "a/short"))))
    _, able = routed(few, request("auto", requirements={"needs": ["tools"]}, fallback_models=["a/two"]))
    assert sorted(models_of(able)[:2]) == ["a/able", "a/short"]  # what a/short can do, nobody tells
    assert models_of(able)[2:] == ["a/two"]
    assert "a/deaf" in [each.model for each in able.unfit]
    none = refused(pricer(), request("auto", requirements={"min_context": 10**6}))
    assert none.code == "no_candidate"


def test_lines_with_the_same_roads_share_a_lane_whatever_their_length() -> None:
    by = pricer()
    lines = [request("fast", fallback_models=["a/short"], max_tokens=400 + number) for number in range(3)]
    reasons = {routed(pricer(), line)[1].unfit for line in lines}
    assert len(reasons) == 3
    assert len({routed(pricer(), line)[0].model for line in lines} | {routed(by, line)[0].model for line in lines}) == 1
    other, _ = routed(by, request("fast", fallback_models=["a/able"], max_tokens=250))
    assert other.model != routed(by, lines[0])[0].model


def test_a_model_that_is_excluded_can_not_be_named() -> None:
    policy = Policy(routing=Routing(exclude_models=("a/o*",)))
    found = refused(pricer(policy), request("a/one"))
    assert (found.code, found.param) == ("model_excluded", "model")


def test_an_operators_providers_go_along_at_openrouter_alone() -> None:
    policy = Policy(
        aliases=POLICY.aliases, routing=Routing(prefer_providers=("openai",), exclude_providers=("slow", "far"))
    )
    members = b'{"order":["openai"],"ignore":["slow","far"]}'
    assert pricer(policy).terms("a/one").provider == members
    assert pricer(policy, strict=False).terms("a/one").provider is None
    line = request("fast", requirements={"providers": ["azure"]})
    _, route = routed(pricer(policy), line)
    assert {road.provider for road in route.roads} == {members[:-1] + b',"only":["azure"]}'}


def test_elsewhere_roads_need_no_price() -> None:
    _, route = routed(pricer(strict=False), request("mine", fallback_models=["yours"]))
    assert [(road.model, road.pricing, road.max_price) for road in route.roads] == [
        ("mine", None, None),
        ("yours", None, None),
    ]


def test_openrouters_models_are_bounded_by_the_dearest_of_them() -> None:
    by = pricer(max_cost=10**12)
    line = request("a/one", models=["a/two", "a/dear"], max_tokens=100)
    found = by.price(line)
    dear = by.price(
        msgspec.structs.replace(line, model="a/dear", models=(), body=line.body.replace(b"models", b"modelz"))
    )
    assert isinstance(found, Priced)
    assert isinstance(dear, Priced)
    assert (found.model, found.bound) == ("a/one", dear.bound)
    terms = by.terms(found.group)
    assert terms.max_price == by.terms("a/dear").max_price
    assert terms.pricing is None
    assert by.terms("a/one").max_price == b'{"prompt":1.01,"completion":2.02}'
    unlimited = by.price(request("a/one", models=["a/two"]))
    assert isinstance(unlimited, Priced)
    assert json.loads(unlimited.body)["max_tokens"] == 500


def test_media_may_fill_the_longest_context_of_those_that_may_answer() -> None:
    parts = [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}]
    line = request("a/short", models=["a/two"], messages=parts, max_tokens=100)
    found = pricer(max_cost=10**12).price(line)
    assert isinstance(found, Priced)
    assert found.tokens == 8192 + 100


def test_openrouters_models_need_prices_and_no_other_budget() -> None:
    unpriced = refused(pricer(), request("a/one", models=["a/unpriced"]))
    assert (unpriced.code, unpriced.param) == ("no_price", "models")
    nitro = refused(pricer(max_cost=10**12), request("a/one", models=["a/two:nitro"]))
    assert (nitro.code, nitro.param) == ("unbounded", "models")
    policy = Policy(budgets=(Budget(name="dear", limit_usd=Decimal(5), models=("a/dear",)),))
    past = refused(pricer(policy), request("a/one", models=["a/dear"]))
    assert (past.code, past.param) == ("unbounded", "models")
    assert "budget dear" in past.message


@given(
    st.lists(st.sampled_from(sorted(MODELS)), min_size=1, max_size=8),
    st.sampled_from(sorted(MODELS)),
    st.integers(1, 2000),
    st.integers(0, 9000),
)
def test_roads_are_models_that_were_named_and_all_others_have_a_reason(
    fallbacks: list[str], name: str, limit: int, length: int
) -> None:
    by = pricer(max_cost=10**9)
    line = request(name, fallback_models=fallbacks, max_tokens=limit, user="x" * length)
    found = by.price(line)
    named = list(dict.fromkeys([name, *fallbacks]))
    if isinstance(found, BadLine):
        assert found.code == "no_candidate"
        return
    route = by.terms(found.group).route
    assert route is not None
    assert models_of(route) == [each for each in named if each in models_of(route)]
    assert {each.model for each in route.unfit} == set(named) - set(models_of(route))
    assert all(each.reason for each in route.unfit)
    assert all(0 <= fare.bound <= 10**9 for fare in found.fares)
