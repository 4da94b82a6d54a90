"""Chat completions: each is a batch of one line, through the same queue, gate and books as any other."""

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response, StreamingResponse

from batchmill.producer import Batch
from batchmill.producer.errors import InputError
from batchmill.producer.intake import Birth
from batchmill.producer.live import Ended, Event
from batchmill.service.bodies import read_body
from batchmill.service.compat.chat_again import Claim, VoidError, claimed
from batchmill.service.compat.chat_answers import PASSED_ON, answer_of, failure_of, header_text, headers_of, refusal_of
from batchmill.service.compat.chat_relay import DONE, BrokenError, Relay
from batchmill.service.compat.chat_request import ChatCompletion, ChatRequest, line_of, read_chat
from batchmill.service.compat.chat_waiting import Wait, end_soon, patience_of
from batchmill.service.endpoints import encode
from batchmill.service.identity import Scope
from batchmill.service.operations import Call, Operation
from batchmill.service.problems import ApiError, error_object
from batchmill.store import chats
from batchmill.store.clock import now_ms
from batchmill.store.model import Priority, Result

SOURCE = "chat"
"""What the source of such a batch says."""

_SSE = "text/event-stream"
_UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # the second is for nginx
_STILL_THERE = b": waiting\n\n"  # a comment, which clients pass over
_SILENCE = 10.0  # seconds
_SLACK = 60  # seconds
_SECOND_MS = 1000


async def create_chat_completion(call: Call[None, None]) -> Response:
    """Answer as the model does, whole or (with `stream`) as it comes.

    It waits for its turn, its limits and its budgets like any line, with high priority unless it says otherwise. What
    has not begun within `chat_timeout`, or within the seconds of the header `x-wait`, is cancelled: 402 when a budget
    has no room, 429 for a limit, else 503 or 504; `x-blocked-on` says why. A client that goes away cancels it.
    The same request again, by its `Idempotency-Key` or as a client's retry, gets the answer of the first.
    Headers: `x-batch-id`, and for a whole answer `x-cost-usd`, `x-cached`, `x-attempts`, `x-model`.
    """
    limits = call.service.settings.service
    patience = patience_of(call)
    said = await read_body(call.request, limits.max_body_bytes, limits.body_timeout)
    asked, body = read_chat(said)
    claim = await claimed(call, said, patience)
    while True:
        try:
            return await _answered(call, asked, body, claim, patience)
        except VoidError:
            claim = await claim.anew(call)


async def _answered(call: Call[None, None], asked: ChatRequest, body: bytes, claim: Claim, patience: float) -> Response:
    """Answer by the batch of a claim, which may be under way already. Raises VoidError when it came to nothing."""
    await chats.enter(call.service.redis, claim.batch_id, call.request.state.request_id)
    if claim.again and await claim.is_there(call.service.redis):
        batch = await call.service.producer.batch(claim.batch_id)
    else:
        batch = await _hand_over(call, asked, body, claim, patience)
    wait = Wait(call, batch, patience)
    if asked.stream:
        return await _streamed(call, batch, wait, asked, claim)
    try:
        result = await wait.for_(_only_result(batch))
        claim.check(result)
        return answer_of(batch.id, result)
    finally:
        await chats.let_expire(call.service.redis, batch.id)


async def _hand_over(call: Call[None, None], asked: ChatRequest, body: bytes, claim: Claim, patience: float) -> Batch:
    """Hand the line over; a batch of that id that is there already is the one. Raises ApiError."""
    now = await now_ms(call.service.redis) // _SECOND_MS
    late = now + math.ceil(patience) + _SLACK  # should this gateway die, nobody waits for the answer any more
    try:
        return await call.service.producer.submit(
            [line_of(claim.batch_id, body, live=bool(asked.stream))],
            name=SOURCE,
            max_cost=asked.max_cost_usd,
            priority=asked.priority or Priority.HIGH,
            project=call.identity.home,
            cache=asked.cache,
            key=call.identity.key_id,
            birth=Birth(batch_id=claim.batch_id, expires_at=late, listed=False),
        )
    except InputError as error:
        await claim.drop(call.service.redis)
        raise refusal_of(error) from error


async def _only_result(batch: Batch) -> Result:
    async for result in batch.results(follow=True):
        return result
    raise ApiError(503, "The completion is gone.", kind="server_error", headers=headers_of(batch.id))


async def _streamed(call: Call[None, None], batch: Batch, wait: Wait, asked: ChatRequest, claim: Claim) -> Response:
    """Answer once the first chunk is there, or the end: until then an error can still be a status."""
    events = batch.stream(batch.id)
    relay = Relay(include_usage=asked.include_usage)
    first: list[bytes] = []
    try:
        while not first:
            event = await wait.for_(anext(events))
            if isinstance(event, Ended):
                claim.check(event.result)
                return _at_once(batch, event, relay)
            first = relay.take(event)
    except BrokenError as error:
        raise _broken(batch) from error
    finally:
        if not first:
            await events.aclose()
            await chats.let_expire(call.service.redis, batch.id)
    headers = {**headers_of(batch.id), **_UNBUFFERED}
    chunks = _chunks(call, batch, relay, first, events)
    return StreamingResponse(chunks, headers=headers, media_type=_SSE)


async def _chunks(
    call: Call[None, None], batch: Batch, relay: Relay, first: list[bytes], events: AsyncGenerator[Event, None]
) -> AsyncGenerator[bytes, None]:
    """Yield the rest of a stream; whoever stops listening has the batch cancelled."""
    over = False
    try:
        for chunk in first:
            yield _event(chunk)
        async with aclosing(events):
            async for event in _or_silence(events):
                if event is None:
                    yield _STILL_THERE
                    continue
                over = isinstance(event, Ended)
                for chunk in _out(batch, relay, event):
                    yield _event(chunk)
    except BrokenError:
        yield _event(_error(_broken(batch)))
    finally:
        end_soon(call.service.redis, batch, call.request.state.request_id, cancel=not over)


async def _or_silence(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event | None, None]:
    """Yield events, and None now and then while there are none: to write is to learn that nobody reads any more."""
    coming: asyncio.Future[Event] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            if not (await asyncio.wait([coming], timeout=_SILENCE))[0]:
                yield None
                continue
            done, coming = coming, None
            try:
                yield done.result()
            except StopAsyncIteration:
                return
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


def _at_once(batch: Batch, event: Ended, relay: Relay) -> Response:
    headers = headers_of(batch.id, event.result)
    if not event.result.succeeded:
        raise failure_of(event.result, headers)
    body = b"".join(map(_event, relay.end(event)))
    return Response(body, headers={**headers, **_UNBUFFERED}, media_type=_SSE)


def _out(batch: Batch, relay: Relay, event: Event) -> list[bytes]:
    if not isinstance(event, Ended):
        return relay.take(event)
    if event.result.succeeded:
        return relay.end(event)
    return [_error(failure_of(event.result, headers_of(batch.id, event.result))), DONE]


def _broken(batch: Batch) -> ApiError:
    message = f"The answer broke off and began anew; what came before is void. See {batch.id}."
    return ApiError(502, header_text(message), kind="server_error", code="stream_interrupted")


def _error(error: ApiError) -> bytes:
    return encode(error_object(error))


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/chat/completions",
        handler=create_chat_completion,
        tag="chat",
        summary="Create a chat completion",
        scope=Scope.SUBMIT,
        body=ChatRequest,
        raw=True,
        answer=ChatCompletion,
        other_media=(_SSE,),
        errors=(*PASSED_ON, 402, 409, 502, 504),
    ),
)
