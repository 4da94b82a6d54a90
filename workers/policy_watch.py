"""The policy of the config file is in force while its command works, and a change of the file is within seconds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from batchmill.config.errors import BatchmillError
from batchmill.config.settings import Settings, load
from batchmill.store import policy
from batchmill.store.connection import outlive
from batchmill.workers.tasks import end

log = structlog.get_logger()

_LOOK_EVERY = 1.0  # seconds

Signature = tuple[int, int, int]


@asynccontextmanager
async def policy_in_force(redis: Redis, settings: Settings, *, look_every: float = _LOOK_EVERY) -> AsyncIterator[None]:
    """Apply the file's policy, if it has one, and apply it again whenever the file changes."""
    source = str(settings.config_file)
    if settings.policy is not None:
        await policy.apply(redis, settings.upstream_name, settings.policy, source)
    if settings.config_file is None:
        yield
        return
    watching = asyncio.create_task(_watch(redis, settings, settings.config_file, look_every), name="policy watch")
    try:
        yield
    finally:
        await end([watching])


async def _watch(redis: Redis, settings: Settings, file: Path, look_every: float) -> None:
    """Load the file anew once it has changed and then stood still for a look: nobody reads what is half written."""
    seen, loaded = _signature(file), None
    while True:
        await asyncio.sleep(look_every)
        before, seen = seen, _signature(file)
        if seen == before and seen not in (None, loaded):
            loaded = seen
            await _load(redis, settings, file)


async def _load(redis: Redis, settings: Settings, file: Path) -> None:
    """Apply what the file says now; with a file that is wrong, what was in force stays so."""
    try:
        found = (await asyncio.to_thread(load, file, simulate=settings.simulate)).policy
        if found is None:
            return
        before = await outlive(lambda: policy.live(redis, settings.upstream_name))
        applied = await outlive(lambda: policy.apply(redis, settings.upstream_name, found, str(file)))
    except (BatchmillError, RedisError) as error:
        log.error("policy.refused", file=str(file), error=str(error))
        return
    if applied.version != before.version:
        log.info("policy.in_force", file=str(file), version=applied.version)


def _signature(file: Path) -> Signature | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
