"""`--cache` on the command line: what is sent, what is said, and what a result looks like."""

import json

import pytest

from .cli_helpers import Desk, SimulatorProcess, desk, shared_simulator, simulator  # noqa: F401 - fixtures


def write(desk: Desk, name: str, *ids: str) -> None:  # noqa: F811
    body = {"model": "openai/gpt-4o-mini", "max_tokens": 20, "messages": [{"role": "user", "content": "Why?"}]}
    made = [{"custom_id": each, "method": "POST", "url": "/v1/chat/completions", "body": body} for each in ids]
    (desk.folder / name).write_text("".join(json.dumps(line) + "\n" for line in made))


def test_lines_that_are_alike_are_sent_once(desk: Desk, simulator: SimulatorProcess) -> None:  # noqa: F811
    write(desk, "in.jsonl", "a", "b", "c")
    ended = desk.run("run", "in.jsonl", "--cache", "--simple", "--json", "-o", "out.jsonl")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["cached_lines"] == 2
    assert len(simulator.bodies) == 1
    found = desk.read("out.jsonl")
    assert sorted(line.get("cached", False) for line in found) == [False, True, True]
    assert sum(line["cost_usd"] == 0 for line in found) == 2
    assert len({line["content"] for line in found}) == 1
    status = desk.run("status")
    assert status.code == 0


@pytest.mark.parametrize("option", ["--no-cache", None])
def test_nothing_is_cached_unasked(desk: Desk, simulator: SimulatorProcess, option: str | None) -> None:  # noqa: F811
    write(desk, "in.jsonl", "a", "b")
    ended = desk.run("run", "in.jsonl", "--json", "-o", "out.jsonl", *([option] if option else []))
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["cached_lines"] == 0
    assert len(simulator.bodies) == 2
