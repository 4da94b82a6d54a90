"""`batchmill spend`: what was spent, by whom and on what."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.forecast import forecast
from batchmill.cli.gate import gate_options, gate_settings, json_option
from batchmill.cli.options import POSITIVE

if TYPE_CHECKING:
    from batchmill.cli.spend_views import Asked
    from batchmill.config.settings import Settings
    from batchmill.spend.period import Period
    from batchmill.store.connection import Store

_BY = ("model", "project", "batch", "provider", "day", "tag")
_LONG_AGO = "3660d"


@click.group(invoke_without_command=True, short_help="Report what was spent, by model, project, batch, day or tag.")
@click.option("--by", type=click.Choice(_BY), default="model", show_default=True, help="What the rows are.")
@click.option("--since", default="30d", show_default=True, metavar="DAY", help="The first day, or 7d for seven days.")
@click.option("--until", metavar="DAY", help="The last day (default: today). Days are of UTC.")
@click.option("--project", metavar="NAME", help="Only what was spent for this project.")
@click.option("--limit", "-n", type=POSITIVE, metavar="N", help="The table's first N rows (default: 50, or all days).")
@json_option("One object: rows, total, and each day.")
@click.option("--csv", "as_csv", is_flag=True, help="The rows as CSV.")
@gate_options
@click.pass_context
def spend(
    context: click.Context,
    by: str,
    since: str,
    until: str | None,
    project: str | None,
    limit: int | None,
    as_json: bool,
    as_csv: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Report what was spent: cost, requests, tokens, averages, and a plot of the last 30 days.

    Cost is what is known. Suspect is money of calls whose outcome nobody knows yet, and in no average.

    \b
    batchmill spend
    batchmill spend --by day --since 7d
    batchmill spend --by batch --project evals --json | jq .total
    batchmill spend export usage.parquet --since 2026-11-01
    """
    if context.invoked_subcommand:
        return exit_codes.OK
    if as_json and as_csv:
        raise click.UsageError("--json or --csv, not both")
    from batchmill.cli.loop import run_async
    from batchmill.cli.spend_views import Asked

    asked = Asked(by=by, project=project, limit=limit, as_json=as_json, as_csv=as_csv)
    return run_async(_show(gate_settings(redis_url, config_file, simulate=simulate), asked, since, until))


@spend.command(short_help="Write the usage records to a file: .jsonl, .csv or .parquet.")
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--since", default=_LONG_AGO, metavar="DAY", help="The first day, or 7d (default: all that is kept).")
@click.option("--until", metavar="DAY", help="The last day (default: today). Days are of UTC.")
@click.option("--project", metavar="NAME", help="Only records of this project.")
@gate_options
def export(
    file: Path,
    since: str,
    until: str | None,
    project: str | None,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Write a record for each call that may have cost money to FILE, oldest first. Its ending says in which form.

    There is no prompt, no answer and no key in it. A record with the source "reconciled" takes the place of the earlier
    one with the same hold. Parquet needs the extra `archive`: pip install 'batchmill[archive]'.
    """
    from batchmill.cli.loop import run_async

    settings = gate_settings(redis_url, config_file, simulate=simulate)
    return run_async(_export(settings, file, since, until, project))


async def _show(settings: "Settings", asked: "Asked", since: str, until: str | None) -> int:
    from batchmill.cli.spend_views import print_spend
    from batchmill.producer.reports import spend_of
    from batchmill.spend.reports import By
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        period = await _period(store, since, until)
        found = await spend_of(store.redis, settings.upstream_name, By(asked.by), period, asked.project)
    print_spend(found.report, found.days, asked)
    return exit_codes.OK


async def _export(settings: "Settings", file: Path, since: str, until: str | None, project: str | None) -> int:
    from batchmill.cli.spend_files import write_records
    from batchmill.store import ledger
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        period = await _period(store, since, until)
        found = ledger.records(
            store.redis,
            settings.upstream_name,
            since_ms=period.since_ms,
            until_ms=period.until_ms,
            project=project,
        )
        count = await write_records(file, found)
    click.echo(f"{file}: {count:,} {'record' if count == 1 else 'records'}", err=True)
    return exit_codes.OK


async def _period(store: "Store", since: str, until: str | None) -> "Period":
    from batchmill.spend.period import period_of
    from batchmill.store.clock import now_ms

    try:
        return period_of(since, until, await now_ms(store.redis))
    except ValueError as error:
        raise click.UsageError(f"--{error}") from None


spend.add_command(forecast)
