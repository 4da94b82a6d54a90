"""What a run cost is the same to the billionth in its results, its status, every report, and the export."""

import json
from decimal import Decimal
from typing import Any

import pytest

from .cli_helpers import Desk, desk, shared_simulator

__all__ = ["desk", "shared_simulator"]


def told(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


@pytest.mark.parametrize("by", ["model", "project", "batch", "provider", "day", "tag"])
def test_all_tell_the_same_cost(desk: Desk, by: str) -> None:
    desk.write("prompts.jsonl", 12)
    assert desk.run("run", "prompts.jsonl", "--project", "evals", "--tag", "team=search", "--fresh").code == 0
    lines = [told(line) for line in (desk.folder / "prompts.results.jsonl").read_text().splitlines()]
    cost = sum(line["x_cost_usd"] for line in lines)
    assert cost > 0
    (batch,) = told(desk.run("status", "--json").out)
    assert batch["x_cost"]["spent_usd"] == cost
    report = told(desk.run("spend", "--by", by, "--json").out)
    assert (report["total"]["cost_usd"], report["total"]["answered"]) == (cost, 12)
    assert sum(row["cost_usd"] for row in report["rows"]) == cost
    assert desk.run("spend", "export", "usage.jsonl").code == 0
    records = [told(line) for line in (desk.folder / "usage.jsonl").read_text().splitlines()]
    assert sum(record["cost_usd"] for record in records) == cost
    assert {tuple(record["tags"]) for record in records} == {("team=search",)}
