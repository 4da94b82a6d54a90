"""`batchmill retry`: the failed lines of a batch once more."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.options import hints, read_settings, store_options

if TYPE_CHECKING:
    from batchmill.config.settings import Settings


@click.command(short_help="Hand the failed lines of a batch over again; print the new batch's id.")
@click.argument("batch_id", metavar="BATCH")
@store_options
def retry(batch_id: str, redis_url: str | None, config_file: Path | None) -> int:
    """Enqueue the failed lines of the finished BATCH as a new batch and print its id, alone on standard output.

    Asked again, it prints the same id.

    \b
    batchmill results $(batchmill retry $batch) --follow
    """
    from batchmill.cli.loop import run_async

    return run_async(_retry(batch_id, read_settings(config_file, redis_url), hints(redis_url, config_file)))


async def _retry(batch_id: str, settings: "Settings", options: str) -> int:
    from batchmill.cli.handover import say_who_works
    from batchmill.cli.words import lines
    from batchmill.producer import Producer
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        batch = await (await Producer(store.redis, settings).batch(batch_id)).retry()
        click.echo(batch.id)
        status = await batch.status()
        click.echo(f"{lines(status.total)} of {batch_id} to try again", err=True)
        await say_who_works(store.redis, status, options)
    return exit_codes.OK
