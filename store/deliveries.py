"""Alerts on their way to webhooks: each is taken by one worker at a time, and again later until it has arrived.

queued (with the alert) ──take──► ours for a lease ──arrived──► gone
                             ▲                      └─failed──► due again after a pause ──too often──► gone
                             └── whoever took it died: due after the lease
"""

import msgspec
from redis.asyncio import Redis

from batchmill.store import keys
from batchmill.store.clock import now_ms
from batchmill.store.scripts import Script

_deliver = Script("deliver")
_MOST = 100  # at a time


class Delivery(msgspec.Struct, frozen=True):
    """One alert for one webhook, and how many tries failed."""

    webhook: str
    alert_id: str
    failed: int = 0

    @property
    def member(self) -> str:
        """How it is written in Redis."""
        return f"{self.webhook} {self.alert_id}"


async def take(redis: Redis, upstream: str, lease: float) -> list[Delivery]:
    """Return the deliveries that are due; they are ours for `lease` seconds."""
    found = await _deliver(redis, [keys.deliveries(upstream)], [round(lease * 1000), _MOST])
    if not found:
        return []
    tries = await redis.execute_command("HMGET", keys.delivery_failures(upstream), *found)
    read = []
    for member, failed in zip(found, tries, strict=True):
        webhook, _, alert_id = member.decode().partition(" ")
        read.append(Delivery(webhook, alert_id, int(failed or 0)))
    return read


async def drop(redis: Redis, upstream: str, delivery: Delivery) -> None:
    """Forget a delivery: it has arrived, or never will."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("ZREM", keys.deliveries(upstream), delivery.member)
        pipe.execute_command("HDEL", keys.delivery_failures(upstream), delivery.member)
        await pipe.execute()


async def put_off(redis: Redis, upstream: str, delivery: Delivery, seconds: float) -> None:
    """Count a try that failed, and have the next one due in so many seconds."""
    due = await now_ms(redis) + round(seconds * 1000)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("ZADD", keys.deliveries(upstream), due, delivery.member)
        pipe.execute_command("HSET", keys.delivery_failures(upstream), delivery.member, delivery.failed + 1)
        await pipe.execute()
