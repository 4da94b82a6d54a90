"""`batchmill run`: a file of prompts in, a file of results out."""

from pathlib import Path

import click

from batchmill.cli import exit_codes
from batchmill.cli.options import (
    POSITIVE,
    condition_options,
    hints,
    input_options,
    read_settings,
    require_upstream,
    store_options,
)


@click.command(short_help="Run a file of lines: submit, work, show progress, write results.", epilog=exit_codes.EPILOG)
@click.argument("source", metavar="INPUT")
@click.option(
    "--output",
    "-o",
    "out",
    metavar="OUT",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Where completions go (default: INPUT with .results.jsonl); failed lines go beside it, .errors.jsonl.",
)
@input_options
@condition_options
@click.option("--workers", type=POSITIVE, metavar="N", help="Worker processes (default 1).")
@click.option("--concurrency", type=POSITIVE, metavar="N", help="Lines in the air, each worker (default 100).")
@click.option("--simulate", is_flag=True, help="Rehearse against a simulated OpenRouter: no key, no cost.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask, whatever the lines are likely to cost.")
@click.option("--ordered", is_flag=True, help="Sort the results by input line at the end.")
@click.option("--simple", is_flag=True, help="Flat result lines: custom_id, content, model, usage, cost_usd ...")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object, and no progress.")
@store_options
def run(
    source: str,
    out: Path | None,
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
    workers: int | None,
    concurrency: int | None,
    simulate: bool,
    yes: bool,
    ordered: bool,
    simple: bool,
    as_json: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Run the lines of INPUT and write their completions to OUT as they land.

    INPUT is JSONL (OpenAI batch lines, bare chat bodies, or {"prompt": ...}), a .txt file with a prompt a line, or -
    for standard input, whose results go to standard output. Run again after an interruption, it goes on where it was.
    When the lines are likely to cost more than ask_over_usd of [spend], it asks first, if you sit at a terminal.

    \b
    batchmill run prompts.jsonl --simulate
    batchmill run prompts.jsonl -o answers.jsonl --workers 4 --concurrency 200
    batchmill run prompts.jsonl --max-cost 2.50 --priority low
    batchmill run questions.txt --model openai/gpt-4o-mini --max-tokens 300 --simple --ordered
    cat prompts.jsonl | batchmill run - --limit 10 > answers.jsonl
    """
    from batchmill.cli.handover import Wishes
    from batchmill.cli.job import RunOptions, run_job
    from batchmill.cli.loop import run_async
    from batchmill.cli.source import opened

    settings = read_settings(config_file, redis_url, simulate=simulate, processes=workers, concurrency=concurrency)
    require_upstream(settings)
    options = RunOptions(
        wishes=Wishes(
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
        ),
        out=out,
        simple=simple,
        ordered=ordered,
        as_json=as_json,
        yes=yes,
        hints=hints(redis_url, config_file),
    )
    with opened(source) as readable:
        return run_async(run_job(readable, options, settings))
