"""`batchmill worker`: work on whatever was submitted."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.options import POSITIVE, read_settings, require_upstream, store_options

if TYPE_CHECKING:
    from batchmill.config.settings import Settings


@click.command(short_help="Work on submitted lines until told to stop.")
@click.option("--processes", type=POSITIVE, metavar="N", help="Worker processes (default 1).")
@click.option("--concurrency", type=POSITIVE, metavar="N", help="Lines in the air, each process (default 100).")
@click.option("--simulate", is_flag=True, help="Work on what was submitted with --simulate: no key, no cost.")
@store_options
def worker(
    processes: int | None,
    concurrency: int | None,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Run worker processes until SIGTERM or Ctrl-C; then what is in the air is finished first.

    Any number of them, on any number of machines, share the work of one Redis. A second signal hurries them.

    \b
    batchmill worker --processes 2 --concurrency 200
    batchmill worker --simulate
    """
    from batchmill.cli.loop import run_async

    settings = read_settings(config_file, redis_url, simulate=simulate, processes=processes, concurrency=concurrency)
    require_upstream(settings)
    return run_async(_work(settings))


async def _work(settings: "Settings") -> int:
    import asyncio
    from contextlib import AsyncExitStack

    from batchmill.cli.loop import on_signals
    from batchmill.cli.rehearsal import rehearsal
    from batchmill.store.connection import open_store, printable
    from batchmill.workers.fleet import Fleet
    from batchmill.workers.policy_watch import policy_in_force

    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        if settings.simulate:
            settings = await stack.enter_async_context(rehearsal(settings))
        store = await stack.enter_async_context(open_store(settings))
        await stack.enter_async_context(policy_in_force(store.redis, settings))
        fleet = Fleet(settings, store.url, server=store.server)

        def hear() -> None:
            if stop.is_set():
                fleet.signal(signal.SIGTERM)
            stop.set()

        stack.enter_context(on_signals(hear))
        await stack.enter_async_context(fleet)
        count = settings.worker.processes
        noun = "worker" if count == 1 else "workers"
        click.echo(f"{count} {noun} for {settings.upstream_name} on {printable(store.url)}; Ctrl-C stops", err=True)
        stopping = asyncio.create_task(stop.wait())
        failing = asyncio.create_task(fleet.wait())
        await asyncio.wait([stopping, failing], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if failing.done():
            failing.result()
    return exit_codes.OK
