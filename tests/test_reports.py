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
from batchmill.spend.ledger import Day, Group, UsageRecord
from batchmill.spend.period import Period, period_of
from batchmill.spend.reports import UNNAMED, UNTAGGED, By, Row, Tally

from .spend_helpers import DAY_MS, START, counts, history, record, report_of, rolled

NOON = START + 10 * DAY_MS + DAY_MS // 2  # of 2026-11-11


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
    days = [
        Day("2026-11-01", [(Group("p", "a"), (2, 0, 900, 0, 100, 0, 30, 0))]),
        Day("2026-11-02", [(Group("p", "b"), (3, 0, 0, 0, 0, 0, 60, 7)), (Group("q", "a"), (1, 0, 0, 0, 0, 0, 0, 0))]),
    ]
    report = report_of(days, By.MODEL)
    assert [row.name for row in report.rows] == ["b", "a"]
    dear, cheap = report.rows
    assert (cheap.requests, cheap.tokens, cheap.cost_per_request, cheap.cost_per_1k_tokens) == (3, 1000, 10, 30)
    assert (dear.cost_per_1k_tokens, dear.suspect, dear.share_of(report.total)) == (None, 7, Decimal("0.6667"))
    assert (report.total.cost, report.total.suspect, report.total.requests) == (90, 7, 6)
    assert [row.name for row in report_of(days, By.DAY).rows] == ["2026-11-01", "2026-11-02"]
    assert report_of(days, By.PROVIDER).rows[0].name == UNNAMED
    assert report_of(days, By.MODEL, project="q").total.requests == 1
    assert Row("nothing").share_of(Row("nothing")) is None


def test_a_call_with_two_tags_is_in_two_rows_and_once_in_the_total() -> None:
    tagged, plain = Group("p", "a", "", ("x=1", "y=2")), Group("p", "a")
    report = report_of([Day("2026-11-01", [(tagged, (0,) * 6 + (5, 0)), (plain, (0,) * 6 + (3, 0))])], By.TAG)
    assert [(row.name, row.cost) for row in report.rows] == [("x=1", 5), ("y=2", 5), (UNTAGGED, 3)]
    assert report.total.cost == 8


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9), calls=st.integers(0, 60), days=st.integers(1, 12))
def test_every_report_has_the_same_total(seed: int, calls: int, days: int) -> None:
    records = history(seed, calls)
    asked = period_of("2026-11-01", None, START + days * DAY_MS - 1).days
    rollups, by_batch = (
        [day for day in rolled(records, by_batch=batches) if day.name in asked] for batches in (False, True)
    )
    total = report_of(by_batch, By.BATCH).total
    for by in By:
        report = report_of(by_batch if by is By.BATCH else rollups, by)
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
    for by, (name, unnested) in NAMES.items():
        report = report_of(rolled(records, by_batch=by is By.BATCH), by)
        query = FINAL.format(source=SOURCES[suffix].format(path), name=name, unnested=unnested)
        reckoned = {row[0]: row[1:] for row in duckdb.execute(query).fetchall()}
        ours = {
            row.name: (*counts(row)[:-2], Decimal(row.cost) / 10**9, Decimal(row.suspect) / 10**9)
            for row in report.rows
        }
        assert reckoned == ours, by


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
    tally = Tally(By.MODEL)
    tally.take(Day("2026-11-02", [(Group("p", "a"), (0,) * 6 + (5, 0))]))
    assert [(row.name, row.cost) for row in tally.trend(["2026-11-01", "2026-11-02"])] == [
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
