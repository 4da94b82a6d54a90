"""The examples are lines that can be sent, to models that exist and have a price."""

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

from batchmill.producer.input import InputOptions, Request, form_of, read

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
CATALOGUE = ROOT / "openrouter" / "simulator" / "models_2025_12.json"


def requests_of(name: str, **options: object) -> list[Request]:
    with (EXAMPLES / name).open("rb") as source:
        found = list(read(source, InputOptions(form=form_of(name), **options)))  # type: ignore[arg-type]
    requests = [value for value in found if isinstance(value, Request)]
    assert found == requests
    return requests


def test_the_prompts_are_good_lines_and_no_two_alike() -> None:
    requests = requests_of("prompts.jsonl")
    assert len(requests) >= 120
    bodies = [json.loads(request.body) for request in requests]
    assert len({body["messages"][-1]["content"] for body in bodies}) == len(requests)
    assert all(1 <= body["max_tokens"] <= 500 for body in bodies)
    kinds = Counter(request.custom_id.split("-")[0] for request in requests)
    assert {"label", "extract", "summarise", "code", "judge", "qa", "translate", "synth"} <= set(kinds)
    assert f"`prompts.jsonl`: {len(requests)} lines" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_their_models_exist_and_have_prices() -> None:
    prices = {
        model["id"]: (Decimal(model["pricing"]["prompt"]), Decimal(model["pricing"]["completion"]))
        for model in json.loads(CATALOGUE.read_bytes())["data"]
    }
    models = Counter(request.model for request in requests_of("prompts.jsonl"))
    assert len(models) == 6
    for model, lines in models.items():
        assert lines >= 15
        assert all(price > 0 for price in prices[model])


def test_the_plain_prompts() -> None:
    assert len(requests_of("prompts.txt", model="openai/gpt-4o-mini")) == 10
