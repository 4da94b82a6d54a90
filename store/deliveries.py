"""Messages on their way to webhooks: each is taken by one process at a time, and again later until it has arrived.

queued (with what it tells of) ──take──► ours for a lease ──arrived──► gone
                                   ▲                └─failed──► due again after a pause ──too often──► gone
                                   └── whoever took it died: due after the lease
"""

import msgspec
from redis.asyncio import Redis

from batchmill.store import keys, service_keys
from batchmill.store.clock import now_ms
from batchmill.store.scripts import Script

_deliver = Script("deliver")
_MOST = 100  # at a time


class Delivery(msgspec.Struct, frozen=True):
    """One message, as it is written in Redis, and how many tries failed."""

    member: str
    failed: int = 0


class Outbox:
    """The messages of one kind. Get one from `of_alerts` or `of_events`."""

    def __init__(self, redis: Redis, queue: str, failures: str) -> None:
        self._redis = redis
        self._queue = queue
        self._failures = failures

    async def take(self, lease: float) -> list[Delivery]:
        """Return the deliveries that are due; they are ours for `lease` seconds."""
        found = await _deliver(self._redis, [self._queue], [round(lease * 1000), _MOST])
        if not found:
            return []
        tries = await self._redis.execute_command("HMGET", self._failures, *found)
        return [Delivery(member.decode(), int(failed or 0)) for member, failed in zip(found, tries, strict=True)]

    async def drop(self, delivery: Delivery) -> None:
        """Forget a delivery: it has arrived, or never will."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.execute_command("ZREM", self._queue, delivery.member)
            pipe.execute_command("HDEL", self._failures, delivery.member)
            await pipe.execute()

    async def put_off(self, delivery: Delivery, seconds: float) -> None:
        """Count a try that failed, and have the next one due in so many seconds."""
        due = await now_ms(self._redis) + round(seconds * 1000)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.execute_command("ZADD", self._queue, due, delivery.member)
            pipe.execute_command("HSET", self._failures, delivery.member, delivery.failed + 1)
            await pipe.execute()


def of_alerts(redis: Redis, upstream: str) -> Outbox:
    """Return the alerts for webhooks of the policy; a message is the name of a webhook, a blank, and an alert's id."""
    return Outbox(redis, keys.deliveries(upstream), keys.delivery_failures(upstream))


def of_events(redis: Redis) -> Outbox:
    """Return the ends of batches for those who asked to be told; a message is an `Event` as JSON."""
    return Outbox(redis, service_keys.event_deliveries(), service_keys.event_failures())
