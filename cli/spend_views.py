"""What was spent, on the screen with a plot, as JSON, and as CSV."""

import csv
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import click
import msgspec

from batchmill.cli.model_tables import Column, console, table_of
from batchmill.openrouter.money import dollars, to_usd, usd_if_known
from batchmill.producer.render import to_json
from batchmill.spend.reports import By, Report, Row

_PLOTTED_DAYS = 30
_MOST_ROWS = 50  # of thousands of batches nobody reads more, and a screen takes seconds to lay them out
_HEIGHT = 6  # lines of the plot
_BLOCKS = " ▁▂▃▄▅▆▇█"
_FULL = len(_BLOCKS) - 1
_COUNTS = ("requests", "answered", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What `batchmill spend` was asked for."""

    by: str
    project: str | None
    limit: int | None  # rows of the table
    as_json: bool
    as_csv: bool


def print_spend(report: Report, days: Sequence[Row], asked: Asked) -> None:
    """Print a table and a plot; or one JSON object; or the rows as CSV. `days` is a row for each day asked for."""
    if asked.as_json:
        click.echo(to_json(_whole(report, days, asked)))
    elif asked.as_csv:
        objects = [_object(row, report) for row in report.rows]
        writer = csv.DictWriter(sys.stdout, list(_object(report.total, report)), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in row.items()} for row in objects)
    elif report.rows:
        _print_table(report, asked.limit)
        for line in plot(days[-_PLOTTED_DAYS:]):
            click.echo(line)
    else:
        where = f" for {asked.project}" if asked.project else ""
        click.echo(f"nothing was spent{where} from {days[0].name} to {days[-1].name}")


def plot(days: Sequence[Row]) -> list[str]:
    """Return lines with a bar for each day's cost; an eighth of a line is the least that is seen."""
    most = max((row.cost for row in days), default=0)
    if len(days) < 2 or not most:  # noqa: PLR2004 - a single bar is no trend
        return []
    bars = [-(-row.cost * _HEIGHT * _FULL // most) for row in days]
    labels = {0: dollars(most), _HEIGHT - 1: dollars(0)}
    width = max(map(len, labels.values()))
    lines = [""]
    for line in range(_HEIGHT):
        floor = (_HEIGHT - 1 - line) * _FULL
        cells = (_BLOCKS[min(max(bar - floor, 0), _FULL)] for bar in bars)
        lines.append(f"{labels.get(line, ''):>{width}} ┤{' '.join(cells)}".rstrip())
    room = 2 * len(days) - 1 - len(days[0].name)
    lines.append(f"{'':{width}}  {days[0].name}{days[-1].name:>{max(room, len(days[-1].name) + 1)}}")
    return lines


def _print_table(report: Report, limit: int | None) -> None:
    most = limit or (len(report.rows) if report.by is By.DAY else _MOST_ROWS)
    left = report.rows[most:]
    shown = [*report.rows[:most], report.total]
    screen = console()
    columns = [
        Column("cost", [dollars(row.cost) for row in shown]),
        Column("share", [_percent(row.share_of(report.total)) for row in shown], 3),
        Column("suspect", [dollars(row.suspect) if row.suspect else "-" for row in shown]),
        Column("requests", [f"{row.requests:,}" for row in shown], 1),
        Column("answered", [f"{row.answered:,}" for row in shown], 7),
        Column("prompt", [f"{row.prompt_tokens:,}" for row in shown], 4),
        Column("cached", [f"{row.cached_tokens:,}" if row.cached_tokens else "-" for row in shown], 8),
        Column("completion", [f"{row.completion_tokens:,}" for row in shown], 4),
        Column("reasoning", [f"{row.reasoning_tokens:,}" if row.reasoning_tokens else "-" for row in shown], 9),
        Column("per request", [_average(row.cost_per_request) for row in shown], 5),
        Column("per 1k tokens", [_average(row.cost_per_1k_tokens) for row in shown], 6),
    ]
    screen.print(table_of(Column(report.by.value, [row.name for row in shown]), columns, screen.width))
    if left:
        more = dollars(sum(row.cost for row in left))
        click.echo(f"{len(left):,} more rows of {more}: -n {len(report.rows)} shows them, or --csv", err=True)
    if report.by is By.TAG:
        click.echo("a call with several tags is in several rows; the total counts it once", err=True)


def _whole(report: Report, days: Sequence[Row], asked: Asked) -> dict[str, Any]:
    return {
        "by": report.by.value,
        "since": days[0].name,
        "until": days[-1].name,
        "project": asked.project,
        "rows": [_object(row, report) for row in report.rows],
        "total": _object(report.total, report),
        "days": [
            {"day": row.name, "cost_usd": to_usd(row.cost), "suspect_usd": to_usd(row.suspect)} for row in days
        ],
    }  # fmt: skip


def _object(row: Row, report: Report) -> dict[str, Any]:
    return {
        "name": row.name,
        "cost_usd": to_usd(row.cost),
        "share": row.share_of(report.total),
        "suspect_usd": to_usd(row.suspect),
        **{name: getattr(row, name) for name in _COUNTS},
        "usd_per_request": usd_if_known(row.cost_per_request),
        "usd_per_1k_tokens": usd_if_known(row.cost_per_1k_tokens),
    }


def _plain(value: Any) -> Any:
    return f"{value:f}" if isinstance(value, Decimal) else value


def _average(nano: int | None) -> str:
    return "-" if nano is None else dollars(nano)


def _percent(share: Decimal | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
