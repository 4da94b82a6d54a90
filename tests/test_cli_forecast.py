"""`batchmill spend forecast`: what people read, and what programs do."""

import json
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

import pytest

from batchmill.cli.forecast_views import print_forecast
from batchmill.spend.forecast import forecast
from batchmill.spend.ledger import Rollup
from batchmill.spend.method import method
from batchmill.spend.queue import QueuedLines
from batchmill.store import ledger

from .cli_helpers import MODELS, Desk, desk, shared_simulator
from .forecast_helpers import MODEL, NOON, budget, days, dollars, listed, rollup

__all__ = ["desk", "shared_simulator"]

CONFIG = '[[budgets]]\nname = "monthly"\nlimit_usd = 1\nwindow = "month"\n'
CONFIG += '[[budgets]]\nname = "evals"\nlimit_usd = 1000\nproject = "evals"\n'


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten dollars on each of the last 28 days, four of them for evals."""

    async def rollups(_redis: Any, _upstream: str, first: str, last: str) -> list[Rollup]:
        assert first < last
        today = date.fromisoformat(last)
        before = [today - timedelta(days=back) for back in range(28, 0, -1)]
        return [
            rollup(day, usd, project=project) for day in before for project, usd in (("default", 6.0), ("evals", 4.0))
        ]

    monkeypatch.setattr(ledger, "rollups", rollups, raising=False)


def shown(capsys: pytest.CaptureFixture[str], rollups: list[Rollup], *queued: QueuedLines) -> str:
    print_forecast(forecast(rollups, queued, [budget(265, 230), budget(0)], NOON), as_json=False)
    return capsys.readouterr().out


@pytest.mark.usefixtures("spent")
def test_a_queue_and_budgets_are_foreseen(desk: Desk) -> None:
    (desk.folder / "batchmill.toml").write_text(CONFIG)
    desk.environ["BATCHMILL_CONFIG"] = "batchmill.toml"
    desk.write("first.jsonl", 1)
    assert desk.run("run", "first.jsonl").code == 0  # which puts the policy in force
    desk.write("prompts.jsonl", 6, marker="?")
    assert desk.run("submit", "prompts.jsonl").code == 0
    ended = desk.run("spend", "forecast", "--json")
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert [period["period"] for period in told["periods"]] == ["day", "week", "month"]
    assert told["pace"] | {"weekday_percent": 0} == {
        "basis": "days", "days": 28, "daily_usd": 10, "weekly_change_usd": 0, "weekday_percent": 0,
    }  # fmt: skip
    assert sorted((each["lane"], each["lines"]) for each in told["queue"]) == sorted((model, 3) for model in MODELS)
    monthly, evals = told["budgets"]
    assert (monthly["outlook"], monthly["over_budget"], monthly["spent_usd"] < 1) == ("exceeds", True, True)
    assert told["at"] < monthly["runs_out_at"] < monthly["ends_at"]
    assert (evals["outlook"], evals["projected_usd"], evals["ends_at"]) == ("holds", None, None)
    assert evals["runs_out_by"] == "pace"


@pytest.mark.usefixtures("spent")
def test_a_project_alone(desk: Desk) -> None:
    told = json.loads(desk.run("spend", "forecast", "--project", "evals", "--json").out)
    assert (told["pace"]["daily_usd"], told["budgets"], told["queue"]) == (4, [], [])
    assert told["periods"][0]["spent_usd"] == 0
    before = json.loads(desk.run("spend", "--project", "evals", "--json", "forecast").out)
    assert before["pace"] == told["pace"]


def test_tables_and_the_method_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    table = shown(capsys, days(lambda _: 10.0, 28))
    assert "month 2026-11" in table
    assert "over budget" in table
    assert "by the pace" in table
    assert "exhausted" in table
    assert "Pace: $10.0000 a day lately, from 28 whole days" in table
    assert "Trend: none" in table
    assert "Queue: no lines wait." in table


def test_a_trend_and_a_queue_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = QueuedLines(batch="b", project="p", lane=MODEL, lines=5, observed=Fraction(dollars(1)))
    unknown = QueuedLines(batch="b", project="p", lane="m", lines=1, models=("m",))
    table = shown(capsys, days(lambda day: 0.0 + day.toordinal() - 739_500, 28), lines, unknown)
    assert "Trend: $7.0000 more a week, as in each of the last 4." in table
    assert "Queue: 5 lines, about $5.0000, by what lines of the same batch cost." in table
    assert "Queue: 1 line of which nobody knows what they cost; counted as nothing." in table
    assert "as if they all ran at once" in table


def test_how_little_is_known_is_said() -> None:
    assert "unknown" in next(iter(method(forecast([], [], (), NOON))))
    assert "no whole day yet" in next(iter(method(forecast(listed([], today=3.0), [], (), NOON))))
