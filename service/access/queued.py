"""How many lines an API key may have waiting."""

from redis.asyncio import Redis

from batchmill.service import problems
from batchmill.service.context import Service
from batchmill.service.identity import Identity
from batchmill.store import backlog


async def check_queue(service: Service, identity: Identity, lines: int) -> None:
    """Refuse lines that are more than the key may have waiting, together with those that do. Raises ApiError (429).

    A guard against floods and no promise: what is checked in the same instant may pass together.
    """
    most = identity.max_queued_lines
    if most is None or identity.key_id is None:
        return
    waiting = await queued_lines(service.redis, identity.key_id)
    if waiting + lines > most:
        raise problems.ApiError(
            429,
            f"This API key may have {most:,} lines waiting; {waiting:,} are, and these are {lines:,}. "
            "Try again when some of them are done.",
            kind="rate_limit_error",
            code="too_many_queued_lines",
            headers={"retry-after": "30"},
        )


async def queued_lines(redis: Redis, key_id: str) -> int:
    """Return how many lines of live batches that a key handed over have no result yet."""
    return sum(lines for owner, lines in await backlog.lines_left(redis, "key") if owner == key_id)
