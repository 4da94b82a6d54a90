"""`batchmill cancel`: send nothing more of a batch."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.options import read_settings, store_options

if TYPE_CHECKING:
    from batchmill.config.settings import Settings


@click.command(short_help="Send nothing more of a batch.")
@click.argument("batch_id", metavar="BATCH")
@store_options
def cancel(batch_id: str, redis_url: str | None, config_file: Path | None) -> int:
    """Cancel the lines of BATCH that were not sent yet; results that are there stay, what is in the air is kept.

    Answers that are streamed are hung up: that ends what they cost.

    \b
    batchmill cancel batch_0199c0ffee00d3adb33f1234567890
    """
    from batchmill.cli.loop import run_async

    return run_async(_cancel(batch_id, read_settings(config_file, redis_url)))


async def _cancel(batch_id: str, settings: "Settings") -> int:
    from batchmill.cli import before as before_
    from batchmill.cli.words import outcomes
    from batchmill.producer import Producer
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        if state := await before_.cancel(store.redis, settings, batch_id):
            click.echo(f"{batch_id} {state}", err=True)
            return exit_codes.OK
        batch = await Producer(store.redis, settings).batch(batch_id)
        before = await batch.status()
        await batch.cancel()
        after = await batch.status()
    was = "was already" if before.state.terminal else "is"
    click.echo(f"{batch_id} {was} {after.state.value}: {outcomes(after)}", err=True)
    return exit_codes.OK
