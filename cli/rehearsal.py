"""A simulator of our own beside a command that was given `--simulate`."""

import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec

from batchmill.config.errors import BatchmillError
from batchmill.config.settings import Secret, Settings

_KEY = Secret("sk-or-v1-rehearsal")  # the simulator wants one, and takes any


@asynccontextmanager
async def rehearsal(settings: Settings) -> AsyncIterator[Settings]:
    """Start a simulator, and yield settings that point to it. It ends when we do, however that happens."""
    process = await create_subprocess_exec(
        sys.executable,
        *("-m", "batchmill.cli", "simulate", "--port", "0", "--until-stdin-closes"),
        stdin=PIPE,
        stdout=PIPE,
        start_new_session=True,  # Ctrl-C is meant for us: lines in the air want their answers
    )
    try:
        said = await process.stdout.readline() if process.stdout else b""
        if not said:
            raise BatchmillError("the simulator did not start; try `batchmill simulate` to see why")
        upstream = msgspec.structs.replace(settings.upstream, base_url=said.decode().strip())
        yield msgspec.structs.replace(settings, upstream=upstream, api_key=_KEY, simulate=True)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
