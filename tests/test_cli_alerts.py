"""`batchmill alerts`: a run that uses a budget up leaves alerts behind, which a person acknowledges."""

import json

import pytest
import redis

from .cli_helpers import Desk, desk, interrupt, shared_simulator, wait_until

__all__ = ["desk", "shared_simulator"]

CONFIG = """
[[budgets]]
name = "daily"
limit_usd = 5
window = "day"
models = ["openai/*"]

[alerts]
forecast = false
"""


@pytest.fixture
def alerted(desk: Desk) -> Desk:
    """A run that used 90 % of its budget."""
    desk.write("prompts.jsonl", 4)
    (desk.folder / "batchmill.toml").write_text(CONFIG)
    desk.environ["BATCHMILL_CONFIG"] = "batchmill.toml"
    assert desk.run("run", "prompts.jsonl").code == 0
    spent = json.loads(desk.run("budgets", "--json").out)[0]["spent_usd"]
    assert spent > 0
    assert desk.run("alerts").out.startswith("no alerts that nobody has seen")
    assert desk.run("budgets", "raise", "daily", f"{spent / 0.9:.9f}").code == 0
    _, other = desk.write("more.jsonl", 2, marker="x")
    (desk.folder / "more.jsonl").write_text(json.dumps(other))  # of a model that the budget does not cover
    assert desk.run("run", "more.jsonl").code == 0
    return desk


def test_alerts_are_shown_acknowledged_and_kept(alerted: Desk) -> None:
    (found,) = json.loads(alerted.run("alerts", "--json").out)
    assert (found["kind"], found["level"], found["subject"]) == ("budget.warning", "warning", "daily")
    assert found["amount_usd"] < found["limit_usd"]
    assert found["acknowledged"] is None
    assert "budget daily: $" in alerted.run("alerts").out
    done = alerted.run("alerts", "ack", found["id"])
    assert (done.code, done.err) == (0, "acknowledged: 1\n")
    assert alerted.run("alerts", "ack", found["id"]).err == "acknowledged: 0; 1 were before\n"
    assert alerted.run("alerts", "--json").out == "[]\n"
    (kept,) = json.loads(alerted.run("alerts", "--all", "--json").out)
    assert kept["acknowledged"]["who"]
    assert kept["acknowledged"]["who"] in alerted.run("alerts", "--all").out
    assert "alert.acknowledged" in alerted.run("audit").out


@pytest.mark.parametrize("options", [("--json",), ()])
def test_a_follower_is_told_of_what_is_raised_from_then_on(alerted: Desk, options: tuple[str, ...]) -> None:
    (first,) = json.loads(alerted.run("alerts", "--json").out)
    follower = alerted.start("alerts", "--follow", *options)
    with redis.Redis.from_url(alerted.redis_url) as client:
        wait_until(lambda: client.info("clients")["blocked_clients"] > 0, "the follower listens")
    limit = json.loads(alerted.run("budgets", "--json").out)[0]["spent_usd"] / 0.97
    assert alerted.run("budgets", "raise", "daily", f"{limit:.9f}").code == 0
    _, other = alerted.write("last.jsonl", 2, marker="y")
    (alerted.folder / "last.jsonl").write_text(json.dumps(other))
    assert alerted.run("run", "last.jsonl").code == 0
    wait_until(lambda: len(json.loads(alerted.run("alerts", "--json").out)) > 1, "it is raised")
    new = json.loads(alerted.run("alerts", "--json").out)[:-1]
    assert follower.stdout is not None
    lines = [follower.stdout.readline() for _ in new]
    told = interrupt(follower)
    assert (told.code, told.out) == (130, "")
    assert first["id"] not in "".join(lines)
    if options:
        assert [json.loads(line) for line in lines] == new[::-1]
    else:
        assert all(one["id"] in line and one["text"] in line for one, line in zip(new[::-1], lines, strict=True))


def test_all_are_acknowledged_at_once(alerted: Desk) -> None:
    assert alerted.run("alerts", "ack", "--all").err == "acknowledged: 1\n"
    assert alerted.run("alerts", "ack", "--all").err == "acknowledged: 0\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("alerts", "--all", "--follow"), "say one of them"),
        (("alerts", "ack"), "name alerts, or say --all"),
        (("alerts", "ack", "1-0", "--all"), "name alerts, or say --all"),
        (("alerts", "ack", "1-0"), "no alert '1-0' here; `batchmill alerts --all` lists"),
    ],
)
def test_a_wrong_use_is_told(desk: Desk, arguments: tuple[str, ...], said: str) -> None:
    done = desk.run(*arguments)
    assert done.code != 0
    assert said in done.err


def test_without_any_there_is_a_word(desk: Desk) -> None:
    assert desk.run("alerts", "--all").out == "no alerts yet\n"


def test_work_that_waits_for_a_budget_is_alerted_of(desk: Desk) -> None:
    (desk.folder / "batchmill.toml").write_text(CONFIG.replace("5", "0.0002"))  # room for some of the lines
    desk.environ["BATCHMILL_CONFIG"] = "batchmill.toml"
    desk.write("prompts.jsonl", 120)
    running = desk.start("run", "prompts.jsonl")

    def kinds() -> set[str]:
        return {found["kind"] for found in json.loads(desk.run("alerts", "--json").out)}

    wait_until(lambda: "budget.exhausted" in kinds(), "the budget is known to be exhausted")
    interrupt(running)
