"""How the whole fleet holds back when the upstream refuses: in Redis, where the gate of every worker sees it."""

from redis.asyncio import Redis

from batchmill.openrouter.outcomes import Failure, Retry
from batchmill.store import pauses
from batchmill.store.connection import outlive
from batchmill.store.pauses import Pause


class FleetRestraint:
    """Pauses scopes and cuts shares for all workers of an upstream, through outages."""

    def __init__(self, redis: Redis, upstream: str) -> None:
        self._redis = redis
        self._upstream = upstream

    async def rest(self, model: str, scope: str, failure: Failure, seconds: float | None) -> Pause:
        """Pause what a refusal covers; what the account is refused for is no reason to send less later."""
        cut = failure.retry is Retry.LATER
        return await outlive(
            lambda: pauses.pause(self._redis, self._upstream, model, scope, failure.code, seconds=seconds, cut=cut)
        )

    async def slow_down(self, model: str) -> None:
        """Send less to an overloaded model."""
        await outlive(lambda: pauses.slow_down(self._redis, self._upstream, model))
