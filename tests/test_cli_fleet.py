"""The commands in pieces: submit, worker, status, results, cancel, retry, check."""

import json
import signal

import pytest

from batchmill.cli import findings
from batchmill.cli.finding import Level
from batchmill.cli.main import cli
from batchmill.config.sections import ArchiveSettings, TracingSettings
from batchmill.config.settings import Settings

from .cli_helpers import Desk, SimulatorProcess, desk, ended, interrupt, shared_simulator, simulator, values, wait_until

__all__ = ["desk", "shared_simulator", "simulator"]

BATCH_FIELDS = {  # of OpenAI's Batch object
    "id", "object", "endpoint", "errors", "input_file_id", "completion_window", "status", "output_file_id",
    "error_file_id", "created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at",
    "expired_at", "cancelling_at", "cancelled_at", "request_counts", "metadata", "usage",
}  # fmt: skip


def test_submit_prints_the_id_alone_and_says_what_is_missing(desk: Desk) -> None:
    desk.write("prompts.jsonl", 10)
    submitted = desk.run("submit", "prompts.jsonl")
    assert submitted.code == 0
    assert submitted.out.count("\n") == 1
    assert submitted.out.startswith("batch_")
    assert "batchmill worker" in submitted.err
    assert desk.run("submit", "prompts.jsonl").out == submitted.out


def test_a_fleet_of_two_processes_works_off_what_was_submitted(desk: Desk, simulator: SimulatorProcess) -> None:
    simulator.reset(latency_ms="20")
    desk.write("prompts.jsonl", 200)
    batch = desk.run("submit", "prompts.jsonl").out.strip()
    worker = desk.start("worker", "--processes", "2", "--concurrency", "10")
    followed = desk.run("results", batch, "--follow", "--ordered", "-o", "answers.jsonl")
    assert followed.code == 0
    assert desk.ids("answers.jsonl") == [f"line-{number}" for number in range(200)]
    assert interrupt(worker, signal.SIGTERM).code == 0
    assert simulator.stats["requests"] == 200


def test_status_is_openais_batch_object(desk: Desk) -> None:
    desk.write("prompts.jsonl", 12)
    assert desk.run("run", "prompts.jsonl").code == 0
    (line,) = json.loads(desk.run("status", "--json").out)
    batch = json.loads(desk.run("status", line["id"], "--json").out)
    assert {name for name in batch if not name.startswith("x_")} == BATCH_FIELDS
    assert (batch["object"], batch["status"], batch["endpoint"]) == ("batch", "completed", "/v1/chat/completions")
    assert batch["request_counts"] == {"total": 12, "completed": 12, "failed": 0}
    usage = batch["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["completed_at"]
    costs = sum(line["x_cost_usd"] for line in desk.read("prompts.results.jsonl"))
    assert batch["x_cost"]["spent_usd"] == pytest.approx(costs, abs=1e-12)


def test_status_with_simulate_shows_only_what_was_rehearsed(desk: Desk) -> None:
    desk.write("prompts.jsonl", 2)
    real = desk.run("submit", "prompts.jsonl").out.strip()
    rehearsed = desk.run("submit", "prompts.jsonl", "--simulate").out.strip()

    def shown(*options: str) -> set[str]:
        return {batch["id"] for batch in json.loads(desk.run("status", "--json", *options).out)}

    assert shown() == {real, rehearsed}
    assert shown("--simulate") == {rehearsed}
    assert desk.run("status", real, "--simulate").code == 0
    assert "`batchmill worker --simulate` starts one" in desk.run("status", rehearsed).out


def test_the_table_shows_ids_that_can_be_pasted(desk: Desk) -> None:
    desk.write("prompts.jsonl", 3)
    batch = desk.run("submit", "prompts.jsonl").out.strip()
    table = desk.run("status")
    assert batch in table.out
    assert "in_progress" in table.out
    details = desk.run("status", batch).out
    assert "no worker" in details
    watched = desk.start("status", batch, "--watch")
    desk.run("cancel", batch)
    assert ended(watched).code == 0


def test_cancelling_keeps_the_results_and_ends_the_batch(desk: Desk, simulator: SimulatorProcess) -> None:
    simulator.reset(latency_ms="100")
    desk.write("prompts.jsonl", 300)
    batch = desk.run("submit", "prompts.jsonl").out.strip()
    worker = desk.start("worker", "--concurrency", "10")
    wait_until(lambda: simulator.stats["completions"] > 10, "some lines are done")
    assert desk.run("cancel", batch).code == 0
    followed = desk.run("results", batch, "--follow", "-o", "answers.jsonl")
    interrupt(worker, signal.SIGTERM)
    assert followed.code == 1
    state = json.loads(desk.run("status", batch, "--json").out)
    assert state["status"] == "cancelled"
    assert state["x_counts"]["succeeded"] == desk.count("answers.jsonl") == simulator.stats["completions"]
    failed = desk.run("results", batch, "--failed").lines
    assert {line["error"]["code"] for line in failed} == {"batch_cancelled"}
    assert len(failed) + desk.count("answers.jsonl") == 300


def test_failed_lines_are_tried_again_as_a_batch_of_their_own(desk: Desk, simulator: SimulatorProcess) -> None:
    simulator.reset(models={"openai/*": {"rates": {"403_moderation": 1.0}}})
    desk.write("prompts.jsonl", 20)
    assert desk.run("run", "prompts.jsonl").code == 1
    (batch,) = json.loads(desk.run("status", "--json").out)
    assert (batch["status"], batch["request_counts"]["failed"]) == ("completed", 10)

    simulator.reset()
    retried = desk.run("retry", batch["id"])
    assert retried.out.count("\n") == 1
    again = retried.out.strip()
    assert desk.run("retry", batch["id"]).out.strip() == again
    worker = desk.start("worker")
    assert desk.run("results", again, "-f", "-o", "again.jsonl").code == 0
    interrupt(worker, signal.SIGTERM)
    assert set(desk.ids("again.jsonl")) == set(values(desk.read("prompts.errors.jsonl"), "custom_id"))


@pytest.mark.parametrize("command", ["status", "results", "cancel", "retry"])
def test_a_batch_that_is_not_there_is_said_in_one_line(desk: Desk, command: str) -> None:
    missing = desk.run(command, "batch_nowhere")
    assert missing.code == 2
    assert missing.err.strip() == (
        "batchmill: no batch 'batch_nowhere' here; `batchmill status` lists those that there are"
    )


def test_check_says_what_is_well_and_what_is_not(desk: Desk) -> None:
    good = desk.run("check", "--json")
    checks = {check["name"]: check["level"] for check in json.loads(good.out)["checks"]}
    assert good.code == 0
    assert checks["redis"] == checks["eviction"] == checks["persistence"] == checks["key"] == "ok"
    bad = desk.run("check", "--redis", "redis://127.0.0.1:1/0")
    assert bad.code == 2
    assert "can't be reached" in bad.out


def test_check_warns_of_an_extra_that_is_wanted_and_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        tracing=TracingSettings(endpoint="http://collector.test:4318"), archive=ArchiveSettings(kind="file")
    )
    assert [found.level for found in findings.extras(settings)] == [Level.OK, Level.OK]
    monkeypatch.setattr(findings, "_is_here", lambda _: False)
    traces, archive = findings.extras(settings)
    assert (traces.level, archive.level) == (Level.WARN, Level.WARN)
    assert "batchmill[otel]" in traces.message
    assert "batchmill[archive]" in archive.message
    assert findings.extras(Settings()) == []


def test_check_warns_of_a_webhook_that_can_not_be_signed(desk: Desk) -> None:
    hook = '[[webhooks]]\nname = "ops"\nurl = "https://hooks.test/x"\nsecret_env = "HOOK_SECRET"\n'
    (desk.folder / "batchmill.toml").write_text(hook)
    desk.environ["BATCHMILL_CONFIG"] = "batchmill.toml"
    for secret, level, words in (
        ("", "warn", "ops: HOOK_SECRET is not set here"),
        ("short", "warn", "ops: HOOK_SECRET holds no secret"),
        ("whsec_" + "QUJD" * 8, "ok", "1, and their secrets are set here"),
    ):
        desk.environ["HOOK_SECRET"] = secret
        told = desk.run("check", "--json")
        (found,) = [check for check in json.loads(told.out)["checks"] if check["name"] == "webhooks"]
        assert (told.code, found["level"]) == (0, level)
        assert words in found["message"]


def test_settings_that_are_wrong_are_said_in_one_line(desk: Desk) -> None:
    (desk.folder / "batchmill.toml").write_text("[worker]\nconcurency = 5\n")
    desk.write("prompts.jsonl", 1)
    refused = desk.run("run", "prompts.jsonl", "--config", "batchmill.toml")
    assert refused.code == 2
    assert "worker.concurency" in refused.err
    assert "did you mean 'concurrency'" in refused.err


@pytest.mark.parametrize("command", [None, *cli.commands])
def test_help_is_everywhere(desk: Desk, command: str | None) -> None:
    told = desk.run(*([command] if command else []), "--help")
    assert told.code == 0
    assert "Usage: batchmill" in told.out
    assert command is None or f"batchmill {command}" in told.out


def test_a_command_that_is_none_is_a_wrong_use(desk: Desk) -> None:
    wrong = desk.run("rnu")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "see `batchmill --help`" in wrong.err
    option = desk.run("run", "prompts.jsonl", "--limit", "none")
    assert (option.code, option.err.count("\n")) == (2, 1)
    assert "--limit" in option.err
    assert "see `batchmill run --help`" in option.err
    assert "Usage: batchmill" in desk.run().err
    assert desk.run("--version").out.startswith("batchmill")


def test_a_batch_may_name_fallbacks_and_a_strategy(desk: Desk) -> None:
    desk.write("prompts.jsonl", 2)
    plain = desk.run("submit", "prompts.jsonl").out
    wishes = ("--fallback", "openai/gpt-4o", "--fallback", "openai/gpt-4o-mini", "--strategy", "cost")
    routed = desk.run("submit", "prompts.jsonl", *wishes)
    assert routed.code == 0
    assert routed.out != plain
    assert desk.run("submit", "prompts.jsonl", *wishes).out == routed.out
    wrong = desk.run("submit", "prompts.jsonl", "--fallback", "auto")
    assert wrong.code != 0
    assert "can't be a fallback" in wrong.err
    assert "cost" in desk.run("submit", "prompts.jsonl", "--strategy", "cheap").err
