"""How many lines an API key may have waiting."""

from redis.asyncio import Redis

from batchmill.service import problems
from batchmill.service.context import Service
from batchmill.service.identity import Identity
from batchmill.store import backlog, service_keys


async def check_queue(service: Service, identity: Identity, lines: int) -> None:
    """Refuse lines that are more than the key may have waiting, together with those that do. Raises ApiError (429).

    A guard against floods and no promise: what is checked in the same instant may pass together.
    """
    most = identity.max_queued_lines
    if most is None or identity.key_id is None:
        return
    waiting = await queued_lines(service.redis, service.upstream, identity.key_id)
    if waiting + lines > most:
        raise problems.ApiError(
            429,
            f"This API key may have {most:,} lines waiting; {waiting:,} are, and these are {lines:,}. "
            "Try again when some of them are done.",
            kind="rate_limit_error",
            code="too_many_queued_lines",
            headers={"retry-after": "30"},
        )


async def queued_lines(redis: Redis, upstream: str, key_id: str, *, before: str | None = None) -> int:
    """Return how many lines that a key handed over have no result yet: of live batches, and of those that are still
    validating as far as they were counted; with `before`, of the latter only those that were created before that one.
    """
    coming = await _coming(redis, upstream, key_id)  # looked at first: what is let go meanwhile is in both
    live = {batch_id: (owner, lines) for batch_id, owner, lines in await backlog.lines_left(redis, "key")}
    waiting = sum(
        lines for batch_id, lines in coming.items() if batch_id not in live and (before is None or batch_id < before)
    )
    return waiting + sum(lines for owner, lines in live.values() if owner == key_id)


async def _coming(redis: Redis, upstream: str, key_id: str) -> dict[str, int]:
    """Return the lines of each intake that is not over, that an API key handed over, and whose lines were counted."""
    found = await redis.execute_command("ZRANGE", service_keys.intakes(upstream), 0, -1)
    names = [name.decode() for name in found]
    async with redis.pipeline(transaction=False) as pipe:
        for batch_id in names:
            pipe.execute_command("HMGET", service_keys.intake(batch_id), "key", "lines")
        facts = await pipe.execute() if names else []
    return {
        batch_id: int(lines)
        for batch_id, (owner, lines) in zip(names, facts, strict=True)
        if lines is not None and owner == key_id.encode()
    }
