"""`batchmill run` in all its forms, against a simulator's process and the embedded server."""

import io
import json
from pathlib import Path

import pytest

from .cli_helpers import Desk, SimulatorProcess, desk, requests, shared_simulator, simulator, values

__all__ = ["desk", "shared_simulator", "simulator"]


def test_results_land_in_a_file_beside_the_input(desk: Desk, simulator: SimulatorProcess) -> None:
    desk.write("prompts.jsonl", 40)

    ended = desk.run("run", "prompts.jsonl")

    assert (ended.code, ended.out) == (0, "")
    lines = desk.read("prompts.results.jsonl")
    assert sorted(values(lines, "custom_id")) == sorted(values(list(requests(40)), "custom_id"))
    assert all(line["response"]["status_code"] == 200 for line in lines)
    assert all(line["response"]["body"]["choices"][0]["finish_reason"] for line in lines)
    assert all(line["error"] is None for line in lines)
    assert not (desk.folder / "prompts.errors.jsonl").exists()
    assert simulator.stats["requests"] == 40
    for word in ("40 succeeded", "tokens", "$", "lines/s", "p50", "prompts.results.jsonl"):
        assert word in ended.err
    assert not list((desk.folder / "data" / "logs").iterdir()), "the log of a run without trouble is gone"


def test_simple_lines_in_the_order_of_the_input_and_a_json_summary(desk: Desk) -> None:
    desk.write("prompts.jsonl", 60)

    ended = desk.run("run", "prompts.jsonl", "--simple", "--ordered", "--json", "-o", "flat.jsonl", "--workers", "2")

    lines = desk.read("flat.jsonl")
    assert values(lines, "custom_id") == [f"line-{number}" for number in range(60)]
    assert set(lines[0]) == {
        "custom_id", "content", "model", "finish_reason", "usage", "cost_usd", "latency_ms", "attempts",
    }  # fmt: skip
    summary = json.loads(ended.out)
    assert ended.code == summary["exit_code"] == 0
    assert (summary["lines"], summary["succeeded"], summary["failed"], summary["done_before"]) == (60, 60, 0, 0)
    assert summary["results_file"] == "flat.jsonl"
    assert summary["errors_file"] is None
    assert summary["cost_usd"] == pytest.approx(sum(values(lines, "cost_usd")))
    assert summary["completion_tokens"] == sum(line["usage"]["completion_tokens"] for line in lines)
    assert summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"]
    assert summary["failures"] == []


def test_failed_lines_go_beside_and_can_be_run_again(desk: Desk, simulator: SimulatorProcess) -> None:
    desk.write("prompts.jsonl", 20)
    simulator.reset(models={"anthropic/*": {"rates": {"403_moderation": 1.0}}})

    ended = desk.run("run", "prompts.jsonl")

    assert ended.code == 1
    assert len(desk.read("prompts.results.jsonl")) == len(desk.read("prompts.errors.jsonl")) == 10
    assert "10 succeeded, 10 failed" in ended.err
    assert "10  moderation, e.g. line-" in ended.err
    assert "batchmill run prompts.errors.jsonl\n" in ended.err

    simulator.reset()
    again = desk.run("run", "prompts.errors.jsonl")

    assert again.code == 0
    assert set(desk.ids("prompts.errors.results.jsonl")) == {f"line-{number}" for number in range(1, 20, 2)}


def test_the_same_lines_again_are_not_sent_again(desk: Desk, simulator: SimulatorProcess) -> None:
    desk.write("prompts.jsonl", 12)
    desk.run("run", "prompts.jsonl")
    before = desk.ids("prompts.results.jsonl")

    again = desk.run("run", "prompts.jsonl", "--simple")

    assert again.code == 0
    assert "already has 12 of 12 results: reusing them; --fresh runs all lines anew" in again.err
    assert desk.ids("prompts.results.jsonl") == before
    assert "content" in desk.read("prompts.results.jsonl")[0]
    assert "moved" not in again.err
    assert desk.run("run", "prompts.jsonl", "--simple").err.count("moved") == 0, "simple lines are known as ours, too"
    assert simulator.stats["requests"] == 12

    fresh = desk.run("run", "prompts.jsonl", "--fresh")

    assert fresh.code == 0
    assert simulator.stats["requests"] == 24


def test_what_another_batch_left_is_moved_away(desk: Desk) -> None:
    desk.write("prompts.jsonl", 3)
    (desk.folder / "prompts.errors.jsonl").write_text('{"id":"batch_req_0123_0"}\n')
    desk.run("run", "prompts.jsonl")
    desk.write("prompts.jsonl", 4, marker=" today")

    ended = desk.run("run", "prompts.jsonl")

    assert "prompts.results.jsonl held something else: moved to prompts.results.jsonl.old" in ended.err
    assert desk.count("prompts.results.jsonl.old") == 3
    assert desk.count("prompts.results.jsonl") == 4
    assert desk.count("prompts.errors.jsonl.old") == 1
    (desk.folder / "prompts.results.jsonl").write_text("my notes\n")
    desk.run("run", "prompts.jsonl")
    assert (desk.folder / "prompts.results.jsonl.old2").read_text() == "my notes\n"
    assert desk.count("prompts.results.jsonl") == 4


def test_standard_input_to_standard_output(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(
        json.dumps({"prompt": f"Count to {number}.", "custom_id": str(number)}) + "\n" for number in (1, 2, 3)
    )
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))

    ended = desk.run("run", "-", "--model", "openai/gpt-4o-mini", "--simple", "--ordered", "--limit", "2")

    assert ended.code == 0
    assert values(ended.lines, "custom_id") == ["1", "2"]


def test_plain_prompts_with_the_options_that_complete_them(desk: Desk) -> None:
    (desk.folder / "questions.txt").write_text("Why is the sky blue?\n\nWhat is a prime?\n")

    ended = desk.run("run", "questions.txt", "-m", "openai/gpt-4o-mini", "--max-tokens", "5", "--simple")

    assert ended.code == 0
    lines = desk.read("questions.results.jsonl")
    assert sorted(values(lines, "custom_id")) == ["line-1", "line-3"]
    assert all(line["usage"]["completion_tokens"] <= 5 for line in lines)


def test_bad_lines_stop_all_or_are_skipped(desk: Desk, simulator: SimulatorProcess) -> None:
    desk.write("prompts.jsonl", 2)
    with (desk.folder / "prompts.jsonl").open("a") as file:
        file.write('{"custom_id": "bad", "method": "POST", "url": "/v1/chat/completions", "body": {}}\nno json\n')

    refused = desk.run("run", "prompts.jsonl")

    assert refused.code == 2
    assert "batchmill: prompts.jsonl: 2 bad lines, nothing was enqueued" in refused.err
    assert "line 3, body.model:" in refused.err
    assert not (desk.folder / "prompts.results.jsonl").exists()
    assert simulator.stats["requests"] == 0

    ended = desk.run("run", "prompts.jsonl", "--skip-invalid")

    assert ended.code == 1
    assert sorted(desk.ids("prompts.results.jsonl")) == ["line-0", "line-1"]
    assert sorted(desk.ids("prompts.errors.jsonl")) == ["bad", "line-4"]
    assert all(line["response"] is None and line["error"]["message"] for line in desk.read("prompts.errors.jsonl"))
    assert "to try them again" not in ended.err, "they can't be sent, however often"


SHORT = "mistralai/mistral-7b-instruct-v0.1"
"""A model of the simulator's that reads 2,824 tokens at most."""


def test_the_way_to_try_again_is_one_that_works(desk: Desk) -> None:
    desk.write("prompts.jsonl", 2)
    with (desk.folder / "prompts.jsonl").open("a") as file:
        too_long = {"model": SHORT, "max_tokens": 5, "messages": [{"role": "user", "content": "Why? " * 9000}]}
        file.write(f"no json\n{json.dumps(too_long)}\n")
    (desk.folder / "own.toml").write_text("[retry]\nmax_attempts = 1\n")

    ended = desk.run("run", "prompts.jsonl", "--simulate", "--skip-invalid", "--config", "own.toml")

    command = "run prompts.errors.jsonl --skip-invalid --simulate --config own.toml"
    assert f"\n  batchmill {command}\n" in ended.err
    again = desk.run(*command.split())
    assert (again.code, again.err.count(f"2 lines for {SHORT}")) == (1, 1)


def test_rehearsal_needs_no_key_and_keeps_apart_from_paid_work(desk: Desk, simulator: SimulatorProcess) -> None:
    desk.write("prompts.jsonl", 5)
    del desk.environ["OPENROUTER_API_KEY"], desk.environ["BATCHMILL_BASE_URL"]

    ended = desk.run("run", "prompts.jsonl", "--simulate", "--json")

    assert ended.code == 0
    assert desk.count("prompts.results.jsonl") == 5
    assert simulator.stats["requests"] == 0, "a simulator of its own"
    status = json.loads(desk.run("status", json.loads(ended.out)["batch_id"], "--json").out)
    assert status["x_upstream"] == "simulator"


def test_without_a_key_nothing_begins(desk: Desk) -> None:
    desk.write("prompts.jsonl", 5)
    del desk.environ["OPENROUTER_API_KEY"], desk.environ["BATCHMILL_BASE_URL"]

    for command in (("run", "prompts.jsonl"), ("worker",)):
        ended = desk.run(*command)
        assert ended.code == 2
        for way_on in ("OPENROUTER_API_KEY", "BATCHMILL_API_KEY_FILE", "--simulate"):
            assert way_on in ended.err
    assert desk.run("status", "--json").out == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("missing.jsonl",), "missing.jsonl: no such file"),
        (("data",), "data is a folder"),
        (("prompts.jsonl", "-o", "prompts.jsonl"), "prompts.jsonl is the input and would be overwritten"),
        (("again.errors.jsonl", "-o", "again.results.jsonl"), "again.errors.jsonl is the input"),
        (("prompts.jsonl", "-o", "nowhere/out.jsonl"), "nowhere: no such folder"),
        (("prompts.jsonl", "-o", "-", "--json"), "--json and the results can't both go to standard output"),
        (("prompts.jsonl", "--config", "none.toml"), "config file none.toml: No such file"),
        (("prompts.jsonl", "--redis", "redis://127.0.0.1:1"), "Redis at redis://127.0.0.1:1 can't be reached"),
    ],
)
def test_what_can_not_work_is_said_in_one_line(desk: Desk, arguments: tuple[str, ...], complaint: str) -> None:
    desk.write("prompts.jsonl", 1)
    desk.write("again.errors.jsonl", 1)

    ended = desk.run("run", *arguments)

    assert ended.code == 2
    assert ended.err.startswith(f"batchmill: {complaint}")
    assert ended.err.count("\n") == 1
    assert desk.run("status", "--json").out == "[]\n", "nothing was enqueued"


def test_two_runs_do_not_write_one_file(desk: Desk, tmp_path: Path) -> None:
    import fcntl

    desk.write("prompts.jsonl", 1)
    with (tmp_path / "prompts.results.jsonl").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ended = desk.run("run", "prompts.jsonl")

    assert ended.code == 2
    assert "prompts.results.jsonl is being written by another batchmill" in ended.err
