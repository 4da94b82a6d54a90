"""`batchmill pause`: send nothing for a model."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, operator

if TYPE_CHECKING:
    from batchmill.config.settings import Settings


@click.command(short_help="Send nothing for a model until it is resumed.")
@click.argument("model", metavar="MODEL")
@click.option("--reason", metavar="TEXT", help="For whoever asks why nothing moves.")
@gate_options
def pause(model: str, reason: str | None, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Send nothing for MODEL, in the whole fleet, until `batchmill resume MODEL`; what is in the air lands.

    \b
    batchmill pause openai/gpt-4o-mini --reason "its answers are odd today"
    """
    from batchmill.cli.loop import run_async

    return run_async(_pause(gate_settings(redis_url, config_file, simulate=simulate), model, reason))


async def _pause(settings: "Settings", model: str, reason: str | None) -> int:
    from batchmill.config.typed import typed
    from batchmill.store import operators
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        await operators.pause(store.redis, settings.upstream_name, model, operator(), reason)
    click.echo(f"{model} is paused until {typed(f'resume {model}', settings.upstream_name)}", err=True)
    return exit_codes.OK
