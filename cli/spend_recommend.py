"""`batchmill spend recommend`: what the same calls would have cost on other models."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, json_option
from batchmill.cli.model_options import words_option
from batchmill.cli.options import POSITIVE

if TYPE_CHECKING:
    from batchmill.config.settings import Settings

_NOTHING = "nothing"


@click.command(short_help="Show what the same calls would have cost on other models.")
@click.option("--since", default="30d", show_default=True, metavar="DAY", help="The first day, or 7d for seven days.")
@click.option("--until", metavar="DAY", help="The last day (default: today). Days are of UTC.")
@click.option("--project", metavar="NAME", help="Only calls of this project.")
@words_option("--needs", metavar="C", help="What your lines need, e.g. tools,vision; or nothing, for plain text.")
@click.option("--limit", "-n", type=POSITIVE, default=3, show_default=True, metavar="N", help="N models of each kind.")
@json_option("One object: each model with its evidence and options.")
@gate_options
def recommend(
    since: str,
    until: str | None,
    project: str | None,
    needs: tuple[str, ...],
    limit: int,
    as_json: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Put the calls of each model on the price of every other model that can take them, and tell what that saves.

    A model can take them when it has the context that they used, and all capabilities of the model that they went
    to: no record says which of these they asked for, so name them with --needs, and more models fit. Quality is not
    judged: try a sample first.

    \b
    batchmill spend recommend
    batchmill spend recommend --since 7d --needs structured_outputs
    batchmill spend recommend --needs nothing --json | jq '.models[].options[0]'
    """
    from batchmill.cli.loop import run_async

    settings = gate_settings(redis_url, config_file, simulate=simulate)
    return run_async(_show(settings, (since, until), project, _needed(needs), limit, as_json=as_json))


def _needed(words: tuple[str, ...]) -> frozenset[str] | None:
    """Return the capabilities that were named, none for "nothing"; None when nobody named any."""
    from batchmill.openrouter.capabilities import check_capability

    named = frozenset(words) - {_NOTHING}
    if named and len(named) < len(frozenset(words)):
        raise click.UsageError(f"--needs: '{_NOTHING}' stands alone; leave it out, or the others")
    try:
        for word in named:
            check_capability(word)
    except ValueError as error:
        raise click.UsageError(f"--needs: {error}; or '{_NOTHING}', for plain text") from None
    return named if words else None


async def _show(
    settings: "Settings",
    days: tuple[str, str | None],
    project: str | None,
    needs: frozenset[str] | None,
    limit: int,
    *,
    as_json: bool,
) -> int:
    from batchmill.cli import recommendation_views as views
    from batchmill.cli.model_source import opened
    from batchmill.producer.render import to_json
    from batchmill.producer.reports import savings_of
    from batchmill.spend.period import period_of

    async with opened(settings) as source:
        try:
            period = period_of(*days, source.now_ms)
        except ValueError as error:
            raise click.UsageError(f"--{error}") from None
        findings = await savings_of(
            source.redis, source.settings, source.snapshot.models, period, project=project, needs=needs
        )
    if as_json:
        click.echo(to_json(views.as_object(findings, limit)))
        return exit_codes.OK
    shown = views.in_full(findings, limit)
    if shown:
        click.echo(shown)
    click.echo(views.foot(findings, source.footer()), err=True)
    return exit_codes.OK
