"""`batchmill audit`: who changed what."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, json_option, print_table
from batchmill.cli.options import POSITIVE

if TYPE_CHECKING:
    from batchmill.config.settings import Settings

_COLUMNS = (("when", "left"), ("who", "left"), ("what", "left"), ("detail", "left"))


@click.command(short_help="Show who changed budgets, breakers and pauses.")
@click.option("--limit", "-n", type=POSITIVE, default=20, show_default=True, metavar="N", help="So many changes.")
@json_option("A list of objects.")
@gate_options
def audit(limit: int, as_json: bool, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Show the newest changes that people and config files made to what may be spent and sent.

    \b
    batchmill audit
    batchmill audit --json | jq '.[] | select(.what == "budget.raised")'
    """
    from batchmill.cli.loop import run_async

    return run_async(_show(gate_settings(redis_url, config_file, simulate=simulate), limit, as_json))


async def _show(settings: "Settings", limit: int, as_json: bool) -> int:
    from batchmill.cli.words import moment
    from batchmill.producer.render import to_json
    from batchmill.store.audit import entries
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        found = await entries(store.redis, settings.upstream_name, limit)
    if as_json:
        click.echo(to_json(found))
    elif found:
        print_table(_COLUMNS, [(moment(one.at / 1000), one.who, one.what, to_json(one.detail)) for one in found])
    else:
        click.echo("nobody changed anything yet")
    return exit_codes.OK
