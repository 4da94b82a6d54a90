"""Prices as values, and the bill of one call: tables of cases, then properties."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from batchmill.openrouter.prices import Billable, Price, bill, cost, decode_price, rates_at
from batchmill.openrouter.simulator.catalogue import load_catalogue

TUESDAY_NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def price(**pricing: Any) -> Price:
    return decode_price(json.dumps({"prompt": "0.000002", "completion": "0.00001", **pricing}).encode())


def usd(value: Price, *, at: datetime = TUESDAY_NOON, **usage: int) -> Decimal | None:
    return cost(value, Billable(**usage), at)


def test_input_and_output_are_billed_a_token() -> None:
    assert usd(price(), prompt_tokens=100, completion_tokens=10) == Decimal("0.0003")


def test_a_request_and_images_are_billed_each() -> None:
    assert usd(price(request="0.005", image="0.01"), prompt_tokens=1, images=2) == Decimal("0.025002")


def test_cached_and_written_tokens_have_their_own_rates() -> None:
    value = price(input_cache_read="0.0000002", input_cache_write="0.0000025")
    assert usd(value, prompt_tokens=100, cached_tokens=50, cache_write_tokens=20) == Decimal("0.00012")


def test_cache_rates_that_are_not_named_are_the_prompts() -> None:
    assert usd(price(), prompt_tokens=100, cached_tokens=50, cache_write_tokens=20) == Decimal("0.0002")


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"internal_reasoning": "0.000003"}, "0.000039"),
        ({"internal_reasoning": "0"}, "0.00006"),
        ({}, "0.00006"),
    ],
)
def test_reasoning_is_billed_at_its_own_rate_when_it_has_one(named: dict[str, str], expected: str) -> None:
    billed = bill(price(**named), Billable(completion_tokens=6, reasoning_tokens=3), TUESDAY_NOON)
    assert billed is not None
    assert billed.completion == Decimal(expected)


def test_an_override_applies_only_above_its_threshold() -> None:
    value = price(overrides=[{"min_prompt_tokens": 1000, "prompt": "0.000004"}])
    assert usd(value, prompt_tokens=1000) == Decimal("0.002")
    assert usd(value, prompt_tokens=1001) == Decimal("0.004004")


def test_an_override_leaves_what_it_does_not_name() -> None:
    value = price(overrides=[{"min_prompt_tokens": 0, "prompt": "0.000004"}])
    assert rates_at(value, 1, TUESDAY_NOON).completion == Decimal("0.00001")


def test_later_overrides_win_key_by_key() -> None:
    value = price(overrides=[{"prompt": "0.5", "completion": "0.6"}, {"prompt": "0.7"}])
    rates = rates_at(value, 1, TUESDAY_NOON)
    assert (rates.prompt, rates.completion) == (Decimal("0.7"), Decimal("0.6"))


@pytest.mark.parametrize(
    ("hour", "minute", "applies"),
    [(16, 29, False), (16, 30, True), (23, 59, True), (0, 0, True), (0, 29, True), (0, 30, False), (12, 0, False)],
)
def test_a_window_over_midnight(hour: int, minute: int, applies: bool) -> None:
    value = price(overrides=[{"utc_start": 1630, "utc_end": 30, "prompt": "0"}])
    at = datetime(2026, 11, 24, hour, minute, tzinfo=UTC)
    assert (usd(value, at=at, prompt_tokens=1) == 0) is applies


@pytest.mark.parametrize(("hour", "applies"), [(8, False), (9, True), (16, True), (17, False)])
def test_a_window_within_a_day(hour: int, applies: bool) -> None:
    value = price(overrides=[{"utc_start": 900, "utc_end": 1700, "prompt": "0"}])
    assert (usd(value, at=datetime(2026, 11, 24, hour, tzinfo=UTC), prompt_tokens=1) == 0) is applies


def test_a_window_with_one_end_only() -> None:
    assert usd(price(overrides=[{"utc_start": 1200, "prompt": "0"}]), prompt_tokens=1) == 0
    assert usd(price(overrides=[{"utc_end": 1200, "prompt": "0"}]), prompt_tokens=1) != 0


def test_a_weekday_is_that_of_utc() -> None:
    value = price(overrides=[{"utc_days": ["tuesday"], "prompt": "0"}])
    late_in_new_york = datetime(2026, 11, 24, 20, 0, tzinfo=timezone(timedelta(hours=-5)))  # Wednesday in UTC
    assert usd(value, prompt_tokens=1) == 0
    assert usd(value, at=late_in_new_york, prompt_tokens=1) != 0


def test_a_discount_takes_its_share_of_everything() -> None:
    assert usd(price(discount=0.1, request="1"), prompt_tokens=10, completion_tokens=1) == Decimal("0.900027")


@pytest.mark.parametrize(
    "pricing",
    [
        {"prompt": "-1"},
        {"prompt": None},
        {"prompt": "free"},
        {"prompt": "NaN"},
        {"prompt": "Infinity"},
        {"prompt": "1e-999999"},
        {"prompt": "1000001"},
        {"prompt": True},
        {"prompt": ["0.1"]},
        {"request": "-1"},
        {"discount": 1.5},
        {"discount": -0.5},
        {"discount": "half"},
        {"overrides": "tomorrow"},
        {"overrides": ["tomorrow"]},
        {"overrides": [{"prompt": "-1"}]},
        {"overrides": [{"min_prompt_tokens": "many", "prompt": "0.1"}]},
        {"overrides": [{"utc_days": ["someday"], "prompt": "0.1"}]},
    ],
)
def test_what_can_not_be_read_has_no_price(pricing: dict[str, Any]) -> None:
    assert usd(price(**pricing), prompt_tokens=1) is None


@pytest.mark.parametrize("text", [b"", b"[]", b'"free"', b"null", b"{}", b'{"completion":"0.1"}'])
def test_a_price_that_is_missing_is_unknown(text: bytes) -> None:
    assert cost(decode_price(text), Billable(prompt_tokens=1), TUESDAY_NOON) is None


def test_an_unknown_rate_matters_only_where_it_is_needed() -> None:
    value = price(input_cache_read="-1")
    assert usd(value, prompt_tokens=10) == Decimal("0.00002")
    assert usd(value, prompt_tokens=10, cached_tokens=1) is None


def test_what_is_not_named_is_not_unknown() -> None:
    assert price().base.input_cache_read is UNSET
    assert price(input_cache_read="?").base.input_cache_read is None


def test_numbers_are_read_as_written() -> None:
    value = decode_price(b'{"prompt":0.1,"completion":0,"discount":0.3}')
    assert value.base.prompt == Decimal("0.1")
    assert value.discount == Decimal("0.3")


def test_an_instant_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        cost(price(), Billable(), datetime(2026, 11, 24))  # noqa: DTZ001 - the point of the test


def test_every_model_of_the_real_catalogue_is_priced_but_the_routers() -> None:
    unpriced = {
        model.id
        for model in load_catalogue().models.values()
        if cost(model.endpoints[0].price, Billable(prompt_tokens=1, completion_tokens=1), TUESDAY_NOON) is None
    }
    assert unpriced == {"openrouter/auto", "typesafe/jev-router"}


RATE = st.decimals(min_value=0, max_value=1, places=12)
TOKENS = st.integers(min_value=0, max_value=2**40)


@st.composite
def usages(draw: st.DrawFn) -> Billable:
    prompt, completion = draw(TOKENS), draw(TOKENS)
    cached = draw(st.integers(min_value=0, max_value=prompt))
    return Billable(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        cache_write_tokens=draw(st.integers(min_value=0, max_value=prompt - cached)),
        reasoning_tokens=draw(st.integers(min_value=0, max_value=completion)),
    )


@st.composite
def prices(draw: st.DrawFn) -> Price:
    names = ("request", "internal_reasoning", "input_cache_read", "input_cache_write")
    pricing = {name: str(draw(RATE)) for name in names if draw(st.booleans())}
    return price(prompt=str(draw(RATE)), completion=str(draw(RATE)), **pricing)


@given(prices(), usages(), usages())
def test_more_is_never_cheaper(value: Price, usage: Billable, more: Billable) -> None:
    both = Billable(
        prompt_tokens=usage.prompt_tokens + more.prompt_tokens,
        completion_tokens=usage.completion_tokens + more.completion_tokens,
        cached_tokens=usage.cached_tokens + more.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens + more.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens + more.reasoning_tokens,
    )
    one, two, sum_ = (cost(value, each, TUESDAY_NOON) for each in (usage, more, both))
    request = cost(value, Billable(), TUESDAY_NOON)
    assert one is not None
    assert two is not None
    assert request is not None
    assert sum_ == one + two - request


@given(prices(), usages())
def test_no_bill_exceeds_its_tokens_at_the_dearest_rates(value: Price, usage: Billable) -> None:
    base = value.base

    def dearest(*rates: object) -> Decimal:
        return max(rate for rate in rates if isinstance(rate, Decimal))

    bound = (
        usage.prompt_tokens * dearest(base.prompt, base.input_cache_read, base.input_cache_write)
        + usage.completion_tokens * dearest(base.completion, base.internal_reasoning)
        + dearest(base.request, Decimal(0))
    )
    total = cost(value, usage, TUESDAY_NOON)
    assert total is not None
    assert 0 <= total <= bound


@given(st.text())
def test_no_text_makes_reading_a_rate_fail(text: str) -> None:
    value = price(prompt=text)
    rate = value.base.prompt
    assert rate is None or (isinstance(rate, Decimal) and rate >= 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
override_keys = st.sampled_from(["prompt", "completion", "min_prompt_tokens", "utc_days", "utc_start", "utc_end"])


@given(
    st.dictionaries(st.sampled_from(["prompt", "request", "discount", "overrides"]), json_values),
    st.lists(st.dictionaries(override_keys, json_values), max_size=2),
)
def test_no_pricing_object_makes_a_bill_fail(pricing: dict[str, Any], overrides: list[dict[str, Any]]) -> None:
    value = decode_price(json.dumps({"overrides": overrides, **pricing}).encode())
    total = cost(value, Billable(prompt_tokens=7, completion_tokens=3), TUESDAY_NOON)
    assert total is None or total >= 0
