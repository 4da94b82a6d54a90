"""A worker process: `python -m batchmill.workers`, told its settings on standard input by a `Fleet`."""

import asyncio
import sys

import uvloop

from batchmill.config.logs import set_up
from batchmill.config.settings import Settings
from batchmill.workers.fleet import unpack_settings
from batchmill.workers.process import WorkerProcess


def main() -> None:
    """Work until a signal says stop."""
    settings, redis_url = unpack_settings(sys.stdin.buffer.read())
    set_up(settings.log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_work(settings, redis_url))


async def _work(settings: Settings, redis_url: str) -> None:
    await WorkerProcess(settings, redis_url).run()


if __name__ == "__main__":
    main()
