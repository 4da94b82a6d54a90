"""`batchmill submit`: hand lines over and go."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.options import condition_options, hints, input_options, read_settings, store_options

if TYPE_CHECKING:
    from batchmill.cli.handover import Wishes
    from batchmill.cli.source import Source
    from batchmill.config.settings import Settings


@click.command(short_help="Hand lines over to workers; print the batch id.")
@click.argument("source", metavar="INPUT")
@input_options
@condition_options
@click.option("--simulate", is_flag=True, help="For workers that were started with --simulate, not for paid ones.")
@store_options
def submit(
    source: str,
    model: str | None,
    max_tokens: int | None,
    fallback: tuple[str, ...],
    strategy: str | None,
    limit: int | None,
    skip_invalid: bool,
    fresh: bool,
    max_cost: str | None,
    window: str | None,
    priority: str,
    project: str,
    tags: dict[str, str],
    cache: bool | None,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Enqueue the lines of INPUT and print the batch's id, alone on standard output.

    INPUT is read as by `batchmill run`. The same lines handed over again are the same batch, unless --fresh.

    \b
    batch=$(batchmill submit prompts.jsonl)
    batchmill results $batch --follow -o answers.jsonl
    """
    from batchmill.cli.handover import Wishes
    from batchmill.cli.loop import run_async
    from batchmill.cli.source import opened

    settings = read_settings(config_file, redis_url, simulate=simulate)
    wishes = Wishes(
        model=model,
        max_tokens=max_tokens,
        fallback=fallback,
        strategy=strategy,
        limit=limit,
        skip_invalid=skip_invalid,
        fresh=fresh,
        max_cost=max_cost,
        window=window,
        priority=priority,
        project=project,
        tags=tags,
        cache=cache,
    )
    with opened(source) as readable:
        return run_async(_submit(readable, settings, wishes, hints(redis_url, config_file)))


async def _submit(source: "Source", settings: "Settings", wishes: "Wishes", options: str) -> int:
    from batchmill.cli.handover import announce, hand_over, say_who_works
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        batch = await hand_over(store.redis, settings, source, wishes)
        click.echo(batch.id)
        status = await batch.status()
        announce(batch, status)
        await say_who_works(store.redis, status, options)
    return exit_codes.OK
