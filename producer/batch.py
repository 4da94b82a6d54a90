"""What a program uses to ask about the lines that it handed over: a Batch."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

from redis.asyncio import Redis
from redis.exceptions import RedisError

from batchmill.config.settings import Settings
from batchmill.producer import retrying
from batchmill.producer.intake import Submission
from batchmill.producer.live import Ended, Event, events
from batchmill.store import batches, endings, live, records
from batchmill.store.errors import StoreError, UnknownBatchError
from batchmill.store.model import BatchState, BatchStatus, Result


@contextmanager
def reaching_redis() -> Iterator[None]:
    """Turn an outage into the error that callers of this room know."""
    try:
        yield
    except RedisError as error:
        raise StoreError(f"Redis can't be reached any more ({error}); nothing is lost, try again when it is") from error


class Batch:
    """A batch that was handed over. Get one from `Producer.submit` or `Producer.batch`."""

    def __init__(
        self, redis: Redis, batch_id: str, settings: Settings, *, submission: Submission | None = None
    ) -> None:
        self.id = batch_id
        self.submission = submission
        self._redis = redis
        self._settings = settings

    @property
    def reused(self) -> bool:
        """Whether the same lines had been handed over before, so that nothing was enqueued."""
        return self.submission is not None and self.submission.reused

    async def status(self) -> BatchStatus:
        """Return the batch as it is now. Raises UnknownBatchError once it has expired, StoreError in an outage."""
        with reaching_redis():
            return await batches.status(self._redis, self.id)

    async def results(self, *, follow: bool = False) -> AsyncIterator[Result]:
        """Yield the results that there are, in the order they came; with `follow`, until every line has one."""
        if not await batches.exists(self._redis, self.id):
            raise UnknownBatchError(self.id)
        async for entry in records.follow(self._redis, self.id, wait=follow):
            if entry.result is not None:
                yield entry.result

    async def live_lines(self) -> list[str]:
        """Return the custom ids of the lines that have live tokens."""
        with reaching_redis():
            return await live.lines(self._redis, self.id)

    async def stream(self, custom_id: str, *, cancel: bool = False) -> AsyncGenerator[Event, None]:
        """Yield what comes of a line with live tokens, from its first words (also when it is over) to its result.

        Leaving early changes nothing for the line, unless `cancel`: then the batch is cancelled. Raises
        UnknownLineError, and UnknownBatchError once the batch has expired.
        """
        over = False
        try:
            with reaching_redis():
                async with aclosing(events(self._redis, self.id, custom_id)) as coming:
                    async for event in coming:
                        over = isinstance(event, Ended)
                        yield event
        finally:
            if cancel and not over:
                await self.cancel()

    async def cancel(self) -> BatchState:
        """Send nothing more; results that are there stay. `cancelling` while lines are in the air, then `cancelled`.

        Streamed calls are hung up, which ends what they cost at most providers; others in the air are kept.
        """
        with reaching_redis():
            retention = self._settings.results.retention_days
            return await endings.cancel(self._redis, self.id, retention_days=retention)

    async def retry(self) -> "Batch":
        """Hand the failed lines of this finished batch over again, as a batch of their own, on the same conditions.

        Raises InputError, also when a line could not be enqueued today for what it may cost.
        """
        with reaching_redis():
            batch_id, _ = await retrying.retry(self._redis, self.id, self._settings)
        return Batch(self._redis, batch_id, self._settings)
