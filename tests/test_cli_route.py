"""`batchmill route`: where a line would go, as a person asks it. Nothing is enqueued and nothing sent."""

import asyncio
import io
import itertools
import json
import sys
from typing import Any

import pytest

from batchmill.config.urls import normalized_url
from batchmill.routing.health import Tally
from batchmill.store.connection import connect
from batchmill.store.statistics import SLOT, Counted, count

from .cli_helpers import Desk, desk, shared_simulator

__all__ = ["desk", "shared_simulator"]

MINI, HAIKU, OLD = "openai/gpt-4o-mini", "anthropic/claude-haiku-4.5", "openai/gpt-3.5-turbo-instruct"
LINE = {
    "model": MINI,
    "fallback_models": [HAIKU, OLD],
    "messages": [{"role": "user", "content": "What is a token bucket?"}],
    "max_tokens": 300,
    "tools": [{"type": "function", "function": {"name": "look_up"}}],
}
CONFIG = f"""
[[aliases]]
name = "fast"
models = ["{HAIKU}", "{MINI}"]
strategy = "cost"
"""


def write(desk: Desk, *lines: dict[str, Any], indent: int | None = None) -> str:
    text = "".join(json.dumps(line, indent=indent) + "\n" for line in lines)
    (desk.folder / "line.json").write_text(text)
    return "line.json"


def told(desk: Desk, *arguments: str) -> dict[str, Any]:
    ended = desk.run("route", *arguments, "--json")
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def models(found: dict[str, Any], where: str = "candidates") -> list[str]:
    return [each["model"] for each in found[where]]


def test_the_candidates_come_in_order_with_costs_and_reasons_and_so_do_those_left_out(desk: Desk) -> None:
    ended = desk.run("route", "--explain", write(desk, LINE, indent=2), "--simulate")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == [
        f"{MINI}, by order: 2 candidates, 1 left out",
        f" 1. {MINI}",
        "    likely $0.000185, at most $0.000378 and 1,595 tokens",
        "    number 1 of those named; nothing is known yet of how it does",
        f" 2. {HAIKU}",
        "    likely $0.001535, at most $0.003150 and 1,595 tokens",
        "    number 2 of those named; nothing is known yet of how it does",
        "left out:",
        f"  - {OLD}",
        "    no tools: nothing says that it calls functions of the caller",
    ]


def test_without_reasons_only_the_models_are_told(desk: Desk) -> None:
    assert desk.run("route", write(desk, LINE), "--simulate").out == f"{MINI}\n{HAIKU}\n"
    dearest_first = LINE | {"model": HAIKU, "fallback_models": [MINI]}
    ended = desk.run("route", write(desk, dearest_first), "--simulate", "--strategy", "cost")
    assert ended.out == f"{MINI}\n{HAIKU}\n"


def test_json_has_the_same_in_numbers(desk: Desk) -> None:
    found = told(desk, write(desk, LINE), "--simulate")
    assert (found["asked"], found["strategy"]) == (MINI, "order")
    assert [each["first_share"] for each in found["candidates"]] == [1, 0]
    assert found["candidates"][0]["likely_cost_usd"] == pytest.approx(0.000186, abs=1e-6)
    assert found["candidates"][0]["max_cost_usd"] == pytest.approx(0.000382, abs=6e-6)
    assert models(found, "unfit") == [OLD]


@pytest.mark.parametrize(
    "line",
    [
        {"model": MINI, "prompt": "Hello"},
        {"model": MINI, "messages": [{"role": "user", "content": "Hello"}]},
        {
            "custom_id": "a",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MINI, "messages": [{"role": "user", "content": "Hello"}]},
        },
    ],
)
def test_a_line_in_any_form_may_take_the_fallbacks_of_its_batch(desk: Desk, line: dict[str, Any]) -> None:
    found = told(desk, write(desk, line), "--simulate", "--fallback", HAIKU)
    assert models(found) == [MINI, HAIKU]
    alone = told(desk, write(desk, line), "--simulate")
    assert (alone["strategy"], models(alone)) == (None, [MINI])
    assert alone["candidates"][0]["reason"] == "the line names it alone"


def test_auto_tells_the_cheapest_and_some_of_those_that_cannot(desk: Desk) -> None:
    line = {"model": "auto", "prompt": "Hello", "requirements": {"needs": ["vision"], "min_context": 100_000}}
    found = told(desk, write(desk, line), "--simulate")
    assert len(found["candidates"]) == 5
    costs = [each["likely_cost_usd"] for each in found["candidates"]]
    assert all(cost < 1.021 * following for cost, following in itertools.pairwise(costs))  # equals come as drawn
    assert found["unfit"]


def test_an_alias_goes_by_its_own_strategy_and_by_what_the_fleet_saw(desk: Desk) -> None:
    (desk.folder / "batchmill.toml").write_text(CONFIG)
    desk.environ["BATCHMILL_CONFIG"] = "batchmill.toml"
    line = write(desk, {"model": "fast", "prompt": "Hello", "max_tokens": 20})
    found = told(desk, line)
    assert (found["asked"], found["strategy"], models(found)) == ("fast", "cost", [MINI, HAIKU])
    asyncio.run(saw(desk, HAIKU, seconds=0.4))
    asyncio.run(saw(desk, MINI, seconds=4))
    assert models(told(desk, line)) == [MINI, HAIKU]
    found = told(desk, line, "--strategy", "performance")
    assert models(found) == [HAIKU, MINI]
    assert found["candidates"][0]["first_share"] == 0.96
    assert "median over 30 calls in 60 s, 100 % succeed" in found["candidates"][0]["reason"]
    assert "first for 96 % of such lines" in desk.run("route", "--explain", line, "-s", "performance").out


async def saw(desk: Desk, model: str, *, seconds: float) -> None:
    """Let the fleet have seen calls of a model just now."""
    redis = await connect(desk.redis_url)
    try:
        server_now, _ = await redis.time()
        tally = Tally()
        for _ in range(30):
            tally.answered(round(1000 * seconds), None, 10)
        seen = Counted(model, server_now // SLOT, server_now * 1000, {"Somebody": tally})
        await count(redis, normalized_url(desk.environ["BATCHMILL_BASE_URL"]), [seen])
    finally:
        await redis.aclose()


def test_standard_input_and_a_file_of_lines(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    many = write(desk, {"model": MINI, "prompt": "one"}, {"model": HAIKU, "prompt": "two"})
    assert desk.run("route", many, "--simulate").out == f"{MINI}\n"
    assert desk.run("route", many, "--simulate", "--line", "2").out == f"{HAIKU}\n"
    piped = io.TextIOWrapper(io.BytesIO(json.dumps({"prompt": "Hello"}).encode()))
    monkeypatch.setattr(sys, "stdin", piped)
    assert desk.run("route", "-", "--simulate", "--model", HAIKU).out == f"{HAIKU}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 lines, so there is no line 1"),
        ('{"model": "a/b"}', "messages"),
        ("{", "line 1"),
        (
            '{"model": "auto", "prompt": "x", "requirements": {"min_context": 1000000000}}',
            "no model can serve this line",
        ),
        ('{"model": "no/such", "prompt": "x"}', "no usable price is known for no/such"),
    ],
)
def test_a_line_that_could_not_be_enqueued_says_why(desk: Desk, text: str, said: str) -> None:
    (desk.folder / "line.json").write_text(text)
    ended = desk.run("route", "--explain", "line.json", "--simulate")
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_a_file_that_is_not_there(desk: Desk) -> None:
    ended = desk.run("route", "none.json", "--simulate")
    assert ended.code == 2
    assert "no such file" in ended.err


def test_nothing_is_kept_of_it(desk: Desk) -> None:
    assert desk.run("route", write(desk, LINE), "--simulate").code == 0
    assert json.loads(desk.run("status", "--json").out) == []


def test_reasons_are_wrapped_to_the_terminal(desk: Desk) -> None:
    desk.environ["COLUMNS"] = "60"
    out = desk.run("route", "--explain", write(desk, LINE | {"fallback_models": [HAIKU, "no/such"]}), "--simulate").out
    assert max(len(line) for line in out.splitlines()) <= 60
