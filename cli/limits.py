"""`batchmill limits`: how fast lines may go, and how full the buckets are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, json_option, print_table, until

if TYPE_CHECKING:
    from batchmill.config.settings import Settings
    from batchmill.store.gauges import LimitGauge

_COLUMNS = (
    ("limit", "left"),
    ("bucket", "left"),
    ("requests", "right"),
    ("tokens", "right"),
    ("today", "right"),
    ("in the air", "right"),
    ("paused", "left"),
)


@click.command(short_help="Show the rate limits and how full their buckets are.")
@json_option("A list of objects.")
@gate_options
def limits(as_json: bool, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Show each limit, once for each model that used it lately, or once when all share it.

    Requests and tokens: what may go at once, of what the bucket holds, and what comes back a minute. A bucket below
    zero is paid back first. Today: the requests of this UTC day.

    \b
    batchmill limits
    batchmill limits --json | jq '.[] | select(.in_air > 0)'
    """
    from batchmill.cli.loop import run_async

    return run_async(_show(gate_settings(redis_url, config_file, simulate=simulate), as_json))


async def _show(settings: "Settings", as_json: bool) -> int:
    from batchmill.producer.render import to_json
    from batchmill.store import gauges
    from batchmill.store.clock import now_ms
    from batchmill.store.connection import open_store

    async with open_store(settings) as store:
        found = await gauges.limits(store.redis, settings.upstream_name)
        now = await now_ms(store.redis)
    if as_json:
        click.echo(to_json([_object(gauge) for gauge in found]))
    elif found:
        print_table(_COLUMNS, [_row(gauge, now) for gauge in found])
    else:
        click.echo("no limits: they are in the config file as [[limits]]")
    return exit_codes.OK


def _row(gauge: "LimitGauge", now: int) -> list[str]:
    limit = gauge.limit
    return [
        limit.name,
        "not used lately" if gauge.scope is None else "shared" if limit.shared else gauge.scope,
        _bucket(gauge.requests, limit.request_capacity, limit.requests_per_minute),
        _bucket(gauge.tokens, limit.token_capacity, limit.tokens_per_minute),
        _of(gauge.day_count, limit.requests_per_day),
        _of(gauge.in_air, limit.max_concurrency),
        "; ".join(f"{pause.scope} {until(pause.until_ms, now)}: {pause.reason}" for pause in gauge.pauses),
    ]


def _bucket(level: float | None, capacity: int, rate: int | None) -> str:
    return "-" if level is None or rate is None else f"{int(level):,} of {capacity:,} (+{rate:,}/min)"


def _of(count: int, most: int | None) -> str:
    return "-" if most is None else f"{count:,} of {most:,}"


def _object(gauge: "LimitGauge") -> dict[str, Any]:
    limit = gauge.limit
    return {
        "name": limit.name,
        "match": limit.match,
        "scope": gauge.scope,
        "shared": limit.shared,
        "requests_now": None if gauge.requests is None else int(gauge.requests),
        "requests_per_minute": limit.requests_per_minute,
        "tokens_now": None if gauge.tokens is None else int(gauge.tokens),
        "tokens_per_minute": limit.tokens_per_minute,
        "requests_today": gauge.day_count,
        "requests_per_day": limit.requests_per_day,
        "in_air": gauge.in_air,
        "max_concurrency": limit.max_concurrency,
        "pauses": [{"scope": one.scope, "until_ms": one.until_ms, "reason": one.reason} for one in gauge.pauses],
    }
