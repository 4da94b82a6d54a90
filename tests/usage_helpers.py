"""Usage records, and a stream of them."""

from typing import Any

import msgspec
from redis.asyncio import Redis

from batchmill.spend.ledger import UsageRecord
from batchmill.store import keys

AT = 1_700_000_000_000


def used(index: int, *, project: str = "p", batch: str = "batch_1", **fields: Any) -> UsageRecord:
    return UsageRecord(at=AT, hold=f"{batch}.{index}", project=project, batch=batch, index=index, **fields)


async def put_chunk(redis: Redis, upstream: str, *records: UsageRecord, name: str = "*") -> str:
    """Write records as one entry of the stream, as settling does; return its id."""
    fields = ["at", AT, "n", len(records), "m", msgspec.msgpack.encode(records)]
    return str((await redis.execute_command("XADD", keys.usage(upstream), name, *fields)).decode())
