"""`batchmill models` as a person uses it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchmill.openrouter.capabilities import CAPABILITIES
from batchmill.openrouter.traits import TAGS
from batchmill.routing.recommendation import OPTIMIZE

from .cli_helpers import MODELS, Desk, desk, shared_simulator

__all__ = ["desk", "shared_simulator"]

PAGE = (Path(__file__).parents[1] / "docs" / "openrouter.md").read_text(encoding="utf-8")


def told(desk: Desk, *arguments: str) -> Any:
    """Return the JSON that a command prints."""
    ended = desk.run("models", *arguments, "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


@pytest.mark.parametrize("source", [(), ("--simulate",)])
def test_the_list_comes_from_the_upstream_or_from_the_package(desk: Desk, source: tuple[str, ...]) -> None:
    listed = told(desk, *source)
    assert len(listed) == 342
    assert listed == told(desk, "list", *source)
    ended = desk.run("models", *source)
    assert ended.code == 0
    assert "342 models" in ended.err
    assert ("packaged" in ended.err) is bool(source)
    assert ("as of" in ended.err) is not bool(source)


def test_filters_combine_and_prices_are_usd_a_million(desk: Desk) -> None:
    listed = told(
        desk, "--needs", "tools,vision", "--max-price", "$2", "--context", "200k", "--author", "anthropic,openai",
        "--not-tag", "batch", "--sort", "created", "-n", "3",
    )  # fmt: skip
    assert len(listed) == 3
    assert [model["created"] for model in listed] == sorted((model["created"] for model in listed), reverse=True)
    for model in listed:
        assert {"tools", "vision"} <= set(model["capabilities"])
        assert model["prices"]["blended"] <= 2
        assert model["context_length"] >= 200_000
        assert model["author"] in ("anthropic", "openai")


def test_an_empty_list_says_what_left_everything_out(desk: Desk) -> None:
    ended = desk.run("models", "list", "--search", "gpt-4o-mini", "--max-price", "0.001")
    assert (ended.code, ended.out) == (0, "")
    assert "0 of 342 models" in ended.err
    assert "by text" in ended.err
    assert "without price" in ended.err
    assert told(desk, "--search", "gpt-4o-mini", "--max-price", "0.001") == []


def test_a_provider_is_asked_for_where_few_models_are_left(desk: Desk) -> None:
    by_author = told(desk, "--search", "llama-3.3-70b", "--provider", "meta-llama")
    served = told(desk, "--search", "llama-3.3-70b", "--provider", "deepinfra")
    assert by_author == []
    assert "meta-llama/llama-3.3-70b-instruct" in [model["id"] for model in served]
    ended = desk.run("models", "list", "--provider", "openai")
    assert "--provider goes by authors here" in ended.err
    assert "openai/gpt-4o-mini" in ended.out


def test_one_model_in_full_with_its_endpoints(desk: Desk) -> None:
    shown = told(desk, "show", "openai/gpt-4o-mini:floor", "--endpoints")
    assert shown["id"] == "openai/gpt-4o-mini"
    assert shown["capabilities_by"]["vision"] == "architecture.input_modalities: image"
    assert shown["endpoints"][0]["prices"]["input"] == 0.15
    assert shown["endpoints_fetched_at_ms"] > 0
    ended = desk.run("models", "show", "openai/gpt-4o-mini", "--endpoints")
    assert "input $0.15, output $0.60" in ended.out
    assert "endpoints, as of" in ended.err


def test_what_the_fleet_saw_is_shown_with_its_source_and_age(desk: Desk) -> None:
    desk.write("prompts.jsonl", 6)
    assert desk.run("run", "prompts.jsonl").code == 0
    shown = told(desk, "show", MODELS[0])
    assert shown["health"]["calls"] == 3
    assert shown["traffic"]["calls"] == 3
    assert shown["traffic"]["success_rate"] == 1
    assert sum(provider["calls"] for provider in shown["traffic"]["providers"].values()) == 3
    ended = desk.run("models", "show", MODELS[0])
    assert "by the fleet: 3 calls in" in ended.out
    assert "in a day, by" in ended.out
    assert "100.0 %" in ended.out
    listed = {model["id"]: model["health"] for model in told(desk)}
    assert listed[MODELS[0]]["calls"] == 3
    assert listed["google/gemini-2.5-flash"] is None


def test_models_side_by_side(desk: Desk) -> None:
    compared = told(desk, "compare", *MODELS, "--mix", "1k:1k:500")
    assert compared["mix"] == {"prompt": 1000, "completion": 1000, "cached": 500}
    assert [model["id"] for model in compared["models"]] == list(MODELS)
    assert compared["models"][0]["cost_usd"] == pytest.approx((500 * 0.15 + 500 * 0.075 + 1000 * 0.6) / 1e6)
    assert compared["wins"]["cost"] == [MODELS[0]]
    ended = desk.run("models", "compare", *MODELS)
    assert "$0.00105 *" in ended.out


def test_a_recommendation_has_parts_and_a_reason(desk: Desk) -> None:
    best = told(
        desk, "recommend", "--needs", "tools,vision", "--context", "100k", "--max-price", "2", "--optimize", "speed"
    )
    assert len(best) == 5
    assert [one["score"] for one in best] == sorted((one["score"] for one in best), reverse=True)
    assert [part["name"] for part in best[0]["parts"]] == ["speed", "reliability", "price", "quality"]
    ended = desk.run("models", "recommend", "--needs", "tools", "--limit", "1")
    assert "a million, blended" in ended.out
    assert "fit of 342 models" in ended.err
    assert "by capability" in ended.err


def test_a_refresh_tells_what_is_different_and_verbosely_what_is_not_known(desk: Desk) -> None:
    ended = desk.run("models", "refresh", "--verbose")
    assert ended.code == 0, ended.err
    assert "342 models" in ended.out
    assert "everything in 342 entries is known" in ended.out
    assert "no usable price: openrouter/auto" in ended.out
    assert told(desk, "refresh")["models"] == 342


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "openai/gpt-4o-mimi"), "did you mean openai/gpt-4o-mini"),
        (("compare", "openai/gpt-4o-mini", "nobody/nothing"), "no model 'nobody/nothing'"),
        (("--needs", "vison"), "did you mean 'vision'"),
        (("--tag", "chep"), "did you mean 'cheap'"),
        (("--max-price", "much"), "'much' is no price"),
        (("--max-price", "NaN"), "'NaN' is no price"),
        (("--context", "long"), "'long' is no number of tokens"),
        (("compare", "a/b", "--mix", "1"), "'1' is no mix"),
        (("compare", "a/b", "--mix", "1:1:2"), "no more cached tokens"),
        (("shwo",), "No such command 'shwo'"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(desk: Desk, arguments: tuple[str, ...], words: str) -> None:
    ended = desk.run("models", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert len(ended.err.splitlines()) == 1


def test_the_page_names_every_capability_tag_and_weight() -> None:
    assert [word for word in CAPABILITIES if f"`{word}`" not in PAGE] == []
    assert [tag for tag, rule in TAGS.items() if f"| `{tag}` | {rule} |" not in PAGE] == []
    for goal, weights in OPTIMIZE.items():
        cells = " | ".join(f"{100 * weights[part]:.0f} %" for part in ("price", "speed", "quality", "reliability"))
        assert f"| `{goal}` | {cells} |" in PAGE


def test_the_page_s_python_runs(desk: Desk) -> None:
    block = re.search(r"runs it -->\n```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert block is not None
    done = subprocess.run(
        [sys.executable, "-c", block[1]], env=desk.environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5
    assert "proxy, no benchmark" in done.stdout
