"""What becomes of a message after a try, and what the log says of it: done with, or due again after a pause."""

from typing import Protocol, TypeVar

import structlog

from batchmill.webhooks.message import Tried, pause_after

log = structlog.get_logger()


class Tries(Protocol):
    """A message in a queue, of which so many tries failed."""

    @property
    def failed(self) -> int:
        """How many."""


D_contra = TypeVar("D_contra", bound=Tries, contravariant=True)


class Queue(Protocol[D_contra]):
    """Where messages wait until they are due."""

    async def drop(self, delivery: D_contra, /) -> None:
        """Forget a message."""

    async def put_off(self, delivery: D_contra, seconds: float, /) -> None:
        """Count a try that failed, and have the next one due in so many seconds."""


async def settle(queue: Queue[D_contra], delivery: D_contra, tried: Tried, kind: str, **about: str) -> None:
    """Have a message gone that has arrived, or never will, and the others due again. `kind` begins the log's event."""
    if tried.trouble is None:
        await queue.drop(delivery)
        log.info(f"{kind}.told", **about)
        return
    pause = pause_after(tried, delivery.failed)
    if pause is None:
        await queue.drop(delivery)
        log.error(f"{kind}.given_up", **about, error=tried.trouble, tries=delivery.failed + 1)
    else:
        await queue.put_off(delivery, pause)
        log.warning(f"{kind}.failed", **about, error=tried.trouble, again_in=round(pause))
