"""`batchmill config`, what `batchmill check` says of the key, and the defaults for lines that leave things open."""

import json
import tomllib
from decimal import Decimal
from typing import Any

import jsonschema
import pytest

from batchmill.cli.account_findings import Known, examine_account
from batchmill.cli.finding import Finding, Level
from batchmill.config.settings import Settings
from batchmill.openrouter.wire import FreeRequests, KeyBudget, KeyInfo
from batchmill.store.account import Account
from batchmill.store.gauges import Pause

from .cli_helpers import MODELS, Desk, desk, shared_simulator

__all__ = ["desk", "shared_simulator"]


def test_config_shows_each_value_and_its_source(desk: Desk) -> None:
    (desk.folder / "batchmill.toml").write_text("[worker]\nconcurrency = 7\n")
    shown = desk.run("config", "show", "--json", "--config", "batchmill.toml")
    found: dict[str, dict[str, Any]] = {one["key"]: one for one in json.loads(shown.out)}
    assert found["worker.concurrency"] == {
        "key": "worker.concurrency",
        "value": 7,
        "source": "file",
        "where": "batchmill.toml:2",
    }
    assert (found["api_key"]["value"], found["api_key"]["where"]) == ("***", "OPENROUTER_API_KEY")
    assert found["upstream.base_url"]["source"] == "environment"
    table = desk.run("config", "show", "--sources", "--config", "batchmill.toml").out
    assert any(line.split() == ["worker.concurrency", "7", "file:", "batchmill.toml:2"] for line in table.splitlines())
    assert desk.environ["OPENROUTER_API_KEY"] not in shown.out + table


def test_config_alone_shows_the_settings(desk: Desk) -> None:
    alone = desk.run("config")
    assert alone.code == 0
    assert alone.out == desk.run("config", "show").out


def test_config_init_writes_no_file_twice_unless_forced(desk: Desk) -> None:
    assert desk.run("config", "init").code == 0
    path = desk.folder / "batchmill.toml"
    first = path.read_text()
    path.write_text("[worker]\n")
    again = desk.run("config", "init")
    assert again.code == 2
    assert again.err.strip() == "batchmill: batchmill.toml is there already; --force writes over it"
    assert path.read_text() == "[worker]\n"
    assert desk.run("config", "init", "--force").code == 0
    assert path.read_text() == first
    assert desk.run("config", "init", "nowhere/x.toml").code == 2


def test_config_schema_checks_what_init_wrote(desk: Desk) -> None:
    schema = json.loads(desk.run("config", "schema").out)
    desk.run("config", "init", "own.toml")
    jsonschema.Draft202012Validator(schema).validate(tomllib.loads((desk.folder / "own.toml").read_text()))


def test_settings_that_are_wrong_end_config_show(desk: Desk) -> None:
    (desk.folder / "batchmill.toml").write_text("[worker]\nconcurency = 5\n")
    refused = desk.run("config", "show", "--config", "batchmill.toml")
    assert refused.code == 2
    assert "did you mean 'concurrency'" in refused.err


def test_lines_that_leave_model_and_limit_open_take_the_defaults(desk: Desk) -> None:
    (desk.folder / "batchmill.toml").write_text(f'[input]\ndefault_model = "{MODELS[0]}"\ndefault_max_tokens = 9\n')
    (desk.folder / "prompts.txt").write_text("one\n")
    asked = {"own.jsonl": (), "told.jsonl": ("-m", MODELS[1], "--max-tokens", "4")}
    for out, options in asked.items():
        assert desk.run("run", "prompts.txt", "--config", "batchmill.toml", "-o", out, *options).code == 0
    (own,), (told,) = (desk.read(out) for out in asked)
    answers = [line["response"]["body"] for line in (own, told)]
    assert [answer["model"] for answer in answers] == [MODELS[0], MODELS[1]]
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [9, 4]


def test_check_with_simulate_asks_a_simulator(desk: Desk) -> None:
    told = desk.run("check", "--simulate", "--json")
    assert told.code == 0
    checks = {check["name"]: check["message"] for check in json.loads(told.out)["checks"]}
    assert "valid at simulator" in checks["key"]
    assert checks["free models"] == "1,000 of 1,000 requests left today (UTC)"


SPENT = KeyInfo(
    limit=Decimal(10),
    limit_remaining=Decimal("-0.25"),
    limit_reset="monthly",
    usage_daily=Decimal("1.5"),
    budgets=[KeyBudget("workspace", Decimal(20), Decimal(5), Decimal(15), "daily", "2099-01-01T00:00:00Z")],
    free_model_daily_requests=FreeRequests(12, 1000, 988),
    expires_at="2099-01-01T00:00:00Z",
)


@pytest.fixture
def away(settings: Settings) -> Settings:
    """Settings whose upstream is not there."""
    return settings


async def test_what_a_worker_was_told_is_shown_when_the_upstream_is_away(away: Settings) -> None:
    found: list[Finding] = []
    pauses = (Pause("refused", 4_070_908_800_000, "key_limit_reached: spent"),)
    known = Known(Account(SPENT, 1, "no answer in time", 2), 90.0, pauses)
    assert not await examine_account(away, known, found)
    said = {(one.name, one.level): one.message for one in found}
    assert "can't be used now" in said["key", Level.FAIL]
    assert said["key", Level.OK].endswith("as of 1:30 ago, from a worker's look")
    assert said["key limit", Level.OK] == "$10.00 (monthly), -$0.25 remaining"
    assert said["key usage", Level.OK] == "$1.50 today"
    budget = "workspace budget of $20.00 (daily), $15.00 remaining, resets 2099-01-01T00:00:00Z"
    assert said["budget", Level.OK] == budget
    assert said["free models", Level.OK] == "988 of 1,000 requests left today (UTC)"
    assert said["key expiry", Level.OK] == "2099-01-01T00:00:00Z"
    assert said["stopped", Level.WARN] == "the API key's own limit of $10.00 (monthly) is spent"
    assert said["parked", Level.WARN].startswith("refused until 2099-01-01 ")
    assert said["fleet", Level.WARN] == "a worker's last look at the key failed: no answer in time"


async def test_without_redis_the_key_is_asked_all_the_same(away: Settings) -> None:
    found: list[Finding] = []
    assert not await examine_account(away, None, found)
    assert [(one.name, one.level) for one in found] == [("key", Level.FAIL)]
