"""`batchmill stream`: the answer of a line while it is being written."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.options import read_settings, store_options

if TYPE_CHECKING:
    from batchmill.config.settings import Settings
    from batchmill.producer import Batch
    from batchmill.producer.live import Event
    from batchmill.store.model import Result


@click.command(short_help="Watch the answer of a line while it is being written.", epilog=exit_codes.EPILOG)
@click.argument("batch_id", metavar="BATCH")
@click.argument("custom_id", metavar="CUSTOM_ID", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines, with each chunk as it came.")
@click.option("--cancel", is_flag=True, help="Cancel the batch when the watching is interrupted.")
@store_options
def stream(
    batch_id: str,
    custom_id: str | None,
    as_json: bool,
    cancel: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Print the answer of a line of BATCH as it comes, from its first words, until the line has its result.

    CUSTOM_ID may be left out when only one line has live tokens. A line has them that asked for it ("stream_to": true).

    \b
    batchmill stream $batch line-1
    batchmill stream $batch line-1 --json | jq -r 'select(.event == "text").text'
    """
    from batchmill.cli.loop import run_async

    return run_async(_stream(batch_id, custom_id, read_settings(config_file, redis_url), as_json, cancel))


async def _stream(batch_id: str, custom_id: str | None, settings: "Settings", as_json: bool, cancel: bool) -> int:
    from contextlib import aclosing

    from batchmill.producer import Ended, Producer

    code = exit_codes.OK
    async with Producer.connect(settings) as producer:
        batch = await producer.batch(batch_id)
        async with aclosing(batch.stream(custom_id or await _only_one(batch), cancel=cancel)) as events:
            async for event in events:
                if isinstance(event, Ended) and not event.result.succeeded:
                    code = exit_codes.LINES_FAILED
                if as_json:
                    _print_json(batch_id, event)
                else:
                    _print(event)
    return code


async def _only_one(batch: "Batch") -> str:
    lines = await batch.live_lines()
    if len(lines) != 1:
        what = "no line" if not lines else f"{len(lines):,} lines"
        shown = f", e.g. {lines[0]}" if lines else ""
        raise click.UsageError(f"{batch.id} has {what} with live tokens; say which by its CUSTOM_ID{shown}")
    return lines[0]


def _print_json(batch_id: str, event: "Event") -> None:
    import msgspec

    from batchmill.producer import Ended
    from batchmill.producer.render import openai_line

    if isinstance(event, Ended):
        line = openai_line(batch_id, event.result).strip()
        click.echo(msgspec.json.encode({"event": "ended", "result": msgspec.Raw(line)}))
    else:
        click.echo(msgspec.json.encode(event))


def _print(event: "Event") -> None:
    from batchmill.producer import Ended, Restarted, Text

    if isinstance(event, Text):
        click.echo(event.text, nl=False)
    elif isinstance(event, Restarted):
        click.echo()
        click.echo("the answer begins anew" + (f": {event.why}" if event.why else ""), err=True)
    elif isinstance(event, Ended):
        click.echo()
        click.echo(_summary(event.result), err=True)


def _summary(result: "Result") -> str:
    words = [f"{result.custom_id} {result.state.value}"]
    if not result.succeeded:
        words.append(result.error_message or result.error_code or "")
    if result.usage is not None:
        words.append(f"{result.usage.completion_tokens:,} tokens")
    if result.cost_usd is not None:
        words.append(f"${result.cost_usd:f}")
    return ", ".join(word for word in words if word)
