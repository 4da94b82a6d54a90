"""A worker process: `python -m batchmill.workers`, told its settings on standard input by a `Fleet`."""

import asyncio
import resource
import sys
from contextlib import AsyncExitStack

import msgspec
import structlog
import uvloop

from batchmill.config.logs import set_up
from batchmill.config.settings import Settings
from batchmill.store.embedded import EmbeddedServer
from batchmill.workers.fleet import Handover, unpack_handover
from batchmill.workers.process import WorkerProcess

_OTHER_FILES = 128  # Redis connections, logs, libraries


def main() -> None:
    """Work until a signal says stop."""
    settings, handover = unpack_handover(sys.stdin.buffer.read())
    set_up(settings.log)
    fitting = fit_open_files(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_work(fitting, handover))


async def _work(settings: Settings, handover: Handover) -> None:
    async with AsyncExitStack() as stack:
        server = None
        if handover.embedded:  # a user of its own: nobody else's leaving stops the server under us
            server = await stack.enter_async_context(EmbeddedServer(settings.data_dir))
        await WorkerProcess(settings, handover.redis_url, server=server, supervisor=handover.supervisor).run()


def fit_open_files(settings: Settings) -> Settings:
    """Take as many open files as the system lets us, and fewer lines at once when even these don't suffice.

    Every line in the air is a socket; running out of them would look like an upstream that refuses connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.worker.concurrency + _OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= wanted:
        return settings
    concurrency = max(1, soft - _OTHER_FILES)
    structlog.get_logger().warning("concurrency.cut", concurrency=concurrency, open_files=soft)
    worker = msgspec.structs.replace(settings.worker, concurrency=concurrency)
    return msgspec.structs.replace(settings, worker=worker)


if __name__ == "__main__":
    main()
