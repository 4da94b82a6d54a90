"""`batchmill spend forecast`: what spending will come to, and when each budget runs out."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, json_option

if TYPE_CHECKING:
    from batchmill.config.settings import Settings


@click.command(short_help="Foresee day, week and month, and when budgets run out.")
@click.option("--project", metavar="NAME", help="Only what this project spends, and the budgets that it has to itself.")
@json_option("One object with periods, budgets and queue.")
@gate_options
@click.pass_context
def forecast(
    context: click.Context,
    project: str | None,
    as_json: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Tell what today, this week and this month (UTC) will have cost when they end, and how long budgets last.

    It goes by what the days before cost: their weekdays, and the trend of the last weeks; and by the lines that wait,
    at their likely cost. Below the tables it says in words what it was made of.

    \b
    batchmill spend forecast
    batchmill spend forecast --project evals --json
    """
    from batchmill.cli.loop import run_async

    before = context.parent.params if context.parent else {}  # what stood before the word forecast
    project, as_json = project or before.get("project"), as_json or bool(before.get("as_json"))
    return run_async(_forecast(gate_settings(redis_url, config_file, simulate=simulate), project, as_json))


async def _forecast(settings: "Settings", project: str | None, as_json: bool) -> int:
    from batchmill.cli.forecast_views import print_forecast
    from batchmill.producer.reports import forecast_of
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        found = await forecast_of(store.redis, settings.upstream_name, project)
    print_forecast(found, as_json=as_json)
    return exit_codes.OK
