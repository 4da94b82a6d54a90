"""`batchmill estimate`: what a file would cost, before anything is spent."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.options import (
    POSITIVE,
    condition_options,
    input_options,
    read_settings,
    require_upstream,
    store_options,
)

if TYPE_CHECKING:
    from batchmill.cli.handover import Wishes
    from batchmill.cli.source import Source
    from batchmill.config.settings import Settings


@click.command(short_help="Say what a file of lines would cost, before anything is spent.", epilog=exit_codes.EPILOG)
@click.argument("source", metavar="INPUT")
@click.option("--sample", type=POSITIVE, metavar="N", help="Run N lines, spread over the file, and go by their cost.")
@input_options
@condition_options
@click.option("--simulate", is_flag=True, help="With the packaged catalogue; a sample runs against a simulator.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@store_options
def estimate(
    source: str,
    sample: int | None,
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
    as_json: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Work out what the lines of INPUT would cost by model, which budget would stop them, and how long they take.

    INPUT and options are those of `batchmill submit`. Nothing is enqueued and nothing sent, but for a --sample: those
    lines run for real and are paid for, under all budgets and --max-cost, as a batch of their own.

    \b
    batchmill estimate prompts.jsonl
    batchmill estimate prompts.jsonl --sample 20 --max-cost 2.50
    """
    from batchmill.cli.handover import Wishes
    from batchmill.cli.loop import run_async
    from batchmill.cli.source import opened

    settings = read_settings(config_file, redis_url, simulate=simulate)
    if sample is not None:
        require_upstream(settings)
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
        tags=tags,
        cache=cache,
        project=project,
    )
    with opened(source) as readable:
        return run_async(_estimate(readable, settings, wishes, sample, as_json=as_json))


async def _estimate(
    source: "Source", settings: "Settings", wishes: "Wishes", sample: int | None, *, as_json: bool
) -> int:
    from batchmill.cli import estimate_views
    from batchmill.cli.handover import estimate_of
    from batchmill.cli.sample import run_sample
    from batchmill.producer.render import to_json
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        found, sampled = await estimate_of(store.redis, settings, source, wishes), None
        if sample is not None and found.lines:
            sampled = await run_sample(store, settings, source, wishes, sample, found.lines)
            found = await estimate_of(store.redis, settings, source, wishes, measured=sampled.measured)
    if as_json:
        click.echo(to_json(estimate_views.as_object(found, sampled)))
    else:
        estimate_views.print_in_full(found, sampled)
    if sampled is not None and sampled.code != exit_codes.OK:
        return sampled.code
    return exit_codes.OK if found.lines else exit_codes.UNUSABLE
