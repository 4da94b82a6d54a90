"""What operators did: who, what, when (ms of the Redis clock), and the details, newest first."""

from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from batchmill.openrouter.money import to_usd
from batchmill.store import keys

_KEPT = 10_000


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that somebody did."""

    who: str
    what: str
    at: int
    detail: dict[str, Any]


def limit_entry(who: str, name: str, before: int, after: int, at: int = 0) -> Entry:
    """Return that the limit of a budget is another one from then on (nano-dollars)."""
    detail = {"budget": name, "before_usd": str(to_usd(before)), "after_usd": str(to_usd(after))}
    return Entry(who=who, what="budget.lowered" if after < before else "budget.raised", at=at, detail=detail)


def note(pipe: Pipeline, upstream: str, entry: Entry) -> None:
    """Add an entry to a pipeline, so that it is written together with what it tells."""
    detail = msgspec.json.encode(entry.detail)
    fields = ["who", entry.who, "what", entry.what, "at", entry.at, "detail", detail]
    pipe.execute_command("XADD", keys.audit(upstream), "MAXLEN", "~", _KEPT, "*", *fields)


async def entries(redis: Redis, upstream: str, count: int) -> list[Entry]:
    """Return the newest entries."""
    found = await redis.execute_command("XREVRANGE", keys.audit(upstream), "+", "-", "COUNT", count)
    return [
        Entry(
            who=fields[b"who"].decode(),
            what=fields[b"what"].decode(),
            at=int(fields[b"at"]),
            detail=msgspec.json.decode(fields[b"detail"]),
        )
        for _, fields in found
    ]
