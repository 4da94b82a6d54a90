"""`batchmill archive`: what is kept of the ledger beside Redis."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, json_option

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from batchmill.config.settings import Settings


@click.group(short_help="Show and fill the local copy of the usage records.")
def archive() -> None:
    """Show and fill the local copy of the usage records, which [archive] in the config file names."""


@archive.command(short_help="Show what is there, and since when records wait.")
@json_option("An object.")
@gate_options
def status(as_json: bool, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Show how many records this machine's archive has, and since when others wait to be copied.

    \b
    batchmill archive status
    """
    from batchmill.cli.loop import run_async

    return run_async(_show(gate_settings(redis_url, config_file, simulate=simulate), as_json))


@archive.command(short_help="Copy now what waits.")
@gate_options
def write(simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Copy all records that wait to this machine's archive at once; workers do it every [archive] interval.

    \b
    batchmill archive write
    """
    from batchmill.cli.loop import run_async

    return run_async(_write(gate_settings(redis_url, config_file, simulate=simulate)))


async def _show(settings: "Settings", as_json: bool) -> int:
    from batchmill.cli.words import moment
    from batchmill.producer.render import to_json
    from batchmill.store.connection import open_store

    _require_archive(settings)
    async with open_store(settings) as store:
        facts = await _facts(store.redis, settings)
    if as_json:
        click.echo(to_json(facts))
        return exit_codes.OK
    click.echo(f"{facts['kind']} {facts['path']}: {facts['records']:,} records, {facts['bytes']:,} bytes")
    if facts["last"] is not None:
        click.echo(f"from {moment(facts['first'] / 1000)} to {moment(facts['last'] / 1000)}")
    waiting = facts["waiting_since"]
    click.echo("no record waits" if waiting is None else f"records wait since {moment(waiting / 1000)}")
    return exit_codes.OK


async def _facts(redis: "Redis", settings: "Settings") -> dict[str, Any]:
    """Return what is to be told; times in ms."""
    from batchmill.archive.place import open_shelf, place_of
    from batchmill.archive.shelf import Origin
    from batchmill.store import usage_log

    upstream = settings.upstream_name
    origin = Origin(upstream, await usage_log.books(redis, upstream))
    shelf = await asyncio.to_thread(open_shelf, settings)
    if shelf is None:
        return {}
    try:
        tally = await asyncio.to_thread(shelf.tally, upstream)
        cursor = await asyncio.to_thread(shelf.cursor, origin)
    finally:
        shelf.close()
    return {
        "kind": settings.archive.kind,
        "path": str(place_of(settings)),
        "upstream": upstream,
        "records": tally.records,
        "bytes": tally.bytes,
        "first": tally.first,
        "last": tally.last,
        "waiting_since": await usage_log.oldest(redis, upstream, cursor),
    }


async def _write(settings: "Settings") -> int:
    from batchmill.store.connection import open_store
    from batchmill.workers.archiver import Archiver

    _require_archive(settings)
    async with open_store(settings) as store:
        added = await Archiver(store.redis, settings).look(now=True)
    click.echo(f"{added:,} records copied", err=True)
    return exit_codes.OK


def _require_archive(settings: "Settings") -> None:
    from batchmill.config.errors import ConfigError

    if settings.archive.kind == "memory":
        raise ConfigError(
            'there is no archive: records are only in Redis; set kind = "database" (or "file") under [archive] in the '
            "config file"
        )
