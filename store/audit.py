"""What operators did, kept for those who ask later: a stream, capped."""

import msgspec
from redis.asyncio import Redis

from batchmill.store import keys

_KEPT = 10_000


async def note(redis: Redis, upstream: str, who: str, what: str, detail: dict[str, str | int]) -> None:
    """Note one deed. The stream's own ids tell when, by the clock of Redis."""
    text = msgspec.json.encode(detail)
    name = keys.audit(upstream)
    await redis.execute_command("XADD", name, "MAXLEN", "~", _KEPT, "*", "who", who, "what", what, "detail", text)
