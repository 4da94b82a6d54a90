"""`batchmill spend` and `batchmill spend export`, with a ledger whose records are known."""

import csv
import io
import json
from decimal import Decimal

import pytest

from batchmill.spend.ledger import Source

from .cli_helpers import Desk, desk, shared_simulator
from .spend_helpers import MODELS, record, told_by_the_ledger

__all__ = ["desk", "shared_simulator"]

RECORDS = [
    record("h1", cost=15 * 10**8, prompt_tokens=900, completion_tokens=100, tags=("team=search",), provider="OpenAI"),
    record("h2", day=2, cost=500_000_000, model=MODELS[1], project="evals", batch="batch_2"),
    record("h3", day=2, cost=7_000_000, source=Source.SUSPECT, outcome="lost"),
]  # fmt: skip
DAYS = ("--since", "2026-11-01", "--until", "2026-11-03")


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    told_by_the_ledger(monkeypatch, RECORDS)


def test_a_table_with_a_plot(desk: Desk) -> None:
    shown = desk.run("spend", *DAYS)
    assert shown.code == 0
    head, *rows = shown.out.splitlines()
    assert head.split()[:5] == ["model", "cost", "share", "suspect", "requests"]
    assert rows[0].split()[:6] == [MODELS[0], "$1.5000", "75.0", "%", "$0.007000", "2"]
    assert rows[2].split()[:2] == ["total", "$2.0000"]
    assert "2026-11-01 2026-11-03" in rows[-1]
    assert "█" in shown.out


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("project", ["default", "evals"]),
        ("provider", ["OpenAI", "(not told)"]),
        ("day", ["2026-11-01", "2026-11-03"]),
        ("batch", ["batch_1", "batch_2"]),
        ("tag", ["team=search", "(no tag)"]),
    ],
)
def test_json_has_rows_total_and_every_day(desk: Desk, by: str, names: list[str]) -> None:
    told = json.loads(desk.run("spend", *DAYS, "--by", by, "--json").out, parse_float=Decimal)
    assert [row["name"] for row in told["rows"]] == names
    assert (told["total"]["cost_usd"], told["total"]["suspect_usd"]) == (2, Decimal("0.007"))
    assert [day["cost_usd"] for day in told["days"]] == [Decimal("1.5"), 0, Decimal("0.5")]
    assert (told["by"], told["since"], told["until"], told["project"]) == (by, "2026-11-01", "2026-11-03", None)


def test_csv_is_the_rows(desk: Desk) -> None:
    rows = list(csv.DictReader(io.StringIO(desk.run("spend", *DAYS, "--csv").out)))
    assert [(row["name"], row["cost_usd"], row["share"]) for row in rows] == [
        (MODELS[0], "1.5", "0.7500"), (MODELS[1], "0.5", "0.2500"),
    ]  # fmt: skip
    assert (rows[0]["usd_per_request"], rows[0]["usd_per_1k_tokens"], rows[1]["usd_per_1k_tokens"]) == (
        "0.75",
        "1.5",
        "",
    )


def test_one_project_s_spend(desk: Desk) -> None:
    told = json.loads(desk.run("spend", *DAYS, "--project", "evals", "--by", "batch", "--json").out)
    assert [row["name"] for row in told["rows"]] == ["batch_2"]
    assert "nothing was spent for web" in desk.run("spend", *DAYS, "--project", "web").out


def test_a_long_table_says_what_it_leaves_out(desk: Desk) -> None:
    shown = desk.run("spend", *DAYS, "--by", "batch", "-n", "1")
    assert [line.split()[0] for line in shown.out.splitlines()[:3]] == ["batch", "batch_1", "total"]
    assert "$2.0000" in shown.out
    assert shown.err == "1 more rows of $0.5000: -n 2 shows them, or --csv\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("--since", "last week"), "--since"), (("--until", "2026-13-01"), "--until"), (("--json", "--csv"), "not both"),
     (("--by", "user"), "--by")],
)  # fmt: skip
def test_what_can_not_be_asked(desk: Desk, arguments: tuple[str, ...], word: str) -> None:
    ended = desk.run("spend", *arguments)
    assert (ended.code, word in ended.err) == (2, True)


def test_export_writes_what_was_asked_for(desk: Desk) -> None:
    ended = desk.run("spend", "export", "usage.jsonl", "--project", "default")
    assert (ended.code, ended.err) == (0, "usage.jsonl: 2 records\n")
    first, second = map(json.loads, (desk.folder / "usage.jsonl").read_text().splitlines())
    assert (first["at"], first["cost_usd"], first["tags"]) == ("2026-11-01T00:00:00Z", 1.5, ["team=search"])
    assert (second["source"], second["hold"]) == ("suspect", "h3")
    assert desk.run("spend", "export", "no/such/usage.csv").code == 2
    assert ".parquet" in desk.run("spend", "export", "usage.xml").err
