"""`batchmill purge`: remove what is kept of a project or a batch, but for its money."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options, gate_settings, json_option, operator

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from batchmill.config.settings import Settings
    from batchmill.store.purge import Found
    from batchmill.store.usage_log import Whose

_NAMED = 3  # batches that are named where there are many


@click.command(short_help="Remove what is kept of a project or a batch, but for its money.")
@click.option("--project", metavar="NAME", help="All its batches and usage records.")
@click.option("--batch", "batch_id", metavar="BATCH", help="This batch and its usage records.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option("What was removed, as an object.")
@gate_options
def purge(
    project: str | None,
    batch_id: str | None,
    yes: bool,
    as_json: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Remove the results, live tokens and usage records of a project or a batch, for good.

    What was spent stays: budgets and the daily sums of `batchmill spend`. Records go from the archive of this machine,
    too; where other machines keep one, give the same command there.

    \b
    batchmill purge --batch batch_0199c0ffee00d3adb33f1234567890
    batchmill purge --project evals --yes
    """
    if bool(project) == bool(batch_id):
        raise click.UsageError("say whose: --project NAME or --batch BATCH")
    from batchmill.cli.loop import run_async
    from batchmill.store.usage_log import Whose

    settings = gate_settings(redis_url, config_file, simulate=simulate)
    return run_async(_purge(settings, Whose(project or None, batch_id or None), yes, as_json))


async def _purge(settings: "Settings", whose: "Whose", yes: bool, as_json: bool) -> int:
    from batchmill.producer.render import to_json
    from batchmill.store import purge as store_purge
    from batchmill.store.connection import open_store
    from batchmill.store.errors import UnknownBatchError

    async with open_store(settings) as store:
        there = await store_purge.find(store.redis, whose)
        upstream = (there[0].upstream if whose.batch and there else "") or settings.upstream_name
        batches = [batch for batch in there if batch.intake or batch.upstream == upstream]
        _require_ended(batches)
        if not yes:
            _ask(whose, len(batches))
        removed = await _remove(store.redis, settings, upstream, whose, batches)
        if whose.batch and not any(removed.values()):
            raise UnknownBatchError(whose.batch)
        await store_purge.note(store.redis, upstream, operator(), whose, tuple(removed.items()))
    if as_json:
        click.echo(to_json(removed))
    else:
        click.echo(f"removed {_words(removed)}; what was spent still counts", err=True)
    if left := len(there) - len(batches):
        click.echo(f"{left:,} of its batches went to another upstream and stay; see --simulate and --config", err=True)
    return exit_codes.OK


async def _remove(
    redis: "Redis", settings: "Settings", upstream: str, whose: "Whose", batches: "list[Found]"
) -> dict[str, int]:
    """Records first, batches last: after a crash the same command finds what is left."""
    from batchmill.archive.place import locked, place_of
    from batchmill.store import answers, usage_log
    from batchmill.store import purge as store_purge

    path = place_of(settings)
    if path is None:
        removed = {"records": await usage_log.forget(redis, upstream, whose), "archived": 0}
    else:
        async with locked(path, wait=True):  # or an archiver writes what it read just before
            records = await usage_log.forget(redis, upstream, whose)
            removed = {"records": records, "archived": await asyncio.to_thread(_forget, settings, upstream, whose)}
    removed["answers"] = 0
    if whose.project is not None:
        removed["answers"] = await answers.purge(redis, upstream, whose.project)
    else:
        for batch in batches:
            removed["answers"] += await answers.purge(redis, upstream, batch.project, batch.id)
    removed["files"] = await _remove_files(redis, settings, whose)
    never = await store_purge.remove_intakes(redis, upstream, whose, settings.results.retention_days)
    ended = [await store_purge.remove(redis, batch.id) for batch in batches if not batch.intake]
    return {**removed, "batches": never + sum(ended)}


async def _remove_files(redis: "Redis", settings: "Settings", whose: "Whose") -> int:
    """Remove a project's files, or those that a batch made. A gateway removes the bytes, should we die before."""
    from batchmill.service.compat.files import sweep
    from batchmill.service.compat.ids import error_file_id, output_file_id
    from batchmill.storage.objects import open_blobs
    from batchmill.store import files

    removed = 0
    if whose.project is not None:
        removed = await files.purge(redis, whose.project)
    elif whose.batch is not None:
        for file_id in (output_file_id(whose.batch), error_file_id(whose.batch)):
            record = await files.get(redis, file_id)
            removed += record is not None and await files.delete(redis, record)
    if removed:
        await sweep(redis, open_blobs(settings))
    return removed


def _forget(settings: "Settings", upstream: str, whose: "Whose") -> int:
    from batchmill.archive.place import open_shelf

    shelf = open_shelf(settings)
    if shelf is None:
        return 0
    try:
        return shelf.forget(upstream, whose)
    finally:
        shelf.close()


def _require_ended(batches: "list[Found]") -> None:
    running = [batch.id for batch in batches if not batch.ended]
    if running:
        more = f" and {len(running) - _NAMED:,} more" if len(running) > _NAMED else ""
        raise click.UsageError(
            f"not over yet: {', '.join(running[:_NAMED])}{more}; nothing was removed. Wait for the end, or "
            f"`batchmill cancel {running[0]}`, then purge again"
        )


def _ask(whose: "Whose", batches: int) -> None:
    subject = f"batch {whose.batch}" if whose.batch else f"project {whose.project} ({batches:,} batches)"
    if not sys.stdin.isatty():
        raise click.UsageError(f"this removes what is kept of {subject} for good; --yes does it without asking")
    click.confirm(f"Remove what is kept of {subject} for good?", abort=True, err=True)


def _words(removed: dict[str, int]) -> str:
    parts = [f"{removed['batches']:,} batches", f"{removed['records']:,} usage records"]
    if removed["archived"]:
        parts.append(f"{removed['archived']:,} archived ones")
    if removed["answers"]:
        parts.append(f"{removed['answers']:,} cached answers")
    if removed["files"]:
        parts.append(f"{removed['files']:,} files")
    return ", ".join(parts)
