"""`batchmill route`: which model a line would go to, and why."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.options import POSITIVE, read_settings, store_options
from batchmill.config.strategy import Strategy

if TYPE_CHECKING:
    from batchmill.config.settings import Settings
    from batchmill.producer.lines import InputOptions, Request


@click.command(short_help="Show which model a line would go to, and why.", epilog=exit_codes.EPILOG)
@click.argument("source", metavar="LINE.json")
@click.option("--explain", is_flag=True, help="Tell the reasons, the costs, and who can't serve the line.")
@click.option(
    "--strategy", "-s", type=click.Choice(tuple(each.value for each in Strategy)), help="For a line that names none."
)
@click.option("--fallback", metavar="M", multiple=True, help="Model or alias to try next; again for more.")
@click.option("--model", "-m", metavar="M", help="For a line that names no model, e.g. auto.")
@click.option("--max-tokens", type=POSITIVE, metavar="N", help="For a line that sets no limit of its own.")
@click.option("--line", "number", type=POSITIVE, default=1, metavar="N", help="Which line of a file with several.")
@click.option("--project", metavar="NAME", default="default", help="Whose budgets the line must fit in.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, always with the reasons.")
@click.option("--simulate", is_flag=True, help="With the packaged catalogue, and what was seen with --simulate.")
@store_options
def route(
    source: str,
    explain: bool,
    strategy: str | None,
    fallback: tuple[str, ...],
    model: str | None,
    max_tokens: int | None,
    number: int,
    project: str,
    as_json: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Work out where the line in LINE.json would go if it were handed over now. Nothing is sent, nothing enqueued.

    LINE.json is one line in any of the forms that `batchmill run` reads, on as many lines as you like, or a file of
    lines, of which the first is taken; - is standard input. The candidates are printed in the order in which they
    would be tried; what goes by chance is told as the share of such lines that go to a candidate first.

    \b
    batchmill route --explain line.json --fallback openai/gpt-4o-mini
    echo '{"model": "auto", "prompt": "Hello"}' | batchmill route - --explain --strategy cost
    """
    from batchmill.cli.loop import run_async
    from batchmill.producer.conditions import wish_of_batch
    from batchmill.producer.lines import InputOptions

    settings = read_settings(config_file, redis_url, simulate=simulate)
    options = InputOptions(
        model=model,
        max_tokens=max_tokens,
        wish=wish_of_batch(fallback, strategy),
        speaks_openrouter=settings.speaks_openrouter,
    )
    request = _read(source, number, options)
    return run_async(_show(settings, request, project, as_json=as_json, in_full=explain))


async def _show(settings: "Settings", request: "Request", project: str, *, as_json: bool, in_full: bool) -> int:
    from batchmill.cli import route_views
    from batchmill.producer.conditions import conditions_of, pricer_for
    from batchmill.producer.errors import InputError
    from batchmill.producer.explanation import explain
    from batchmill.producer.intake import describe
    from batchmill.producer.lines import BadLine
    from batchmill.producer.render import to_json
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        pricer = await pricer_for(store.redis, settings, conditions_of(project=project))
        found = await explain(store.redis, settings, request, pricer)
    if isinstance(found, BadLine):
        raise InputError(describe(found))
    if as_json:
        click.echo(to_json(route_views.as_object(found)))
    elif in_full:
        click.echo(route_views.in_full(found))
    else:
        click.echo("\n".join(way.model for way in found.ways))
    return exit_codes.OK


def _read(source: str, number: int, options: "InputOptions") -> "Request":
    """Return the line that is meant. Raises InputError."""
    from batchmill.cli.source import opened
    from batchmill.producer.errors import InputError
    from batchmill.producer.forms import parse_json_line
    from batchmill.producer.identities import Identities
    from batchmill.producer.intake import describe
    from batchmill.producer.lines import BadLine

    with opened(source) as readable:
        line = _line_of(readable.path.read_bytes(), number, readable.name)
    found = parse_json_line(line, number, options, Identities())
    if isinstance(found, BadLine):
        raise InputError(f"{readable.name}: {describe(found)}")
    return found


def _line_of(content: bytes, number: int, name: str) -> bytes:
    """Return a line of a file of lines, or the whole of a file that is one JSON object. Raises InputError."""
    import msgspec

    from batchmill.producer.errors import InputError

    lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()]
    if number == 1 and len(lines) > 1:
        try:
            return msgspec.json.format(content.removeprefix(b"\xef\xbb\xbf"), indent=-1)
        except msgspec.DecodeError:  # more than one value: a file of lines
            return lines[0]
    if number > len(lines):
        raise InputError(f"{name} has {len(lines):,} lines, so there is no line {number:,}")
    return lines[number - 1]
