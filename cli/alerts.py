"""`batchmill alerts`: what somebody should know about the money, and who has seen it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, json_option, operator, print_table

if TYPE_CHECKING:
    from batchmill.config.settings import Settings
    from batchmill.store.alerts import Raised

_COLUMNS = (("alert", "left"), ("when", "left"), ("level", "left"), ("what", "left"), ("text", "left"))
_SEEN = ("seen by", "left")


@click.group(invoke_without_command=True, short_help="Show alerts; acknowledge them.")
@click.option("--all", "everything", is_flag=True, help="Those that somebody acknowledged, too.")
@click.option("--follow", "-f", is_flag=True, help="Print alerts as they are raised from now on, until Ctrl-C.")
@json_option("A list of objects; with --follow, an object a line.")
@gate_options
@click.pass_context
def alerts(
    context: click.Context,
    everything: bool,
    follow: bool,
    as_json: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Show the alerts that nobody acknowledged, newest first: of budgets, credits, breakers, suspects and bounds.

    Each is raised once for its budget, window and level, however many workers there are. When, and whom to tell, is in
    the config file: [alerts] and [[webhooks]].

    \b
    batchmill alerts
    batchmill alerts --follow --json | jq -r .text
    batchmill alerts ack 1764014000123-0
    batchmill alerts ack --all
    """
    if context.invoked_subcommand:
        return exit_codes.OK
    if follow and everything:
        raise click.UsageError("--all lists those that there are, --follow waits for new ones: say one of them")
    from batchmill.cli.loop import run_async

    settings = gate_settings(redis_url, config_file, simulate=simulate)
    if follow:
        return run_async(_follow(settings, as_json=as_json))
    return run_async(_show(settings, everything=everything, as_json=as_json))


@alerts.command(short_help="Acknowledge alerts: they leave the list.")
@click.argument("ids", metavar="[ALERT]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that nobody acknowledged.")
@gate_options
def ack(ids: tuple[str, ...], everything: bool, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Say that you have seen the alerts ALERT, or all. `batchmill alerts --all` still shows them, and who has."""
    if bool(ids) == everything:
        raise click.UsageError("name alerts, or say --all; `batchmill alerts` lists them")
    from batchmill.cli.loop import run_async

    return run_async(_acknowledge(gate_settings(redis_url, config_file, simulate=simulate), ids))


async def _show(settings: "Settings", *, everything: bool, as_json: bool) -> int:
    from batchmill.producer.render import to_json
    from batchmill.store.alerts import listed
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        found = await listed(store.redis, settings.upstream_name, everything=everything)
    if as_json:
        click.echo(to_json([_object(raised) for raised in found]))
    elif found:
        columns = (*_COLUMNS, _SEEN) if everything else _COLUMNS
        print_table(columns, [_row(raised)[: len(columns)] for raised in found])
    elif everything:
        click.echo("no alerts yet")
    else:
        click.echo("no alerts that nobody has seen; `batchmill alerts --all` shows the others")
    return exit_codes.OK


async def _follow(settings: "Settings", *, as_json: bool) -> int:
    from batchmill.producer.render import to_json
    from batchmill.store import alerts
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        upstream = settings.upstream_name
        async for raised in alerts.follow(store.redis, upstream, await alerts.last_id(store.redis, upstream)):
            click.echo(to_json(_object(raised)) if as_json else "  ".join(_row(raised)[:-1]))
    return exit_codes.OK


async def _acknowledge(settings: "Settings", ids: tuple[str, ...]) -> int:
    from batchmill.store.alerts import acknowledge, listed
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        name = settings.upstream_name
        asked = ids or [raised.id for raised in await listed(store.redis, name)]
        new = await acknowledge(store.redis, name, asked, operator())
    seen = len(asked) - len(new)
    click.echo(f"acknowledged: {len(new):,}" + (f"; {seen:,} were before" if seen else ""), err=True)
    return exit_codes.OK


def _row(raised: "Raised") -> list[str]:
    from batchmill.cli.words import moment

    alert, seen = raised.alert, raised.acknowledged
    by = f"{seen.who}, {moment(seen.at / 1000)}" if seen else ""
    return [raised.id, moment(raised.at / 1000), alert.level, alert.kind.value, alert.text, by]


def _object(raised: "Raised") -> dict[str, Any]:
    from batchmill.openrouter.money import usd_if_known

    alert, seen = raised.alert, raised.acknowledged
    return {
        "id": raised.id,
        "at": raised.at // 1000,
        "kind": alert.kind.value,
        "level": alert.level,
        "subject": alert.subject,
        "period": alert.period,
        "text": alert.text,
        "amount_usd": usd_if_known(alert.amount),
        "limit_usd": usd_if_known(alert.limit),
        "count": alert.count,
        "acknowledged": None if seen is None else {"who": seen.who, "at": seen.at // 1000},
    }
