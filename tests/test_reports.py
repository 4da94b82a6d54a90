"""Reports: by hand, as a property, and reckoned over again by DuckDB on what was exported."""

import os
from collections.abc import AsyncIterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.cli.errors import OutputError
from batchmill.cli.spend_files import write_records
from batchmill.cli.spend_views import plot
from batchmill.spend.ledger import Rollup, Source, UsageRecord
from batchmill.spend.period import Period, period_of
from batchmill.spend.reports import COUNTED, UNNAMED, UNTAGGED, BatchReport, By, Report, Row, report_of_rollups, trend

from .spend_helpers import DAY_MS, MODELS, START, counts, history, record, rolled

NOON = START + 10 * DAY_MS + DAY_MS // 2  # of 2026-11-11


def by_batch(records: list[UsageRecord], until_ms: int | None = None) -> Report:
    rows = BatchReport(until_ms=until_ms)
    for one in records:
        rows.take(one)
    return rows.report()


@pytest.mark.parametrize(
    ("since", "until", "first", "last"),
    [
        ("1d", None, "2026-11-11", "2026-11-11"),
        ("7d", None, "2026-11-05", "2026-11-11"),
        ("2026-11-01", None, "2026-11-01", "2026-11-11"),
        ("2d", "2026-03-01", "2026-02-28", "2026-03-01"),
        ("2026-02-01", "2026-02-01", "2026-02-01", "2026-02-01"),
    ],
)
def test_a_period_is_whole_days(since: str, until: str | None, first: str, last: str) -> None:
    period = period_of(since, until, NOON)
    assert period == Period(date.fromisoformat(first), date.fromisoformat(last))
    assert (period.days[0], period.days[-1]) == (first, last)
    assert period.until_ms - period.since_ms == len(period.days) * DAY_MS


@pytest.mark.parametrize(
    ("since", "until"),
    [("0d", None), ("9999d", None), ("yesterday", None), ("2026-02-30", None), ("2026-11-12", None), ("1d", "7d"),
     ("1990-01-01", None)],
)  # fmt: skip
def test_what_is_no_period_is_refused(since: str, until: str | None) -> None:
    with pytest.raises(ValueError, match=r"^(since|until): "):
        period_of(since, until, NOON)


def test_rows_go_by_cost_with_averages_and_shares() -> None:
    rollups = [
        Rollup(day="2026-11-01", project="p", model="a", requests=2, prompt_tokens=900, completion_tokens=100, cost=30),
        Rollup(day="2026-11-02", project="p", model="b", requests=3, cost=60, suspect=7),
        Rollup(day="2026-11-02", project="q", model="a", requests=1, cost=0),
    ]
    report = report_of_rollups(rollups, By.MODEL)
    assert [row.name for row in report.rows] == ["b", "a"]
    dear, cheap = report.rows
    assert (cheap.requests, cheap.tokens, cheap.cost_per_request, cheap.cost_per_1k_tokens) == (3, 1000, 10, 30)
    assert (dear.cost_per_1k_tokens, dear.suspect, dear.share_of(report.total)) == (None, 7, Decimal("0.6667"))
    assert (report.total.cost, report.total.suspect, report.total.requests) == (90, 7, 6)
    assert [row.name for row in report_of_rollups(rollups, By.DAY).rows] == ["2026-11-01", "2026-11-02"]
    assert report_of_rollups(rollups, By.PROVIDER).rows[0].name == UNNAMED
    assert report_of_rollups(rollups, By.MODEL, project="q").total.requests == 1
    assert Row("nothing").share_of(Row("nothing")) is None


def test_a_call_with_two_tags_is_in_two_rows_and_once_in_the_total() -> None:
    rollups = [
        Rollup(day="2026-11-01", project="p", model="a", tags=("x=1", "y=2"), cost=5),
        Rollup(day="2026-11-01", project="p", model="a", cost=3),
    ]
    report = report_of_rollups(rollups, By.TAG)
    assert [(row.name, row.cost) for row in report.rows] == [("x=1", 5), ("y=2", 5), (UNTAGGED, 3)]
    assert report.total.cost == 8


def test_roll_ups_know_no_batches() -> None:
    with pytest.raises(ValueError, match="records"):
        report_of_rollups([], By.BATCH)


def test_a_correction_takes_the_place_of_its_suspect() -> None:
    suspect = record(cost=100, source=Source.SUSPECT, outcome="lost")
    billed = record(cost=40, source=Source.RECONCILED, outcome="ok", prompt_tokens=5)
    free = record(cost=0, source=Source.RECONCILED, outcome="lost")
    told = [(row.requests, row.answered, row.prompt_tokens, row.cost, row.suspect) for row in (
        by_batch([suspect]).total, by_batch([suspect, billed]).total, by_batch([suspect, free, billed]).total,
    )]  # fmt: skip
    assert told == [(1, 0, 0, 0, 100), (1, 1, 5, 40, 0), (1, 1, 5, 40, 0)]


def test_a_correction_counts_on_the_day_of_its_call() -> None:
    suspect = record(cost=100, source=Source.SUSPECT)
    late = record(day=3, cost=40, source=Source.RECONCILED)
    until = START + DAY_MS
    assert by_batch([suspect, late, record("h2", day=3, cost=9)], until_ms=until).total.cost == 40
    assert by_batch([late], until_ms=until + 9 * DAY_MS).total == Row("total")  # its call was before the period


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9), calls=st.integers(0, 60), days=st.integers(1, 12))
def test_every_report_has_the_same_total(seed: int, calls: int, days: int) -> None:
    records = history(seed, calls)
    until = START + days * DAY_MS
    rollups = [one for one in rolled(records) if one.day in period_of("2026-11-01", None, until - 1).days]
    total = by_batch(records, until_ms=until).total
    for by in set(By) - {By.BATCH}:
        report = report_of_rollups(rollups, by)
        assert report.total == total
        if by is not By.TAG:
            assert tuple(map(sum, zip(*map(counts, report.rows), strict=True))) == (counts(total) if rollups else ())


FINAL = """
    with numbered as (select *, row_number() over () as place from {source}),
    final as (
        select *, min("at") over (partition by hold) as first_at,
               place = max(place) over (partition by hold) as counts
        from numbered
    )
    select {name} as name, count(*), count(*) filter (outcome = 'ok'), sum(prompt_tokens), sum(cached_tokens),
           sum(completion_tokens), sum(reasoning_tokens),
           coalesce(sum(cost_usd) filter (source != 'suspect'), 0),
           coalesce(sum(cost_usd) filter (source = 'suspect'), 0)
    from (select * from final where counts) {unnested} group by 1
"""
NAMES = {
    By.MODEL: ("model", ""),
    By.PROJECT: ("project", ""),
    By.BATCH: ("batch", ""),
    By.PROVIDER: ("coalesce(nullif(provider, ''), '(not told)')", ""),
    By.DAY: ("strftime(first_at::timestamptz at time zone 'UTC', '%Y-%m-%d')", ""),
    By.TAG: ("tag", ", unnest(case len(tags) when 0 then ['(no tag)'] else tags end) as t(tag)"),
}
SOURCES = {
    ".jsonl": "read_json('{}', columns={{\"at\": 'timestamptz', hold: 'varchar', outcome: 'varchar', "
    "source: 'varchar', project: 'varchar', batch: 'varchar', model: 'varchar', provider: 'varchar', "
    "tags: 'varchar[]', cost_usd: 'decimal(19,9)', prompt_tokens: 'bigint', cached_tokens: 'bigint', "
    "completion_tokens: 'bigint', reasoning_tokens: 'bigint'}})",
    ".csv": "(select * replace (cast(tags::json as varchar[]) as tags) from read_csv('{}', header=true, types={{"
    "'cost_usd': 'decimal(19,9)', 'at': 'timestamptz'}}))",
    ".parquet": "read_parquet('{}')",
}  # fmt: skip


async def each(records: list[UsageRecord]) -> AsyncIterator[UsageRecord]:
    for one in records:
        yield one


@pytest.mark.parametrize("suffix", SOURCES)
async def test_duckdb_reckons_the_same_from_what_was_exported(suffix: str, tmp_path: Path) -> None:
    records = history(7, 400)
    path = tmp_path / f"usage{suffix}"
    assert await write_records(path, each(records)) == len(records)
    assert os.listdir(tmp_path) == [path.name]
    rollups = rolled(records)
    for by, (name, unnested) in NAMES.items():
        report = by_batch(records) if by is By.BATCH else report_of_rollups(rollups, by)
        query = FINAL.format(source=SOURCES[suffix].format(path), name=name, unnested=unnested)
        reckoned = {row[0]: row[1:] for row in duckdb.execute(query).fetchall()}
        ours = {
            row.name: (*counts(row)[:-2], Decimal(row.cost) / 10**9, Decimal(row.suspect) / 10**9)
            for row in report.rows
        }
        assert reckoned == ours, by
    assert COUNTED[-2:] == ("cost", "suspect")


async def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "usage.csv"
    path.write_text("before")

    async def broken() -> AsyncIterator[UsageRecord]:
        yield record()
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        await write_records(path, broken())
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_text() == "before"


async def test_a_file_s_ending_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.jsonl, \.csv, \.parquet"):
        await write_records(tmp_path / "usage.xlsx", each([]))
    for suffix in SOURCES:
        assert await write_records(tmp_path / f"none{suffix}", each([])) == 0


def test_a_trend_has_days_without_cost() -> None:
    report = report_of_rollups([Rollup(day="2026-11-02", project="p", model=MODELS[0], cost=5)], By.DAY)
    assert [(row.name, row.cost) for row in trend(report, ["2026-11-01", "2026-11-02"])] == [
        ("2026-11-01", 0), ("2026-11-02", 5),
    ]  # fmt: skip


def test_a_plot_shows_each_day_and_the_least_of_them() -> None:
    days = [Row(f"2026-11-{day:02}", cost=cost) for day, cost in ((1, 48 * 10**9), (2, 0), (3, 24 * 10**9), (4, 1))]
    assert plot(days) == [
        "",
        " $48.0000 ┤█",
        "          ┤█",
        "          ┤█",
        "          ┤█   █",
        "          ┤█   █",
        "$0.000000 ┤█   █ ▁",
        "           2026-11-01 2026-11-04",
    ]
    assert plot(days[:1]) == []
    assert plot([Row("a"), Row("b")]) == []
