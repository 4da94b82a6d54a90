"""`batchmill status`: how far batches are."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli.options import POSITIVE, read_settings, store_options

if TYPE_CHECKING:
    from batchmill.config.settings import Settings


@click.command(short_help="Show the newest batches, or one of them.")
@click.argument("batch_id", metavar="[BATCH]", required=False)
@click.option("--watch", "-w", is_flag=True, help="Go on showing until nothing can change any more.")
@click.option("--json", "as_json", is_flag=True, help="OpenAI's Batch object (a list of them without BATCH).")
@click.option("--limit", "-n", type=POSITIVE, default=20, show_default=True, metavar="N", help="So many batches.")
@click.option("--simulate", is_flag=True, help="Only what runs with --simulate; a BATCH is found without, too.")
@store_options
def status(
    batch_id: str | None,
    watch: bool,
    as_json: bool,
    limit: int,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Show the newest batches in a table, or everything about one BATCH.

    \b
    batchmill status
    batchmill status $batch --watch
    batchmill status $batch --json | jq .request_counts
    """
    if watch and as_json:
        raise click.UsageError("--watch is for people; ask for --json as often as you like")
    from batchmill.cli.loop import run_async

    return run_async(_status(batch_id, read_settings(config_file, redis_url, simulate=simulate), watch, as_json, limit))


async def _status(batch_id: str | None, settings: "Settings", watch: bool, as_json: bool, limit: int) -> int:
    from batchmill.cli import before
    from batchmill.cli.views import View
    from batchmill.producer import Producer
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        if batch_id and (found := await before.found(store.redis, batch_id, wait=watch)):
            return before.show(found, as_json=as_json)
        upstream = settings.upstream_name if settings.simulate else None  # without, of all
        view = View(Producer(store.redis, settings), batch_id, limit, upstream)
        if as_json:
            return await view.print_json()
        return await (view.watch() if watch else view.print_once())
