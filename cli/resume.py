"""`batchmill resume`: let a paused model go on."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, operator, until

if TYPE_CHECKING:
    from batchmill.config.settings import Settings


@click.command(short_help="Let a paused model go on.")
@click.argument("model", metavar="MODEL")
@gate_options
def resume(model: str, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """End what `batchmill pause MODEL` began; a pause that the upstream asked for ends by itself.

    \b
    batchmill resume openai/gpt-4o-mini
    """
    from batchmill.cli.loop import run_async

    return run_async(_resume(gate_settings(redis_url, config_file, simulate=simulate), model))


async def _resume(settings: "Settings", model: str) -> int:
    from batchmill.store import gauges, operators
    from batchmill.store.clock import now_ms
    from batchmill.store.connection import open_store

    upstream = settings.upstream_name
    async with open_store(settings) as store:
        was_paused = await operators.resume(store.redis, upstream, model, operator())
        left = [pause for pause in await gauges.pauses(store.redis, upstream) if pause.concerns(model)]
        now = await now_ms(store.redis)
    click.echo(f"{model} {'goes on' if was_paused else 'was not paused'}", err=True)
    for pause in left:
        click.echo(f"it still waits {until(pause.until_ms, now)}: {pause.reason}", err=True)
    return exit_codes.OK
