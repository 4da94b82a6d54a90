"""Which batches and intakes there are, of a project or of all: newest first, by pages that nothing new shifts."""

import contextlib

import msgspec
from redis.asyncio import Redis

from batchmill.store import batches, keys, service_keys
from batchmill.store.clock import now_ms
from batchmill.store.errors import UnknownBatchError
from batchmill.store.model import BatchStatus
from batchmill.store.staging import batch_id_at

_DAY = 86_400


class Page(msgspec.Struct, frozen=True):
    """Some ids of batches and intakes, newest first, and whether there are older ones."""

    ids: tuple[str, ...]
    has_more: bool


async def page(redis: Redis, project: str | None, after: str | None, limit: int) -> Page:
    """Return the next ids of a project (None: of all) that are older than `after`, which need not exist any more.

    Ids of intakes and batches, whatever their state; one may be gone by now. What comes meanwhile changes no later
    page.
    """
    end = "+" if after is None else f"({after}"
    found = await redis.execute_command("ZREVRANGEBYLEX", service_keys.index(project), end, "-", "LIMIT", 0, limit + 1)
    ids = tuple(member.decode().partition("|")[0] for member in found[:limit])
    return Page(ids, len(found) > limit)


async def newest(redis: Redis, count: int, upstream: str | None = None) -> list[BatchStatus]:
    """Return the newest batches (for one upstream), newest first.

    Without those that are no batch yet, and single lines of a chat.
    """
    found: list[BatchStatus] = []
    after: str | None = None
    while len(found) < count:
        some = await page(redis, None, after, count)
        for batch_id in some.ids:
            with contextlib.suppress(UnknownBatchError):  # an intake, or expired: maintenance drops it from the list
                status = await batches.status(redis, batch_id)
                if upstream in (None, status.upstream):
                    found.append(status)
        if not some.has_more:
            break
        after = some.ids[-1]
    return found[:count]


async def drop_expired(redis: Redis, retention_days: int) -> None:
    """Take batches that are older than what is kept out of the lists, unless they are still there."""
    horizon = await now_ms(redis) // 1000 - retention_days * _DAY
    for batch_id in await redis.execute_command("ZRANGEBYSCORE", keys.batches(), "-inf", horizon):
        if not await batches.exists(redis, batch_id.decode()):
            await redis.execute_command("ZREM", keys.batches(), batch_id)
    end = f"({batch_id_at(horizon)}"
    for member in await redis.execute_command("ZRANGEBYLEX", service_keys.index(None), "-", end):
        gone, _, project = member.decode().partition("|")
        if not await redis.execute_command("EXISTS", keys.batch(gone), service_keys.intake(gone)):
            await redis.execute_command("ZREM", service_keys.index(project), gone)
            await redis.execute_command("ZREM", service_keys.index(None), member)
