"""The gate: who is let through, who is not and why, and that a refused line takes nothing."""

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Breaker, Budget, Limit
from batchmill.store import gate, keys
from batchmill.store.gate import NEVER, Caller, Why

from .gate_helpers import DAY, HOUR, NOON, Clock, Sums, Worker, budget, fields, model_key, number, policy_of, sums
from .store_helpers import MODEL, UPSTREAM

BOOKS = keys.books(UPSTREAM)
TOTAL = keys.budget(UPSTREAM, "all", "total")
RATE = keys.limit(UPSTREAM, "rate", MODEL)
REQUESTS = Limit(name="rate", match="*", requests_per_minute=600, burst_seconds=1.0)  # 10 at once, one each 100 ms
TOKENS = Limit(name="rate", match="*", tokens_per_minute=60_000, burst_seconds=1.0)  # 1000 at once, one each ms


def test_helpers() -> None:
    assert NOON % DAY == 12 * HOUR


async def test_without_rules_all_pass(redis: Redis, clock: Clock) -> None:
    reply = await Worker(redis, clock).admit((5, 1), (7, 2))
    assert (reply.looked, reply.why, reply.skipped, reply.wait, reply.now) == (2, Why.NOTHING, (), 0, NOON)
    assert await number(redis, model_key(), "in_air") == 2
