"""`batchmill serve`: OpenAI's API over HTTP, the dashboard, and a fleet beside it if wanted."""

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.options import POSITIVE, read_settings, require_upstream, store_options

if TYPE_CHECKING:
    import asyncio
    from contextlib import AsyncExitStack

    from batchmill.config.settings import Settings
    from batchmill.store.connection import Store
    from batchmill.workers.fleet import Fleet

_LAST_PORT = 65_535
_LATELY = 60.0  # seconds; a worker of ours gave a sign of life in them
_FOR_THE_REST = 64  # connections to Redis beside one for each client: background tasks


@click.command(short_help="Listen: OpenAI's API over HTTP, and the dashboard.")
@click.option("--host", metavar="ADDRESS", help="Listen there (default 127.0.0.1); elsewhere than loopback needs keys.")
@click.option("--port", type=click.IntRange(0, _LAST_PORT), metavar="N", help="Listen at this port (default 8080).")
@click.option("--workers", type=POSITIVE, metavar="N", help="Run so many worker processes, too (default: none).")
@click.option("--concurrency", type=POSITIVE, metavar="N", help="Lines in the air, each worker (default 100).")
@click.option("--simulate", is_flag=True, help="Rehearse with --workers: no key, no cost.")
@store_options
def serve(
    host: str | None,
    port: int | None,
    workers: int | None,
    concurrency: int | None,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Serve OpenAI's Files, Batches, Models and Chat Completions, and a dashboard, until SIGTERM or Ctrl-C.

    Any number of these share one Redis; what was uploaded lies where [storage] in the config says.

    \b
    batchmill serve --workers 1 --simulate
    batchmill serve --host 0.0.0.0 --port 8080
    """
    import msgspec

    from batchmill.cli.loop import run_async

    settings = read_settings(config_file, redis_url, simulate=simulate, processes=workers, concurrency=concurrency)
    if workers:
        require_upstream(settings)
    wishes = {"host": host, "port": port}
    given = {name: value for name, value in wishes.items() if value is not None}
    settings = msgspec.structs.replace(settings, service=msgspec.structs.replace(settings.service, **given))
    return run_async(_serve(settings, with_workers=bool(workers)))


async def _serve(settings: "Settings", *, with_workers: bool) -> int:
    import asyncio
    from contextlib import AsyncExitStack

    from batchmill.cli.loop import on_signals
    from batchmill.config.errors import ConfigError
    from batchmill.service.serving import serve as listen
    from batchmill.store.api_keys import any_made
    from batchmill.store.connection import open_store
    from batchmill.store.presence import workers_alive

    stop = asyncio.Event()
    # who waits for a chat, or for more of a file, holds a connection meanwhile, and must keep nobody else waiting
    connections = settings.service.max_connections + _FOR_THE_REST
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings, max_connections=connections))
        fleet = await _fleet(stack, settings, store) if with_workers else None

        def hear() -> None:
            if stop.is_set() and fleet is not None:
                fleet.signal(signal.SIGTERM)
            stop.set()

        stack.enter_context(on_signals(hear))

        open_house = not await any_made(store.redis, settings.upstream_name)

        alone = not with_workers and not await workers_alive(store.redis, settings.upstream_name)
        rehearsal = " --simulate" if settings.simulate else ""

        def ready(url: str) -> None:
            if open_house:
                click.echo(f"no API key: loopback only; `batchmill keys create NAME{rehearsal}` makes one", err=True)
            if alone:
                click.echo(f"no worker yet: what is handed over waits for `batchmill worker{rehearsal}`", err=True)
            click.echo(f"batchmill at {url}, for OpenAI's clients: {url}/v1; Ctrl-C stops", err=True)

        farewell = asyncio.create_task(_say_what_ends(stop, store, settings, fleet))
        stack.callback(farewell.cancel)
        try:
            await listen(store.redis, settings, ready, stop)
        except OSError as error:
            where = f"{settings.service.host}:{settings.service.port}"
            raise ConfigError(f"can't listen at {where}: {_why(error)}") from error
    return exit_codes.OK


def _why(error: OSError) -> str:
    """Return why a socket can't be had, and what helps. asyncio puts the address into `strerror` once more."""
    import errno
    import os

    said = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error.strerror)
    if error.errno == errno.EADDRINUSE:
        return f"{said}, perhaps by another `batchmill serve`; choose another with --port"
    if error.errno == errno.EACCES:
        return f"{said}; ports below 1024 are for root, choose another with --port"
    return f"{said}; --host takes an address of this machine, or 0.0.0.0 for all of them"


async def _say_what_ends(stop: "asyncio.Event", store: "Store", settings: "Settings", fleet: "Fleet | None") -> None:
    """Once we are told to stop, say what we wait for, and how not to."""
    from redis.exceptions import RedisError

    from batchmill.cli.words import lines
    from batchmill.store.presence import workers

    await stop.wait()
    if fleet is None:
        click.echo("stopping when requests have ended", err=True)
        return
    calls = "calls"
    with contextlib.suppress(RedisError):
        own = {str(pid) for pid in fleet.pids}
        there = await workers(store.redis, settings.upstream_name, _LATELY)
        calls = lines(sum(sum(each.in_air.values()) for each in there if each.id.split("-")[-2] in own))
    click.echo(f"stopping when requests have ended and {calls} in the air have landed; Ctrl-C again hurries", err=True)


async def _fleet(stack: "AsyncExitStack", settings: "Settings", store: "Store") -> "Fleet":
    """Start the workers: at the first signal they end after the last request, a second one hurries them."""
    from batchmill.cli.rehearsal import rehearsal
    from batchmill.workers.fleet import Fleet
    from batchmill.workers.policy_watch import policy_in_force

    if settings.simulate:
        settings = await stack.enter_async_context(rehearsal(settings))
    await stack.enter_async_context(policy_in_force(store.redis, settings))
    return await stack.enter_async_context(Fleet(settings, store.url, server=store.server))
