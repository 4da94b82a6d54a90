"""`batchmill results`: the results of a batch, as far as they are there."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.options import read_settings, store_options

if TYPE_CHECKING:
    from batchmill.cli.line_file import LineFile
    from batchmill.config.settings import Settings
    from batchmill.producer import Batch


@click.command(short_help="Write the results of a batch.", epilog=exit_codes.EPILOG)
@click.argument("batch_id", metavar="BATCH")
@click.option(
    "--output",
    "-o",
    "out",
    metavar="FILE",
    default="-",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Where they go (default: standard output).",
)
@click.option("--follow", "-f", is_flag=True, help="Wait for the rest, until every line has its result.")
@click.option("--failed", is_flag=True, help="The lines without a completion instead; they can be run again as input.")
@click.option("--simple", is_flag=True, help="Flat lines: custom_id, content, model, usage, cost_usd ...")
@click.option("--ordered", is_flag=True, help="Sort them by input line at the end.")
@store_options
def results(
    batch_id: str,
    out: Path,
    follow: bool,
    failed: bool,
    simple: bool,
    ordered: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Write the completions of BATCH, in the order in which they came.

    With --follow the exit code tells how the batch ended, as that of `batchmill run`.

    \b
    batchmill results $batch --follow -o answers.jsonl
    batchmill results $batch --simple | jq -r .content
    batchmill results $batch --failed > again.jsonl
    """
    from batchmill.cli.line_file import LineFile
    from batchmill.cli.loop import run_async

    if failed and simple:
        raise click.UsageError("--failed lines are written so that they can be run again; they have no --simple form")
    settings = read_settings(config_file, redis_url)
    return run_async(_results(batch_id, settings, LineFile(out, ordered=ordered), follow, failed, simple))


async def _results(
    batch_id: str, settings: "Settings", file: "LineFile", follow: bool, failed: bool, simple: bool
) -> int:
    from batchmill.cli.result_files import ownership
    from batchmill.producer import Producer
    from batchmill.producer.render import openai_line, simple_line

    async with Producer.connect(settings) as producer:
        batch = await producer.batch(batch_id)
        file.open(await ownership(file.path, batch_id, batch.results))
        try:
            async for result in batch.results(follow=follow):
                if result.succeeded != failed:
                    file.write(result.index, simple_line(result) if simple else openai_line(batch_id, result))
        finally:
            file.close()
        return await _ending(batch, follow=follow, failed=failed)


async def _ending(batch: "Batch", *, follow: bool, failed: bool) -> int:
    from batchmill.cli.words import outcomes

    status = await batch.status()
    told = status.succeeded if not failed else status.done - status.succeeded
    if told < status.total:
        hint = "" if failed or status.done == status.succeeded else "; --failed writes those without a completion"
        click.echo(f"{batch.id}: {outcomes(status)}{hint}", err=True)
    return exit_codes.LINES_FAILED if follow and status.succeeded < status.total else exit_codes.OK
