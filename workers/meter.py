"""Counts for Prometheus what the process does: in memory, told with each heartbeat."""

import time

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from batchmill.openrouter.outcomes import Answer, Outcome
from batchmill.store import metrics
from batchmill.store.connection import OUTAGE
from batchmill.store.gate import Why
from batchmill.store.ids import born_ms
from batchmill.store.metrics import Tally
from batchmill.store.model import Result
from batchmill.workers.line import LineRun

log = structlog.get_logger()


class Meter:
    """What this process has to add to the counters of the fleet."""

    def __init__(self, redis: Redis, upstream: str) -> None:
        self._redis = redis
        self._upstream = upstream
        self._tally = Tally()

    def begun(self, run: LineRun) -> None:
        """Note that a line goes into the air; its first call ends its wait in the queue."""
        if run.attempts:
            return
        waited = round(time.time() * 1000) - born_ms(run.shard.claim.batch_id)
        self._tally.observe(metrics.QUEUE_SECONDS, max(0, waited))

    def called(self, model: str, outcome: Outcome) -> None:
        """Note how a call ended."""
        if not isinstance(outcome, Answer):
            self._tally.count(metrics.CALLS, outcome.fault.value, model)
            return
        self._tally.count(metrics.CALLS, "ok", model)
        self._tally.observe(metrics.CALL_SECONDS, outcome.latency_ms, model)
        usage = outcome.usage
        for kind, tokens in (
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens),
            ("reasoning", usage.reasoning_tokens),
        ):
            if tokens > 0:
                self._tally.count(metrics.TOKENS, kind, model, by=tokens)

    def booked(self, model: str, cost: int | None) -> None:
        """Note what a call cost (nano-dollars), if that is known."""
        if cost:
            self._tally.count(metrics.COST, model, by=cost)

    def ended(self, result: Result) -> None:
        """Note that a line got its result."""
        self._tally.count(metrics.LINES, result.state.value, result.model)
        if result.cached:
            self._tally.count(metrics.CACHED)

    def refused(self, why: Why) -> None:
        """Note that the gate held lines back."""
        self._tally.count(metrics.REFUSALS, why.value)

    async def tell(self) -> None:
        """Add what was counted to the counters of the fleet. What Redis does not take is kept for the next time.

        It never raises what Redis says: no count is worth a worker's end, or its leases.
        """
        taken = self._tally.take()
        try:
            await metrics.add(self._redis, self._upstream, taken)
        except (*OUTAGE, RedisError) as error:
            self._tally.put_back(taken)
            log.warning("metrics.wait", error=repr(error))
        except BaseException:
            self._tally.put_back(taken)
            raise
