"""A chat completion that is asked for again, by a client that did not get its answer, is paid for once.

A request claims the name by which it is known again (`service/idempotency.py`) for the batch that it is about to make.
A retry finds the name, and waits for that batch, or gets what it has come to. Only where that came to nothing, because
it was cancelled or expired, another batch is made.
"""

import asyncio
import math

import msgspec
from redis.asyncio import Redis

from batchmill.service import idempotency
from batchmill.service.access.queued import check_queue
from batchmill.service.operations import Call
from batchmill.store import batches, chats, intakes
from batchmill.store.intakes import Name
from batchmill.store.model import LineState, Result
from batchmill.store.staging import new_batch_id

_LOOK, _LOOKS = 0.05, 60  # seconds, and how often: three seconds, after which who began is taken to be dead
_VOID = (LineState.CANCELLED, LineState.EXPIRED)


class VoidError(Exception):
    """The batch of an earlier request has no answer, and never will."""


class Claim(msgspec.Struct, frozen=True):
    """The batch that answers a request; `again`: it is that of an earlier one."""

    name: Name
    batch_id: str
    again: bool

    def check(self, result: Result) -> None:
        """Raise VoidError for what an earlier request left that is no answer."""
        if self.again and result.state in _VOID:
            raise VoidError

    async def is_there(self, redis: Redis) -> bool:
        """Whether the batch is there; waits a moment for who is just handing it over, in which case it will be."""
        for _ in range(_LOOKS):
            if await batches.exists(redis, self.batch_id):
                return True
            await asyncio.sleep(_LOOK)
        return False

    async def drop(self, redis: Redis) -> None:
        """Forget the claim, for its batch was refused: whoever asks again is told so again, at once."""
        if not self.again:
            await chats.forget(redis, self.name, self.batch_id)

    async def anew(self, call: Call[None, None]) -> "Claim":
        """Return the claim of another batch: our own, or that of a retry that was quicker."""
        await check_queue(call.service, call.identity, 1)
        own = new_batch_id()
        batch_id = await chats.replace(call.service.redis, self.name, self.batch_id, own)
        return Claim(self.name, batch_id, batch_id != own)


async def claimed(call: Call[None, None], body: bytes, patience: float) -> Claim:
    """Return the batch of a request with this body, which waits so many seconds to begin. Raises ApiError."""
    redis = call.service.redis
    name = idempotency.name_of(call.request, call.identity, body, None)
    name = msgspec.structs.replace(name, seconds=min(name.seconds, chats.KEEP) + math.ceil(patience))
    if await intakes.known(redis, name) is None:
        await check_queue(call.service, call.identity, 1)
    own = new_batch_id()
    known = await chats.claim(redis, name, own)
    if known is None:
        return Claim(name, own, again=False)
    idempotency.check_same(known)
    return Claim(name, known.batch_id, again=True)
