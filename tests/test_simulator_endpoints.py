"""The simulator's endpoints: their statistics, who serves under which `provider` preferences, and at what price."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from batchmill.openrouter.money import to_nano
from batchmill.openrouter.prices import Billable, bill, decode_price
from batchmill.openrouter.simulator import FaultKind, Faults
from batchmill.openrouter.simulator.traffic import Traffic

from .simulator_helpers import MODEL, Desk, desk

OPEN_WEIGHTS = "meta-llama/llama-3.3-70b-instruct"
NOON = 1_795_521_600.0
MINUTE = 60.0


@pytest.fixture
def now() -> list[float]:
    return [NOON]


@pytest.fixture
def traffic(now: list[float]) -> Traffic:
    return Traffic(lambda: now[0])


def minute(traffic: Traffic, good: int, bad: int) -> None:
    for _ in range(good):
        traffic.answered("a/b", "x", 2.0, 70)
    for _ in range(bad):
        traffic.failed("a/b", "x")


def uptimes(traffic: Traffic) -> list[float | None]:
    return list(traffic.of("a/b", "x").uptimes.values())


def test_a_quiet_endpoint_has_no_uptime(traffic: Traffic) -> None:
    minute(traffic, 9, 0)
    assert uptimes(traffic) == [None, None, None]
    assert traffic.of("a/b", "x").status == 0


def test_a_minute_is_up_when_four_fifths_succeed(traffic: Traffic, now: list[float]) -> None:
    minute(traffic, 8, 2)
    assert uptimes(traffic) == [100, 100, 100]
    now[0] += MINUTE
    minute(traffic, 7, 3)
    assert uptimes(traffic) == [50, 50, 50]


def test_an_endpoint_that_is_down_says_so_and_recovers(traffic: Traffic, now: list[float]) -> None:
    minute(traffic, 0, 10)
    assert (uptimes(traffic), traffic.of("a/b", "x").status) == ([0, 0, 0], -2)
    now[0] += 6 * MINUTE
    minute(traffic, 10, 0)
    assert (uptimes(traffic), traffic.of("a/b", "x").status) == ([100, 50, 50], 0)
    now[0] += 24 * 60 * MINUTE
    assert uptimes(traffic) == [None, None, None]


def test_the_first_token_and_the_rate_are_of_the_last_half_hour(traffic: Traffic, now: list[float]) -> None:
    minute(traffic, 1, 0)
    seen = traffic.of("a/b", "x")
    assert seen.latency == dict.fromkeys(("p50", "p75", "p90", "p99"), 0.6)
    assert seen.throughput == dict.fromkeys(("p50", "p75", "p90", "p99"), 50)
    now[0] += 31 * MINUTE
    assert (traffic.of("a/b", "x").latency, traffic.of("a/b", "x").throughput) == (None, None)


async def test_statistics_come_from_the_calls_and_some_only_with_a_key() -> None:
    faults = Faults(models={MODEL: msgspec.convert({"rates": {"503": 1}}, Faults)})
    async with desk(clock=lambda: NOON, latency="1", faults=faults) as at:
        for number in range(10):
            await at.ask(str(number))
            await at.ask(str(number), model=OPEN_WEIGHTS)
        down, up = await endpoint(at, MODEL), await endpoint(at, OPEN_WEIGHTS)
        at.simulator.set_faults(Faults(rates={FaultKind.RATE_LIMIT: 1.0}))
        await at.ask(model=OPEN_WEIGHTS)
        limited = await endpoint(at, OPEN_WEIGHTS)
        stranger = (await at.get(f"/models/{OPEN_WEIGHTS}/endpoints", {})).json["data"]["endpoints"][0]
    assert (down["uptime_last_5m"], down["status"], down["latency_last_30m"]) == (0, -2, None)
    assert (up["uptime_last_5m"], up["status"], up["latency_last_30m"]["p50"]) == (100, 0, Decimal("0.0003"))
    assert limited == up
    assert (stranger["latency_last_30m"], stranger["throughput_last_30m"]) == (None, None)


@pytest.mark.parametrize(
    ("provider", "served"),
    [
        ({}, "DeepInfra"),
        ({"only": ["together"]}, "Together"),
        ({"ignore": ["deepinfra"]}, "Together"),
        ({"order": ["together"]}, "Together"),
        ({"order": ["nobody", "together"]}, "Together"),
        ({"order": ["nobody"]}, "DeepInfra"),
        ({"sort": "price"}, "DeepInfra"),
        ({"sort": {"by": "price", "partition": "none"}}, "DeepInfra"),
        ({"sort": "exacto"}, "DeepInfra"),
        ({"require_parameters": True}, "DeepInfra"),
        ({"data_collection": "deny", "zdr": True, "quantizations": ["fp8"]}, "DeepInfra"),
    ],
)
async def test_preferences_choose_the_endpoint(provider: dict[str, Any], served: str) -> None:
    async with desk() as at:
        assert (await at.ask(model=OPEN_WEIGHTS, provider=provider)).json["provider"] == served


@pytest.mark.parametrize("sort", ["latency", "throughput"])
async def test_sorting_by_speed_looks_at_what_was_seen(sort: str) -> None:
    async with desk(latency="1") as at:
        await at.ask(model=OPEN_WEIGHTS, provider={"only": ["together"]})
        assert (await at.ask(model=OPEN_WEIGHTS, provider={"sort": sort})).json["provider"] == "Together"


@pytest.mark.parametrize(
    ("provider", "step"),
    [
        ({"only": ["nobody"]}, "only"),
        ({"ignore": ["openai"]}, "ignore"),
        ({"order": ["azure"], "allow_fallbacks": False}, "order"),
        ({"require_parameters": True}, "require_parameters"),
        ({"max_price": {"prompt": 0.1}}, "max_price"),
    ],
)
async def test_preferences_that_leave_nobody_are_a_404_that_says_which(provider: dict[str, Any], step: str) -> None:
    async with desk() as at:
        refused = await at.ask(provider=provider, top_k=3)
        fallback = await at.ask(provider={"ignore": ["openai"]}, models=[OPEN_WEIGHTS])
    assert refused.status == 404
    assert refused.metadata["failed_routing_step"] == step
    assert refused.error["availability"] == {
        "code": "constraint_filtered",
        "retryable": False,
        "retry_after": None,
        "requested_models": [MODEL],
        "affected_providers": ["OpenAI"],
        "excluded_by": [step],
        "fallback_models": [],
        "constraint": step,
        "docs_url": "https://openrouter.ai/docs/api-reference/errors",
    }
    assert fallback.json["model"] == OPEN_WEIGHTS


async def test_what_is_billed_is_what_the_price_says_for_every_model() -> None:
    at_noon = datetime.fromtimestamp(NOON, UTC)
    async with desk(clock=lambda: NOON, cached_share=0.5, spill_rate=0.5, free_rpm=None) as at:
        for model in (await at.get("/models")).json["data"]:
            reply = await at.ask("word " * 1500, model=model["id"], max_tokens=20)
            answer = reply.json
            listed = (await at.get(f"/models/{answer['model']}/endpoints")).json["data"]["endpoints"]
            (pricing,) = (each["pricing"] for each in listed if each["provider_name"] == answer["provider"])
            billed = bill(decode_price(msgspec.json.encode(pricing)), billable(answer["usage"]), at_noon)
            assert billed is not None
            assert to_nano(Decimal(answer["usage"]["cost"])) == to_nano(billed.total), model["id"]


def billable(usage: dict[str, Any]) -> Billable:
    prompt, completion = usage["prompt_tokens_details"], usage["completion_tokens_details"]
    return Billable(
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        cached_tokens=prompt["cached_tokens"],
        cache_write_tokens=prompt["cache_write_tokens"],
        reasoning_tokens=completion["reasoning_tokens"],
    )


async def endpoint(at: Desk, model: str) -> dict[str, Any]:
    listed: list[dict[str, Any]] = (await at.get(f"/models/{model}/endpoints")).json["data"]["endpoints"]
    return listed[0]
