"""An async command from its first await to its exit code; signals end it in order."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvloop
from redis.exceptions import RedisError

from batchmill.cli import exit_codes
from batchmill.store.errors import StoreError


def run_async(command: Coroutine[Any, Any, int]) -> int:
    """Run a command; return its exit code, or that of an interrupted command. Raises StoreError when Redis goes."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_signal(command))


async def _until_signal(command: Coroutine[Any, Any, int]) -> int:
    task = asyncio.ensure_future(command)
    _hear(task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return exit_codes.DETACHED
    except RedisError as error:
        raise StoreError(f"Redis went away ({error}); what was handed over is kept, try again") from error


@contextmanager
def on_signals(act: Callable[[], object]) -> Iterator[None]:
    """Call `act` for each SIGINT and SIGTERM; afterwards they cancel the current task, as before."""
    _hear(act)
    try:
        yield
    finally:
        task = asyncio.current_task()
        if task is not None:
            _hear(task.cancel)


@contextmanager
def asking() -> Iterator[None]:
    """Let Ctrl-C end a question that blocks: it raises KeyboardInterrupt, for no loop runs that could hear of it."""
    asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
    try:
        yield
    finally:
        task = asyncio.current_task()
        if task is not None:
            _hear(task.cancel)


def _hear(act: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, act)
