"""`batchmill breakers`: which models are held back, and why; trip and reset by hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, json_option, operator, print_table, until

if TYPE_CHECKING:
    from batchmill.config.settings import Settings
    from batchmill.store.gauges import ModelGauge

_COLUMNS = (
    ("model", "left"),
    ("breaker", "left"),
    ("trips", "right"),
    ("in the air", "right"),
    ("at most", "right"),
    ("paused", "left"),
)


@click.group(invoke_without_command=True, short_help="Show the breakers of models; trip or reset one.")
@json_option("A list of objects.")
@gate_options
@click.pass_context
def breakers(
    context: click.Context, as_json: bool, simulate: bool, redis_url: str | None, config_file: Path | None
) -> int:
    """Show the breaker of every model that was used lately or is paused, and how many of its lines may be in the air.

    A breaker is closed (lines go), open (none do), or half open (a few probe, in the whole fleet). Only faults of the
    provider open it.

    \b
    batchmill breakers
    batchmill breakers reset openai/gpt-4o-mini
    """
    if context.invoked_subcommand:
        return exit_codes.OK
    from batchmill.cli.loop import run_async

    return run_async(_show(gate_settings(redis_url, config_file, simulate=simulate), as_json))


@breakers.command(short_help="Open a model's breaker until it is reset.")
@click.argument("model", metavar="MODEL")
@gate_options
def trip(model: str, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Send nothing more to MODEL, in the whole fleet, until its breaker is reset; what is in the air lands."""
    from batchmill.cli.loop import run_async

    return run_async(_trip(gate_settings(redis_url, config_file, simulate=simulate), model))


@breakers.command(short_help="Close a model's breaker and forget its failures.")
@click.argument("model", metavar="MODEL")
@gate_options
def reset(model: str, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Close the breaker of MODEL and forget its failures, its trips and its adaptive share."""
    from batchmill.cli.loop import run_async

    return run_async(_reset(gate_settings(redis_url, config_file, simulate=simulate), model))


async def _show(settings: "Settings", as_json: bool) -> int:
    from batchmill.producer.render import to_json
    from batchmill.store import gauges
    from batchmill.store.clock import now_ms
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        found = await gauges.models(store.redis, settings.upstream_name)
        now = await now_ms(store.redis)
    if as_json:
        click.echo(to_json([_object(gauge) for gauge in found]))
    elif found:
        print_table(_COLUMNS, [_row(gauge, now) for gauge in found])
    else:
        click.echo("all breakers are closed, and no model is paused")
    return exit_codes.OK


async def _trip(settings: "Settings", model: str) -> int:
    from batchmill.store import operators
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        await operators.trip(store.redis, settings.upstream_name, model, operator())
    click.echo(f"the breaker of {model} is open until `batchmill breakers reset {model}`", err=True)
    return exit_codes.OK


async def _reset(settings: "Settings", model: str) -> int:
    from batchmill.store import operators
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        changed = await operators.reset(store.redis, settings.upstream_name, model, operator())
    click.echo(f"the breaker of {model} {'is' if changed else 'was already'} closed", err=True)
    return exit_codes.OK


def _row(gauge: "ModelGauge", now: int) -> list[str]:
    allowed = [count for count in (gauge.share, gauge.window) if count is not None]
    return [
        gauge.model,
        _state(gauge, now),
        str(gauge.trips),
        str(gauge.in_air),
        str(min(allowed)) if allowed else "-",
        "; ".join(f"{until(pause.until_ms, now)}: {pause.reason}" for pause in gauge.pauses),
    ]


def _state(gauge: "ModelGauge", now: int) -> str:
    if gauge.state != "open":
        return "half open" if gauge.state == "half" else gauge.state
    if gauge.tripped:
        return f"open by {gauge.tripped}, until reset"
    return f"open {until(gauge.until_ms, now)}"


def _object(gauge: "ModelGauge") -> dict[str, Any]:
    return {
        "model": gauge.model,
        "state": gauge.state,
        "until_ms": gauge.until_ms,
        "tripped_by": gauge.tripped,
        "trips": gauge.trips,
        "in_air": gauge.in_air,
        "share": gauge.share,
        "window": gauge.window,
        "pauses": [{"scope": one.scope, "until_ms": one.until_ms, "reason": one.reason} for one in gauge.pauses],
    }
