"""`batchmill stream`: what a person and a program see of an answer that is being written."""

import json
from typing import Any

import msgspec

from .cli_helpers import (
    Desk,
    SimulatorProcess,
    desk,
    ended,
    interrupt,
    requests,
    shared_simulator,
    simulator,
    wait_until,
)

__all__ = ["desk", "shared_simulator", "simulator"]


def hand_over(desk: Desk, count: int) -> str:
    """Submit lines that ask for live tokens; return the batch's id."""
    lines = [json.dumps({**line, "body": {**line["body"], "stream_to": True}}) for line in requests(count)]
    (desk.folder / "live.jsonl").write_text("\n".join(lines))
    return desk.run("submit", "live.jsonl").out.strip()


def content_of(desk: Desk, batch_id: str) -> str:
    (line,) = desk.run("results", batch_id, "--simple", "--follow").lines
    return str(line["content"])


def test_the_answer_of_the_only_line_is_printed_as_it_comes(desk: Desk, simulator: SimulatorProcess) -> None:
    simulator.reset(latency_ms="200")
    batch_id = hand_over(desk, 1)
    watching = desk.start("stream", batch_id)
    desk.start("worker")
    done = ended(watching)
    assert (done.code, done.out) == (0, content_of(desk, batch_id) + "\n")
    assert "line-0 succeeded" in done.err
    assert "$0.0" in done.err
    again = desk.run("stream", batch_id, "line-0")
    assert (again.code, again.out) == (0, done.out)


def test_programs_read_events_with_every_chunk_as_it_came(desk: Desk, simulator: SimulatorProcess) -> None:
    simulator.reset(latency_ms="100")
    batch_id = hand_over(desk, 1)
    watching = desk.start("stream", batch_id, "line-0", "--json")
    desk.start("worker")
    lines = ended(watching).lines
    assert [line["event"] for line in lines][:2] == ["started", "text"]
    assert lines[1]["chunk"]["object"] == "chat.completion.chunk"
    assert "".join(line["text"] for line in lines if line["event"] == "text") == content_of(desk, batch_id)
    result = lines[-1]["result"]
    assert (lines[-1]["event"], result["custom_id"], result["response"]["status_code"]) == ("ended", "line-0", 200)
    assert result["x_attempts"][0]["first_token_ms"] >= 0


def test_a_line_that_fails_is_told_by_the_exit_code(desk: Desk, simulator: SimulatorProcess) -> None:
    simulator.reset(rates={"403_moderation": 1.0})
    batch_id = hand_over(desk, 1)
    watching = desk.start("stream", batch_id)
    desk.start("worker")
    done = ended(watching)
    assert done.code == 1
    assert "line-0 failed" in done.err


def test_interrupting_leaves_the_line_alone_unless_cancel_is_said(desk: Desk, simulator: SimulatorProcess) -> None:
    simulator.reset(latency_ms="60000")
    batch_id = hand_over(desk, 1)
    desk.start("worker")
    wait_until(lambda: simulator.stats["in_flight"] == 1, "the call")
    assert interrupt(reading(desk, batch_id)).code == 130
    status = json.loads(desk.run("status", batch_id, "--json").out)
    assert status["status"] == "in_progress"
    assert interrupt(reading(desk, batch_id, "--cancel")).code == 130
    status = json.loads(desk.run("status", batch_id, "--json").out)
    assert status["status"] in ("cancelling", "cancelled")


def reading(desk: Desk, batch_id: str, *options: str) -> Any:
    """Start to watch, and return when the watching has begun."""
    process = desk.start("stream", batch_id, "--json", *options)
    assert msgspec.json.decode(process.stdout.readline())["event"] == "started"  # type: ignore[union-attr]
    return process


def test_which_line_must_be_clear(desk: Desk) -> None:
    batch_id = hand_over(desk, 2)
    done = desk.run("stream", batch_id)
    assert done.code == 2
    assert "2 lines with live tokens; say which by its CUSTOM_ID, e.g. line-0" in done.err
    unknown = desk.run("stream", batch_id, "line-7")
    assert unknown.code == 2
    assert "no line 'line-7' with live tokens" in unknown.err
    assert desk.run("stream", "batch_0").code == 2
