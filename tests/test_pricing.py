"""What a line may cost before it is enqueued: bounds, limits for answers, and what is refused."""

import json
from decimal import Decimal
from typing import Any

from batchmill.config.policy import Budget, Policy, PriceRule
from batchmill.openrouter.bounds import TEMPLATE_TOKENS
from batchmill.openrouter.models import ModelFacts
from batchmill.producer.lines import BadLine, Conditions, Priced, Request
from batchmill.producer.pricing import Pricer
from batchmill.store.model import Priority, Terms

PRICING = b'{"prompt":"0.000002","completion":"0.00001"}'
MODELS = {
    "a/b": ModelFacts("a/b", PRICING, 8192, 1000),
    "a/free": ModelFacts("a/free", b'{"prompt":"0","completion":"0"}', 8192),
    "a/endless": ModelFacts("a/endless", PRICING),
    "a/unpriced": ModelFacts("a/unpriced", b'{"prompt":"-1","completion":"-1"}', 8192, 100),
}
OWN = PriceRule(match="own/*", prompt=Decimal("0.5"), completion=Decimal(1))


def pricer(
    budgets: tuple[Budget, ...] = (), *, strict: bool = True, max_cost: int | None = None, **fields: Any
) -> Pricer:
    policy = Policy(budgets=budgets, prices=fields.pop("prices", ()))
    return Pricer(MODELS, policy, Conditions(max_cost=max_cost, **fields), strict=strict)


def budget(limit: str, **fields: Any) -> Budget:
    return Budget(name="daily", limit_usd=Decimal(limit), **fields)


def request(model: str = "a/b", **fields: Any) -> Request:
    members = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
    return Request(7, "line-7", model, json.dumps(members).encode())


def priced(by: Pricer, line: Request) -> Priced:
    found = by.price(line)
    assert isinstance(found, Priced), found
    return found


def refused(by: Pricer, line: Request) -> BadLine:
    found = by.price(line)
    assert isinstance(found, BadLine)
    assert (found.number, found.custom_id) == (7, "line-7")
    return found


def test_a_line_with_a_limit_stays_as_it_is() -> None:
    line = request(max_tokens=10)
    found = priced(pricer(), line)
    prompt = len(line.body) + TEMPLATE_TOKENS
    assert (found.body, found.tokens) == (line.body, prompt + 10)
    assert found.bound == (prompt * 2 + 100) * 1010
    assert priced(pricer(strict=False), line) == found


def test_a_line_without_a_limit_gets_the_models() -> None:
    found = priced(pricer(), request())
    assert found.body.endswith(b',"max_tokens":1000}')
    assert json.loads(found.body) == json.loads(request(max_tokens=1000).body)


def test_a_model_without_a_limit_gives_what_its_context_has_room_for() -> None:
    line = request("a/free")
    assert json.loads(priced(pricer(), line).body)["max_tokens"] == 8192 - len(line.body) - TEMPLATE_TOKENS
    assert priced(pricer(), line).bound == 0


def test_no_limit_is_made_up() -> None:
    line = request("a/endless")
    assert priced(pricer(), line).body == line.body
    assert refused(pricer(max_cost=10**12), line).code == "unbounded"


def test_a_model_without_a_price_is_refused_at_openrouter() -> None:
    for model in ("a/unpriced", "nobody/nothing"):
        found = refused(pricer(), request(model))
        assert (found.code, found.param) == ("no_price", "model")
        assert model in found.message
        assert "[[prices]]" in found.message


def test_elsewhere_a_model_needs_a_price_only_under_a_budget() -> None:
    line = request("nobody/nothing")
    found = priced(pricer(strict=False), line)
    assert (found.body, found.bound) == (line.body, 0)
    assert found.tokens == len(line.body) + TEMPLATE_TOKENS
    assert refused(pricer(strict=False, max_cost=10**12), line).code == "no_price"
    assert refused(pricer((budget("1"),), strict=False), line).code == "no_price"
    assert isinstance(pricer((budget("1", models="a/*"),), strict=False).price(line), Priced)
    assert isinstance(pricer((budget("1", project="other"),), strict=False).price(line), Priced)


def test_an_operators_price_serves_and_wins() -> None:
    line = request("own/model", max_tokens=10)
    by = pricer(prices=(OWN,), max_cost=10**9)
    assert priced(by, line).bound == (len(line.body) + TEMPLATE_TOKENS) * 505 + 10 * 1010
    assert by.terms("own/model").max_price is None  # the catalogue does not know the model
    dear = pricer(prices=(PriceRule(match="a/*", prompt=Decimal(4), completion=Decimal(20)),))
    assert priced(dear, request(max_tokens=10)).bound == 2 * priced(pricer(), request(max_tokens=10)).bound
    assert dear.terms("a/b").max_price == b'{"prompt":4.04,"completion":20.2}'
    assert priced(dear, request("a/unpriced")).bound > 0


def test_what_has_no_bound_is_refused_under_a_budget() -> None:
    line = request(preset="mine")
    found = refused(pricer((budget("100"),)), line)
    assert (found.code, found.param) == ("unbounded", "preset")
    assert "budget daily" in found.message
    assert priced(pricer(), line).bound > 0  # that of its tokens


def test_a_line_dearer_than_a_whole_budget_is_refused() -> None:
    line = request(max_tokens=100)
    bound = priced(pricer(), line).bound
    exact = Decimal(bound) / 10**9
    assert priced(pricer((budget(str(exact)),)), line).bound == bound
    found = refused(pricer((budget("1000"), Budget(name="tiny", limit_usd=exact - Decimal("1e-9")))), line)
    assert (found.code, found.param) == ("over_budget", "max_tokens")
    assert f"${exact.normalize():f}" in found.message
    assert "budgets raise tiny USD" in found.message
    assert "max_tokens (now 100)" in found.message
    assert "--max-cost" in refused(pricer(max_cost=bound - 1), line).message
    assert isinstance(pricer(max_cost=bound).price(line), Priced)


def test_the_terms_of_a_model() -> None:
    by = pricer(project="web", priority=Priority.HIGH, max_cost=5)
    ceiling = b'{"prompt":2.02,"completion":10.1}'
    assert by.terms("a/b") == Terms("web", Priority.HIGH, PRICING, ceiling, True)
    assert by.terms("a/free").max_price is None
    assert by.terms("a/unpriced").pricing is None
    assert pricer(strict=False).terms("a/b") == Terms("default", Priority.NORMAL, PRICING, None, False)


def test_what_can_not_be_read_is_left_for_the_upstream_to_refuse() -> None:
    line = request(n="two")
    assert priced(pricer(), line).body == line.body
    assert refused(pricer(max_cost=10**9), line).code == "unbounded"
