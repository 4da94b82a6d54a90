"""`batchmill keys`: who may use the service, for what, and within which bounds."""

import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, json_option, operator, usd
from batchmill.cli.options import POSITIVE

if TYPE_CHECKING:
    from batchmill.config.settings import Settings
    from batchmill.config.windows import WindowKind
    from batchmill.store.api_keys import Wanted

_WINDOW = click.Choice(("day", "week", "month", "total"))
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_TIME = re.compile(r"([1-9][0-9]{0,4})([mhd])")


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:  # noqa: ARG001 - click's callback
    """Read a time: 90d, 12h, 30m."""
    if value is None:
        return None
    found = _TIME.fullmatch(value)
    if found is None:
        raise click.BadParameter(f"'{value}' is no time; e.g. 90d, 12h or 30m")
    return int(found[1]) * _UNITS[found[2]]


@click.group(short_help="Make, list and revoke API keys of the service.")
def keys() -> None:
    """Make, list and revoke the API keys by which programs and people use `batchmill serve`.

    Only a hash of a key is kept, so its text is told once. Until the first one is made, the service answers this
    machine alone; from then on nobody without a key.

    \b
    batchmill keys create ci --project web --expires 90d
    batchmill keys create eve --project evals --budget 20 --window month
    batchmill keys list
    batchmill keys revoke ci
    """


@keys.command(short_help="Make a key, and print it once.")
@click.argument("name", metavar="NAME")
@click.option("--project", metavar="P", help="It sees this project alone (default: default).")
@click.option("--all-projects", is_flag=True, help="It sees every project: an operator's key.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(("submit", "read", "admin")),
    multiple=True,
    help="What it is good for; again for more (default: submit and read).",
)
@click.option("--expires", "lasts", metavar="TIME", callback=_seconds, help="Let it end after that time, e.g. 90d.")
@click.option("--budget", metavar="USD", callback=lambda c, p, v: v and usd(c, p, v), help="The most it may spend ...")
@click.option("--window", type=_WINDOW, default="total", help="... in a day, week or month (UTC), or in total.")
@click.option("--requests-per-minute", type=POSITIVE, metavar="N", help="How often it may ask.")
@click.option("--max-queued-lines", type=POSITIVE, metavar="N", help="How many of its lines may wait.")
@json_option("An object, with the key in it.")
@gate_options
def create(
    name: str,
    project: str | None,
    all_projects: bool,
    scopes: tuple[str, ...],
    lasts: int | None,
    budget: Decimal | None,
    window: str,
    requests_per_minute: int | None,
    max_queued_lines: int | None,
    as_json: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Make the key NAME. It alone goes to standard output, so that a script can take it; it is not to be had again."""
    from batchmill.cli.loop import run_async
    from batchmill.config.windows import WindowKind
    from batchmill.store.api_keys import Wanted

    if project and all_projects:
        raise click.UsageError("--project and --all-projects exclude each other")
    wanted = Wanted(
        name=name,
        project=None if all_projects else project or "default",
        scopes=scopes or ("submit", "read"),
        lasts=lasts,
        budget_usd=budget,
        window=WindowKind(window),
        requests_per_minute=requests_per_minute,
        max_queued_lines=max_queued_lines,
    )
    return run_async(_create(gate_settings(redis_url, config_file, simulate=simulate), wanted, as_json=as_json))


@keys.command("list", short_help="List the keys that were made.")
@json_option("A list of objects.")
@gate_options
def list_keys(as_json: bool, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """List every key that was made, also those that are revoked or expired; never a secret."""
    from batchmill.cli.loop import run_async

    return run_async(_list(gate_settings(redis_url, config_file, simulate=simulate), as_json=as_json))


@keys.command(short_help="Let a key open nothing any more.")
@click.argument("key", metavar="ID")
@gate_options
def revoke(key: str, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Revoke the key ID (or its name): within two seconds no gateway takes it any more.

    What it handed over goes on, within its budget; `batchmill cancel` ends a batch.
    """
    from batchmill.cli.loop import run_async

    return run_async(_revoke(gate_settings(redis_url, config_file, simulate=simulate), key))


@keys.command(short_help="Give a key another budget.")
@click.argument("key", metavar="ID")
@click.option("--budget", metavar="USD", callback=lambda c, p, v: v and usd(c, p, v), help="The most it may spend ...")
@click.option("--window", type=_WINDOW, help="... in a day, week or month (UTC), or in total (default: as it was).")
@click.option("--no-budget", is_flag=True, help="It may spend what the other budgets leave.")
@gate_options
def update(
    key: str,
    budget: Decimal | None,
    window: str | None,
    no_budget: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Set the budget of the key ID (or its name), up or down, for all that it handed over, from this instant.

    In another window nothing counts as spent yet. A lower limit takes back nothing that is spent or in the air.
    """
    from batchmill.cli.loop import run_async
    from batchmill.config.windows import WindowKind

    if (budget is None) != no_budget:
        raise click.UsageError("say --budget USD, or --no-budget")
    settings = gate_settings(redis_url, config_file, simulate=simulate)
    return run_async(_update(settings, key, budget, WindowKind(window) if window else None))


async def _create(settings: "Settings", wanted: "Wanted", *, as_json: bool) -> int:
    from batchmill.cli.key_views import describe, made_object
    from batchmill.producer.render import to_json
    from batchmill.store import api_keys, key_budgets
    from batchmill.store.connection import open_store

    upstream = settings.upstream_name
    async with open_store(settings) as store:
        made = await api_keys.create(store.redis, upstream, wanted, operator())
        budget = (await key_budgets.every(store.redis, upstream)).get(made.key.id)
    click.echo(to_json(made_object(made, budget)) if as_json else made.text)
    click.echo(f"{describe(made.key, budget)}; keep it, it is not to be had again", err=True)
    return exit_codes.OK


async def _list(settings: "Settings", *, as_json: bool) -> int:
    from batchmill.cli.key_views import Shelf, print_keys
    from batchmill.store import api_keys, key_budgets
    from batchmill.store.clock import now_ms
    from batchmill.store.connection import open_store

    upstream = settings.upstream_name
    async with open_store(settings) as store:
        shelf = Shelf(
            await api_keys.every(store.redis, upstream),
            await key_budgets.every(store.redis, upstream),
            await api_keys.used(store.redis, upstream),
            await now_ms(store.redis) // 1000,
        )
    print_keys(shelf, as_json=as_json)
    return exit_codes.OK


async def _revoke(settings: "Settings", given: str) -> int:
    from batchmill.store import api_keys
    from batchmill.store.connection import open_store

    upstream = settings.upstream_name
    async with open_store(settings) as store:
        key = await api_keys.find(store.redis, upstream, given)
        await api_keys.revoke(store.redis, upstream, key.id, operator())
    click.echo(f"revoked: {key.name} ({key.id}); no gateway takes it from two seconds on", err=True)
    return exit_codes.OK


async def _update(settings: "Settings", given: str, budget: Decimal | None, window: "WindowKind | None") -> int:
    from batchmill.cli.key_views import describe
    from batchmill.store import api_keys, key_budgets, lanes
    from batchmill.store.connection import open_store

    upstream = settings.upstream_name
    async with open_store(settings) as store:
        key = await api_keys.find(store.redis, upstream, given)
        await api_keys.set_budget(store.redis, upstream, key.id, budget, window, operator())
        await lanes.unpark_all(store.redis, upstream)
        now = (await key_budgets.every(store.redis, upstream)).get(key.id)
    click.echo(describe(key, now), err=True)
    return exit_codes.OK
