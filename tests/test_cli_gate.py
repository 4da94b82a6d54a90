"""The operator's commands: budgets, limits, breakers, pause and resume."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from batchmill.cli.main import cli
from batchmill.config.urls import normalized_url
from batchmill.store import keys
from batchmill.store.audit import Entry, entries
from batchmill.store.connection import connect
from batchmill.store.policy import live

from .cli_helpers import MODELS, Desk, desk, interrupt, shared_simulator, wait_until

__all__ = ["desk", "shared_simulator"]

CONFIG = """
[[budgets]]
name = "daily"
limit_usd = 5
window = "day"

[[budgets]]
name = "evals"
limit_usd = 0.5
models = ["openai/*", "local/*"]
project = "evals"

[[limits]]
name = "openai"
match = "openai/*"
requests_per_minute = 6000
max_concurrency = 50
"""
MODEL = MODELS[0]


@pytest.fixture
def upstream(desk: Desk) -> str:
    return normalized_url(desk.environ["BATCHMILL_BASE_URL"])


@pytest.fixture
def fleet_ran(desk: Desk) -> None:
    """A policy is in force and both models have a lane."""
    (desk.folder / "batchmill.toml").write_text(CONFIG)
    desk.environ["BATCHMILL_CONFIG"] = "batchmill.toml"
    desk.write("prompts.jsonl", 4)
    assert desk.run("run", "prompts.jsonl").code == 0


def listed(desk: Desk, *arguments: str) -> list[dict[str, Any]]:
    """Return the list of objects that a command prints."""
    found: list[dict[str, Any]] = json.loads(desk.run(*arguments).out)
    return found


def in_redis(desk: Desk, *command: str | int) -> Any:
    """Say something to the server of the desk."""

    async def say() -> Any:
        client = connect(desk.redis_url)
        try:
            return await client.execute_command(*command)
        finally:
            await client.aclose()

    return asyncio.run(say())


def audited(desk: Desk, upstream: str) -> list[Entry]:
    async def look() -> list[Entry]:
        client = connect(desk.redis_url)
        try:
            return await entries(client, upstream, 99)
        finally:
            await client.aclose()

    return asyncio.run(look())


def add_suspect(desk: Desk, upstream: str, hold: str, amount: int) -> None:
    told = {
        "amount": amount,
        "batch": "batch_1",
        "index": 3,
        "model": MODEL,
        "generation": "gen-1",
        "at": 1_700_000_000_000,
        "budgets": [],
    }
    in_redis(desk, "HSET", keys.suspects(upstream), hold, msgspec.json.encode(told).decode())


def test_without_any_there_is_a_word_on_how_to_have_one(desk: Desk) -> None:
    assert "[[budgets]]" in desk.run("budgets").out
    assert desk.run("budgets", "--json").out == "[]\n"
    assert "no suspects" in desk.run("budgets", "suspects").out
    assert "all breakers are closed" in desk.run("breakers").out
    assert "free" in desk.run("limits").out


@pytest.mark.usefixtures("fleet_ran")
def test_budgets_are_shown_with_what_they_are_for(desk: Desk) -> None:
    table = desk.run("budgets").out
    assert "day, UTC" in table
    assert "all models" in table
    assert "openai/*, local/* of evals" in table
    daily, evals = listed(desk, "budgets", "--json")
    assert (daily["name"], daily["limit_usd"], daily["window"], daily["timezone"]) == ("daily", 5, "day", "UTC")
    assert daily["resets_at"] % 86_400 == 0
    assert (evals["project"], evals["resets_at"], evals["declared_usd"]) == ("evals", None, None)


@pytest.mark.usefixtures("fleet_ran")
def test_a_raise_is_in_force_at_once_and_survives_the_next_run(desk: Desk, upstream: str) -> None:
    raised = desk.run("budgets", "raise", "evals", "$1,000.50")
    assert raised.code == 0
    assert "evals: raised from $0.5000 to $1,000.50" in raised.err
    assert "budget evals (total): $0.000000 spent of $1,000.50, $1,000.50 free" in raised.err
    assert desk.run("run", "prompts.jsonl", "--fresh").code == 0
    (evals,) = [budget for budget in listed(desk, "budgets", "--json") if budget["name"] == "evals"]
    assert (evals["limit_usd"], evals["declared_usd"]) == (1000.5, 0.5)
    assert "(file: $0.5000)" in desk.run("budgets").out
    assert "evals: lowered from" in desk.run("budgets", "raise", "evals", "0.25").err
    assert [entry.what for entry in audited(desk, upstream)][:2] == ["budget.lowered", "budget.raised"]


@pytest.mark.usefixtures("fleet_ran")
def test_a_raise_brings_back_what_was_parked_for_a_budget(desk: Desk, upstream: str) -> None:
    parked = keys.parked(upstream, MODEL)
    in_redis(desk, "ZADD", parked, 9 * 10**15, "batch_1")
    limits = {budget["name"]: budget["limit_usd"] for budget in listed(desk, "budgets", "--json")}
    assert desk.run("budgets", "raise", "evals", str(limits["evals"])).code == 0  # to what it is: others count on it
    assert float(in_redis(desk, "ZSCORE", parked, "batch_1")) == 0
    in_redis(desk, "DEL", parked)


@pytest.mark.usefixtures("fleet_ran")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("raise", "evls", "3"), "no budget 'evls' here; did you mean 'evals'?"),
        (
            ("raise", "batch_1", "3"),
            "no budget 'batch_1' here; a batch has one when it was submitted with --max-cost, and",
        ),
        (("raise", "evals", "much"), "'much' is no amount of dollars"),
        (("raise", "evals", "-3"), "--help`"),
        (("raise", "evals", "1e9"), "the limit must be a number of dollars from 0 to 9,000,000"),
        (("release",), "name suspects, or say --all"),
        (("release", "x", "--all"), "name suspects, or say --all"),
        (("release", "x", "--yes"), "no suspect 'x' here"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line(desk: Desk, arguments: tuple[str, ...], said: str) -> None:
    refused = desk.run("budgets", *arguments)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert said in refused.err


def test_suspects_are_freed_by_explicit_command_only(desk: Desk, upstream: str) -> None:
    add_suspect(desk, upstream, "h1", 2_000_000_000)
    add_suspect(desk, upstream, "h2", 500_000_000)
    table = desk.run("budgets", "suspects")
    assert "$2.0000" in table.out
    assert "gen-1" in table.out
    assert "2 suspects, $2.5000 in all" in table.err
    assert [suspect["amount_usd"] for suspect in listed(desk, "budgets", "suspects", "--json")] == [2, 0.5]

    asked = desk.run("budgets", "release", "--all")
    assert asked.code == 2
    assert "2 suspects, $2.5000 in all may have been billed; --yes" in asked.err
    assert len(listed(desk, "budgets", "suspects", "--json")) == 2
    assert "freed: 1 suspect, $0.5000 in all" in desk.run("budgets", "release", "h2", "--yes").err
    assert "freed: 1 suspect, $2.0000 in all" in desk.run("budgets", "release", "--all", "--yes").err
    assert "freed: 0 suspects" in desk.run("budgets", "release", "--all", "--yes").err


def test_restored_books_are_accepted(desk: Desk, upstream: str) -> None:
    in_redis(desk, "HSET", keys.books(upstream), "alarm", '{"known":"one","seen":7,"found":3}')
    accepted = desk.run("budgets", "accept-restored")
    assert (accepted.code, accepted.err.count("\n")) == (0, 1)
    assert in_redis(desk, "HGET", keys.books(upstream), "alarm") is None


@pytest.mark.usefixtures("fleet_ran")
def test_limits_show_their_buckets(desk: Desk, upstream: str) -> None:
    in_redis(desk, "HSET", keys.limit(upstream, "openai", MODEL), "in_air", 7, "requests", -60_000, "at", 10**14)
    in_redis(desk, "HSET", keys.pauses(upstream), MODEL, "-1|429: slow down")
    table = desk.run("limits").out
    assert "-1 of 600 (+6,000/min)" in table
    assert "7 of 50" in table
    assert f"{MODEL} until resumed: 429: slow down" in table
    assert "2 of 2 (+20/min)" in table, "the free models' own"
    (openai,) = [limit for limit in listed(desk, "limits", "--json") if limit["name"] == "openai"]
    assert (openai["scope"], openai["in_air"], openai["requests_now"]) == (MODEL, 7, -1)
    assert openai["pauses"] == [{"scope": MODEL, "until_ms": None, "reason": "429: slow down"}]


@pytest.mark.usefixtures("fleet_ran")
def test_a_breaker_is_tripped_and_reset(desk: Desk, upstream: str) -> None:
    assert f"batchmill breakers reset {MODEL}" in desk.run("breakers", "trip", MODEL).err
    assert "open by operator, until reset" in desk.run("breakers").out
    (shown,) = [found for found in listed(desk, "breakers", "--json") if found["state"] != "closed"]
    assert (shown["model"], shown["state"], shown["tripped_by"]) == (MODEL, "open", "operator")
    assert "is closed" in desk.run("breakers", "reset", MODEL).err
    assert "was already closed" in desk.run("breakers", "reset", MODEL).err
    unknown = desk.run("breakers", "trip", "openai/gpt-4o-mni")
    assert unknown.code == 2
    assert f"did you mean '{MODEL}'" in unknown.err
    done = [(entry.what, entry.detail["model"]) for entry in audited(desk, upstream)[:3]]
    assert done == [("breaker.reset", MODEL)] * 2 + [("breaker.tripped", MODEL)]


def test_a_model_is_paused_and_resumed(desk: Desk, upstream: str) -> None:
    assert f"batchmill resume {MODEL}" in desk.run("pause", MODEL, "--reason", "odd answers").err
    assert ": odd answers" in desk.run("breakers").out
    in_redis(desk, "HSET", keys.pauses(upstream), "account", "-1|no credits")
    resumed = desk.run("resume", MODEL)
    assert f"{MODEL} goes on" in resumed.err
    assert "it still waits until resumed: no credits" in resumed.err
    assert "was not paused" in desk.run("resume", MODEL).err
    assert "@" in audited(desk, upstream)[0].who


def test_who_changed_what_can_be_read(desk: Desk) -> None:
    assert "nobody changed anything" in desk.run("audit").out
    desk.run("pause", MODEL, "--reason", "odd answers")
    desk.run("resume", MODEL)
    table = desk.run("audit").out
    assert table.index("model.resumed") < table.index("model.paused") < table.index("odd answers")
    (newest,) = listed(desk, "audit", "--json", "-n", "1")
    assert (newest["what"], newest["detail"]) == ("model.resumed", {"model": MODEL})


def test_the_simulator_has_books_of_its_own(desk: Desk) -> None:
    desk.run("pause", MODEL, "--simulate")
    assert listed(desk, "breakers", "--json") == []
    assert len(listed(desk, "breakers", "--json", "--simulate")) == 1
    assert "goes on" in desk.run("resume", MODEL, "--simulate").err


def test_options_may_stand_before_a_subcommand(desk: Desk) -> None:
    nowhere = ("--redis", "redis://127.0.0.1:1/0")
    for arguments in (("budgets", *nowhere, "suspects"), ("budgets", "suspects", *nowhere)):
        refused = desk.run(*arguments)
        assert refused.code == 2
        assert "127.0.0.1:1" in refused.err


@pytest.mark.parametrize(
    "command", [("budgets", name) for name in ("raise", "suspects", "release", "accept-restored")]
    + [("breakers", name) for name in ("trip", "reset")],
)  # fmt: skip
def test_subcommands_have_help(desk: Desk, command: tuple[str, str]) -> None:
    told = desk.run(*command, "--help")
    assert told.code == 0
    assert f"Usage: batchmill {' '.join(command)}" in told.out
    assert command[0] in cli.commands


def test_a_worker_puts_its_file_in_force_and_every_change_of_it(desk: Desk, upstream: str) -> None:
    file = desk.folder / "batchmill.toml"
    file.write_text(CONFIG)
    worker = desk.start("worker", "--config", "batchmill.toml")

    def limit_is(usd: float) -> Callable[[], bool]:
        async def look() -> bool:
            client = connect(desk.redis_url)
            try:
                budgets = (await live(client, upstream)).policy.budgets
                return bool(budgets) and float(budgets[0].limit_usd) == usd
            finally:
                await client.aclose()

        return lambda: asyncio.run(look())

    wait_until(limit_is(5), "the file is in force")
    file.write_text(CONFIG.replace("limit_usd = 5", "limit_usd = 7"))
    wait_until(limit_is(7), "its change is in force")
    assert interrupt(worker).code == 0
