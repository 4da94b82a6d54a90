"""`batchmill budgets`: what may be spent, what is spent, and what an operator does about it."""

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, json_option, operator, usd

if TYPE_CHECKING:
    from batchmill.config.settings import Settings


@click.group(invoke_without_command=True, short_help="Show what may be spent; raise a budget, release suspects.")
@json_option("A list of objects.")
@gate_options
@click.pass_context
def budgets(
    context: click.Context, as_json: bool, simulate: bool, redis_url: str | None, config_file: Path | None
) -> int:
    """Show every budget in its present window, and those of batches that are not finished.

    spent + held + suspect never exceeds the limit. Held is reserved for what is in the air; suspect is money of calls
    whose outcome nobody knows, because a worker died; debt is what the upstream billed beyond a bound.

    \b
    batchmill budgets
    batchmill budgets raise daily 20
    batchmill budgets suspects
    batchmill budgets release --all --yes
    """
    if context.invoked_subcommand:
        return exit_codes.OK
    from batchmill.cli.loop import run_async

    return run_async(_show(gate_settings(redis_url, config_file, simulate=simulate), as_json))


@budgets.command("raise", short_help="Set the limit of a budget or a batch, up or down.")
@click.argument("name", metavar="NAME")
@click.argument("limit", metavar="USD", callback=usd)
@gate_options
def raise_limit(name: str, limit: Decimal, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Let the budget NAME have a limit of USD dollars in all, from this instant. NAME may be a batch with --max-cost.

    It stays so through restarts, until the config file itself names another limit for that budget. A lower limit takes
    back nothing that is spent or in the air.
    """
    from batchmill.cli.loop import run_async

    return run_async(_raise(gate_settings(redis_url, config_file, simulate=simulate), name, limit))


@budgets.command(short_help="List money whose fate is unknown.")
@json_option("A list of objects.")
@gate_options
def suspects(as_json: bool, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """List the calls whose outcome nobody knows; what they can have cost counts as spent."""
    from batchmill.cli.loop import run_async

    return run_async(_suspects(gate_settings(redis_url, config_file, simulate=simulate), as_json))


@budgets.command(short_help="Free suspects: count them as not billed.")
@click.argument("holds", metavar="[HOLD]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All suspects.")
@click.option("--yes", is_flag=True, help="Free them, although they may have been billed.")
@gate_options
def release(
    holds: tuple[str, ...],
    everything: bool,
    yes: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Free the suspects HOLD, or all: from now on their money counts as not spent.

    Look into the upstream's activity first. Should a bill for one come after all, it is booked all the same.
    """
    if bool(holds) == everything:
        raise click.UsageError("name suspects, or say --all; `batchmill budgets suspects` lists them")
    from batchmill.cli.loop import run_async

    settings = gate_settings(redis_url, config_file, simulate=simulate)
    return run_async(_release(settings, holds, yes))


@budgets.command("accept-restored", short_help="Go on with a Redis that was restored from an older copy.")
@gate_options
def accept_restored(simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Let the fleet go on after it noticed that Redis holds older books than before.

    What was spent since that copy was made is not in them: lower the budgets by it before you accept.
    """
    from batchmill.cli.loop import run_async

    return run_async(_accept(gate_settings(redis_url, config_file, simulate=simulate)))


async def _show(settings: "Settings", as_json: bool) -> int:
    from batchmill.cli.budget_views import print_budgets
    from batchmill.store import gauges
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        print_budgets(await gauges.budgets(store.redis, settings.upstream_name), as_json=as_json)
    return exit_codes.OK


async def _raise(settings: "Settings", name: str, limit: Decimal) -> int:
    from batchmill.cli.budget_views import describe
    from batchmill.openrouter.money import dollars, to_nano
    from batchmill.store import gauges, lanes
    from batchmill.store.connection import open_store
    from batchmill.store.policy import raise_budget

    upstream = settings.upstream_name
    async with open_store(settings) as store:
        raised = await raise_budget(store.redis, upstream, name, to_nano(limit), operator())
        await lanes.unpark_all(store.redis, upstream)
        found = [gauge for gauge in await gauges.budgets(store.redis, upstream) if gauge.name == name]
    verb = "raised" if raised.after > raised.before else "lowered" if raised.after < raised.before else "left"
    click.echo(f"{name}: {verb} from {dollars(raised.before)} to {dollars(raised.after)}", err=True)
    for gauge in found:
        click.echo(describe(gauge), err=True)
    return exit_codes.OK


async def _suspects(settings: "Settings", as_json: bool) -> int:
    from batchmill.cli.budget_views import print_suspects
    from batchmill.store import gauges
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        print_suspects(await gauges.suspects(store.redis, settings.upstream_name), as_json=as_json)
    return exit_codes.OK


async def _release(settings: "Settings", holds: tuple[str, ...], yes: bool) -> int:
    from batchmill.cli.budget_views import in_all
    from batchmill.store import gauges, suspects
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        known = {suspect.hold: suspect for suspect in await gauges.suspects(store.redis, settings.upstream_name)}
        for hold in holds:
            if hold not in known:
                raise click.UsageError(f"no suspect '{hold}' here; `batchmill budgets suspects` lists them")
        asked = list(dict.fromkeys(holds)) or list(known)
        if asked and not yes:
            told = in_all([known[hold] for hold in asked])
            raise click.UsageError(f"{told} may have been billed; --yes frees the money all the same")
        freed = await suspects.release(store.redis, settings.upstream_name, asked, operator()) if asked else []
    click.echo(f"freed: {in_all([known[hold] for hold in freed])}", err=True)
    return exit_codes.OK


async def _accept(settings: "Settings") -> int:
    from batchmill.store import epoch
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        await epoch.accept(store.redis, settings.upstream_name, operator())
    click.echo("the books count as they are; workers go on by themselves", err=True)
    return exit_codes.OK
