"""`batchmill estimate`, and what `run` says and asks before it spends, as a person meets them."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from .cli_helpers import MODELS, Desk, desk, shared_simulator

__all__ = ["desk", "shared_simulator"]

_BUDGET = '[[budgets]]\nname = "daily"\nlimit_usd = 0.001\nwindow = "day"\n'


def told(desk: Desk, *arguments: str) -> dict[str, Any]:
    ended = desk.run("estimate", *arguments, "--simulate", "--json")
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def test_an_estimate_tells_lines_tokens_and_costs_by_model_and_enqueues_nothing(desk: Desk) -> None:
    desk.write("prompts.jsonl", 20)
    found = told(desk, "prompts.jsonl")
    assert (found["lines"], found["bad_lines"], found["lines_that_fit"]) == (20, 0, 20)
    assert sorted(each["model"] for each in found["models"]) == sorted(MODELS)
    assert all(each["completion_tokens"] == 200 for each in found["models"]), "their limit is less than a usual answer"
    assert 0 < found["likely_cost_usd"] <= found["max_cost_usd"]
    in_full = desk.run("estimate", "prompts.jsonl", "--simulate")
    assert "20 lines: likely $" in in_full.out
    assert json.loads(desk.run("status", "--json").out) == []


def test_the_budget_that_stops_it_is_told_with_the_share_of_lines_that_fit(desk: Desk) -> None:
    desk.write("prompts.jsonl", 100)
    (desk.folder / "batchmill.toml").write_text(_BUDGET)
    ended = desk.run("estimate", "prompts.jsonl", "--simulate", "--config", "batchmill.toml")
    assert ended.code == 0, ended.err
    assert "budget daily ($0.001000 free of $0.001000) stops it after about " in ended.out
    assert "the rest waits until" in ended.out
    found = told(desk, "prompts.jsonl", "--max-cost", "0.002")
    (own,) = found["budgets"]
    assert (own["name"], own["lines"], own["lines_stopped"]) == ("--max-cost", 100, 100 - found["lines_that_fit"])
    assert 0 < found["lines_that_fit"] < 100


def test_bad_lines_and_unpriced_models_are_told_and_a_file_of_nothing_else_is_unusable(desk: Desk) -> None:
    (desk.folder / "bad.jsonl").write_text('{"model": "nobody/nothing", "prompt": "Hello"}\n{\n')
    ended = desk.run("estimate", "bad.jsonl", "--simulate")
    assert ended.code == 2
    assert "nobody/nothing: no usable price is known, 1 line; say it in [[prices]]" in ended.out
    assert "2 lines can't be run:\n  line 1, model:" in ended.out
    assert desk.run("estimate", "none.jsonl", "--simulate").code == 2


def test_a_sample_runs_its_lines_for_real_once_and_tells_a_range(desk: Desk, shared_simulator: Any) -> None:
    desk.write("prompts.jsonl", 40)
    for paid in (8, 8):
        ended = desk.run("estimate", "prompts.jsonl", "--sample", "8", "--json")
        assert ended.code == 0, ended.err
        assert shared_simulator.stats["requests"] == paid, "the same sample is not paid for again"
    found = json.loads(ended.out)
    assert found["sample"]["lines"] == 8
    assert found["likely_low_usd"] <= found["likely_cost_usd"] <= found["likely_high_usd"]
    assert all(each["answers_observed"] for each in found["models"])
    assert found["sample"]["batch_id"] in [each["id"] for each in json.loads(desk.run("status", "--json").out)]
    assert found["sample"]["cost_usd"] < found["likely_cost_usd"] < found["max_cost_usd"]


def test_a_run_says_in_short_what_it_will_cost_but_asks_nobody_off_a_terminal(desk: Desk) -> None:
    desk.write("prompts.jsonl", 4)
    (desk.folder / "batchmill.toml").write_text("[spend]\nask_over_usd = 0\n")
    ended = desk.run("run", "prompts.jsonl", "--config", "batchmill.toml")
    assert ended.code == 0, ended.err
    assert "likely cost $" in ended.err
    assert "Spend about" not in ended.err
    again = desk.run("run", "prompts.jsonl", "--config", "batchmill.toml")
    assert "likely cost" not in again.err, "nothing of it will be sent again"


def at_a_terminal(desk: Desk, typed: bytes, *arguments: str) -> tuple[int, str]:
    """Give a command at a terminal; type once it has asked (or nothing). Return its exit code and all that it said."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "batchmill.cli", *arguments],
        cwd=desk.folder,
        env=desk.environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: _own(theirs),  # noqa: PLW1509 - no other way gives a child its terminal
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # what the end of a terminal is read as
        while chunk := os.read(ours, 4096):
            said += chunk
            if b"[y/N]" in said and typed:
                os.write(ours, typed)
                typed = b""
    os.close(ours)
    return process.wait(20), said.decode()


def _own(terminal: int) -> None:
    """Make it the terminal whose Ctrl-C interrupts us."""
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("typed", [b"n\n", b"\x03"], ids=["no", "ctrl-c"])
def test_a_no_at_the_terminal_enqueues_nothing(desk: Desk, typed: bytes) -> None:
    desk.write("prompts.jsonl", 4)
    (desk.folder / "batchmill.toml").write_text("[spend]\nask_over_usd = 0\n")
    code, said = at_a_terminal(desk, typed, "run", "prompts.jsonl", "--config", "batchmill.toml")
    assert (code, "Spend about $" in said) == (130, True), said
    assert json.loads(desk.run("status", "--json").out) == []


def test_a_yes_at_the_terminal_goes_on_and_so_does_yes_unasked(desk: Desk) -> None:
    desk.write("prompts.jsonl", 4)
    (desk.folder / "batchmill.toml").write_text("[spend]\nask_over_usd = 0\n")
    code, said = at_a_terminal(desk, b"y\n", "run", "prompts.jsonl", "--config", "batchmill.toml")
    assert (code, "Spend about $" in said) == (0, True), said
    code, said = at_a_terminal(desk, b"", "run", "prompts.jsonl", "--fresh", "--yes", "--config", "batchmill.toml")
    assert (code, "Spend about $" in said) == (0, False), said
