"""Runs that are broken off, and what the same command does afterwards."""

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import psutil
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from batchmill.cli import attendance
from batchmill.store.errors import StoreError

from .cli_helpers import Desk, SimulatorProcess, desk, ended, interrupt, shared_simulator, simulator, values, wait_until

__all__ = ["desk", "shared_simulator", "simulator"]

LINES = 400
SLOW = "uniform:60:120"


def begun(desk: Desk, simulator: SimulatorProcess, *options: str) -> "subprocess.Popen[str]":
    """Start a run of many slow lines, and wait until some results are in the file."""
    simulator.reset(latency_ms=SLOW)
    desk.write("prompts.jsonl", LINES)
    process = desk.start("run", "prompts.jsonl", "--concurrency", "20", *options)
    wait_until(lambda: desk.count("prompts.results.jsonl") > 40, "results land")
    return process


def test_ctrl_c_lets_land_what_is_in_the_air_and_says_how_to_come_back(desk: Desk, simulator: SimulatorProcess) -> None:
    left = interrupt(begun(desk, simulator))

    assert left.code == 130
    assert "Detached" in left.err
    assert "run the same command again" in left.err
    done = desk.count("prompts.results.jsonl")
    assert 40 < done < LINES
    assert simulator.stats["completions"] == done

    simulator_calls = simulator.stats["requests"]
    again = desk.run("run", "prompts.jsonl")
    assert again.code == 0
    assert f"already has {done} of {LINES} results" in again.err
    assert sorted(desk.ids("prompts.results.jsonl")) == sorted(f"line-{number}" for number in range(LINES))
    assert simulator.stats["requests"] == simulator_calls + LINES - done
    assert simulator.stats["answered_twice"] == 0


def test_sigterm_is_a_detach_too(desk: Desk, simulator: SimulatorProcess) -> None:
    assert interrupt(begun(desk, simulator), signal.SIGTERM).code == 130


def test_kill_minus_nine_loses_nothing_that_was_recorded(desk: Desk, simulator: SimulatorProcess) -> None:
    process = begun(desk, simulator)
    workers = [child.pid for child in psutil.Process(process.pid).children()]
    process.kill()
    process.communicate()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in workers), "the orphaned workers are gone")
    kept = desk.ids("prompts.results.jsonl")

    again = desk.run("run", "prompts.jsonl")

    assert again.code == 0
    assert "already has" in again.err
    ids = desk.ids("prompts.results.jsonl")
    assert sorted(ids) == sorted(f"line-{number}" for number in range(LINES))
    assert set(kept) <= set(ids)
    assert simulator.stats["answered_twice"] == 0, "orphans drain, so nothing is sent twice"


def test_killing_everything_at_once_costs_only_what_was_in_the_air(desk: Desk, simulator: SimulatorProcess) -> None:
    """A power cut: the command, its workers and the server at one moment."""
    process = begun(desk, simulator)
    server = int((desk.folder / "data" / "redis.pid").read_text())
    workers = [child.pid for child in psutil.Process(process.pid).children()]
    for pid in (process.pid, *workers, server):
        os.kill(pid, signal.SIGKILL)
    process.communicate()

    again = desk.run("run", "prompts.jsonl")

    assert again.code == 0
    assert sorted(desk.ids("prompts.results.jsonl")) == sorted(f"line-{number}" for number in range(LINES))
    assert simulator.stats["answered_twice"] < 60


def test_a_server_that_is_away_for_a_while_costs_time_and_nothing_else(desk: Desk, simulator: SimulatorProcess) -> None:
    process = begun(desk, simulator)
    data = desk.folder / "data"
    with (data / "start.lock").open("ab") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)  # nobody can start the server again
        os.kill(int((data / "redis.pid").read_text()), signal.SIGKILL)
        (log,) = (data / "logs").iterdir()
        wait_until(lambda: "redis.away" in log.read_text(), "the workers have given up waiting for an answer")

    left = ended(process)

    assert left.code == 0, left.err
    assert sorted(desk.ids("prompts.results.jsonl")) == sorted(f"line-{number}" for number in range(LINES))
    assert simulator.stats["answered_twice"] == 0


async def test_an_outage_does_not_end_the_watch_over_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([StoreError("Redis can't be reached any more"), RedisConnectionError()])
    waiting = mock.Mock(pending=1, running=0, upstream="simulator")
    batch = mock.AsyncMock(status=lambda: _next_of(answers, waiting))
    monkeypatch.setattr(attendance, "account_refusal", mock.AsyncMock(return_value="no credits"))
    monkeypatch.setattr(attendance, "_START_UP", 0)
    monkeypatch.setattr(attendance, "_LOOK_EVERY", 0)
    assert await attendance._until_stuck(batch, mock.Mock(), mock.Mock()) == attendance.Ended(
        attendance.Ending.REFUSED, "no credits"
    )


async def _next_of(errors: Iterator[Exception], otherwise: object) -> object:
    for error in errors:
        raise error
    return otherwise


def test_a_refused_account_ends_the_run_and_keeps_the_batch(desk: Desk, simulator: SimulatorProcess) -> None:
    simulator.reset(rates={"402_credits": 1.0})
    desk.write("prompts.jsonl", 30)

    refused = desk.run("run", "prompts.jsonl")
    assert refused.code == 4
    assert "the upstream refuses the account" in refused.err
    assert "Insufficient credits" in refused.err

    simulator.reset()
    assert desk.run("run", "prompts.jsonl").code == 0
    assert desk.count("prompts.results.jsonl") == 30


def test_a_wrong_key_is_told_without_showing_it(desk: Desk, simulator: SimulatorProcess) -> None:
    desk.environ["OPENROUTER_API_KEY"] = "sk-or-v1-invalid"
    desk.write("prompts.jsonl", 5)
    refused = desk.run("run", "prompts.jsonl")
    assert refused.code == 4
    assert "sk-or-v1-invalid" not in refused.out + refused.err
    assert desk.run("check").code == 4


def test_a_reader_that_goes_away_ends_the_command_quietly(desk: Desk) -> None:
    desk.write("prompts.jsonl", 300)
    batch = desk.run("submit", "prompts.jsonl").out.strip()
    desk.run("cancel", batch)
    process = desk.start("results", batch, "--failed")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    assert "Traceback" not in ended(process).err


def test_a_run_can_be_watched_and_fetched_from_elsewhere(desk: Desk, simulator: SimulatorProcess) -> None:
    process = begun(desk, simulator)
    (status,) = json.loads(desk.run("status", "--json").out)
    assert status["status"] == "in_progress"
    assert status["x_counts"]["running"] > 0
    assert sum(status["x_counts"].values()) == LINES
    fetched = desk.run("results", status["id"], "--follow", "--simple", "-o", "copy.jsonl")
    assert (ended(process).code, fetched.code) == (0, 0)
    assert desk.count("copy.jsonl") == LINES


@pytest.mark.parametrize("place", ["no/such/folder/out.jsonl", "prompts.jsonl", "data"])
def test_a_place_for_results_that_can_not_be_is_said_before_anything_is_sent(
    desk: Desk, simulator: SimulatorProcess, place: str
) -> None:
    desk.write("prompts.jsonl", 3)
    refused = desk.run("run", "prompts.jsonl", "-o", place)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert simulator.stats["requests"] == 0
    assert len(desk.read("prompts.jsonl")) == 3


def test_results_of_an_interrupted_run_are_sorted_at_its_end(desk: Desk, simulator: SimulatorProcess) -> None:
    interrupt(begun(desk, simulator, "--ordered"))
    numbers = [int(name.removeprefix("line-")) for name in desk.ids("prompts.results.jsonl")]
    assert numbers == sorted(numbers)
    assert values(desk.read("prompts.results.jsonl"), "error") == [None] * len(numbers)
    assert not list(Path(desk.folder).glob(".*.sorted"))
