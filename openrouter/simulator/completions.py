"""`POST /chat/completions`: waits, sends and books what the upstream decided, whole or as a stream.

Who pays when a client leaves, as OpenRouter's reference has it: a whole answer runs to its end and is billed in full;
a stream stops, and is billed up to there, unless the provider is one that can't stop.
"""

import asyncio

from aiohttp import web

from batchmill.openrouter.simulator import refusals, replies
from batchmill.openrouter.simulator.books import Call
from batchmill.openrouter.simulator.faults import FaultKind
from batchmill.openrouter.simulator.refusals import Refusal
from batchmill.openrouter.simulator.traffic import FIRST_TOKEN_SHARE
from batchmill.openrouter.simulator.upstream import Decision, Upstream
from batchmill.openrouter.stream import NEVER_STOP

_BLANK_SECONDS = 1.0  # between the blanks that keep a slow connection alive
_LOOK_SECONDS = 0.1  # how often a hanging call looks whether its client is still there
_JSON = "application/json"
_DROPPED = "dropped"


class Completions:
    """Answers completion calls for one upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one call."""
        body = await request.read()
        call = self._upstream.books.begin(body)
        try:
            outcome = self._upstream.decide(request.headers, body, call)
            if isinstance(outcome, Refusal):
                return await self._refused(call, outcome)
            if outcome.stream:
                return await self._streamed(request, call, outcome)
            return await self._whole(request, call, outcome)
        except ConnectionError:
            call.status = _DROPPED
            return web.Response()  # nobody reads it
        finally:
            self._upstream.books.end(call)

    async def _refused(self, call: Call, refusal: Refusal) -> web.Response:
        call.status = str(refusal.status)
        await _wait(refusal.seconds)
        return web.Response(status=refusal.status, body=refusal.body, headers=refusal.headers, content_type=_JSON)

    async def _whole(self, request: web.BaseRequest, call: Call, decision: Decision) -> web.StreamResponse:
        headers = {"Content-Type": _JSON, "X-Generation-Id": decision.generation_id}
        early: web.StreamResponse | None = None
        if self._upstream.options.early_headers:
            early = web.StreamResponse(headers=headers)
            await early.prepare(request)
            await _send_blanks(early, call, decision.seconds)
        else:
            await _wait(decision.seconds)
        body = self._generated(request, call, decision)
        match decision.fault:
            case FaultKind.CUT:
                call.status = "cut"
                return await _cut_answer(request, body, headers, early)
            case FaultKind.HANG:
                call.status = "hang"
                await _until_gone(request)
        if early is None:
            return web.Response(body=body, headers=headers)
        if await _send(early, call, body):
            await early.write_eof()
        return early

    def _generated(self, request: web.BaseRequest, call: Call, decision: Decision) -> bytes:
        """Return the body of a whole answer; one without an error is billed, whether or not anyone waits for it."""
        created = int(call.started)
        match decision.fault:
            case FaultKind.IN_BAND:
                return self._error(decision).body
            case FaultKind.MID_STREAM:
                error = self._error(decision).error
                return replies.broken_answer(decision.plan, decision.generation_id, created, error)
        if request.transport is None:
            call.status = _DROPPED
        charge = self._upstream.book(call, decision, decision.plan.usage, whole=True)
        return replies.whole_answer(decision.plan, decision.generation_id, created, charge)

    async def _streamed(self, request: web.BaseRequest, call: Call, decision: Decision) -> web.StreamResponse:
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Generation-Id": decision.generation_id,
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        stream = replies.Stream(decision.plan, decision.generation_id, int(call.started))
        if decision.fault is not None:
            await self._broken_stream(request, response, call, decision, stream)
        elif decision.seconds > 0:
            await self._paced_stream(response, call, decision, stream)
        else:
            charge = self._upstream.book(call, decision, decision.plan.usage, whole=True)
            await response.write_eof(b"".join((replies.KEEP_ALIVE, *stream.content(), stream.last(charge))))
        return response

    async def _paced_stream(
        self, response: web.StreamResponse, call: Call, decision: Decision, stream: replies.Stream
    ) -> None:
        events = stream.content()
        pause = decision.seconds * (1 - FIRST_TOKEN_SHARE) / len(events)
        here = await _send(response, call, replies.KEEP_ALIVE)
        await _wait(decision.seconds * FIRST_TOKEN_SHARE)
        for sent, event in enumerate(events):
            here = here and await _send(response, call, event)
            if not here and decision.plan.endpoint.provider not in NEVER_STOP:
                self._book_part(call, decision, sent)
                return
            await _wait(pause)
        charge = self._upstream.book(call, decision, decision.plan.usage, whole=True)
        if here:
            await _send(response, call, stream.last(charge))

    async def _broken_stream(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        call: Call,
        decision: Decision,
        stream: replies.Stream,
    ) -> None:
        await _send(response, call, replies.KEEP_ALIVE)
        await _wait(decision.seconds)
        events = stream.content()
        half = len(events) // 2
        match decision.fault:
            case FaultKind.IN_BAND:
                await _send(response, call, stream.error(self._error(decision).error))
            case FaultKind.MID_STREAM:
                await _send(response, call, b"".join(events[:half]) + stream.error(self._error(decision).error))
            case FaultKind.CUT:
                await _send(response, call, b"".join(events[:half]))
                self._book_part(call, decision, half)
                call.status = "cut"
                _close(request)
            case _:
                call.status = "hang"
                await _until_gone(request)

    def _book_part(self, call: Call, decision: Decision, events: int) -> None:
        """Bill a stream that stopped after so many events."""
        words = min(events * replies.WORDS_PER_EVENT, len(decision.plan.words))
        self._upstream.book(call, decision, decision.plan.broken_off(words), whole=False)

    def _error(self, decision: Decision) -> Refusal:
        plan = decision.plan
        return refusals.fault(FaultKind.IN_BAND, plan.model.id, plan.endpoint.provider, self._upstream.clock())


async def _wait(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


async def _send(response: web.StreamResponse, call: Call, data: bytes) -> bool:
    """Write to a stream; False, and the call counts as dropped, when its client is gone."""
    try:
        await response.write(data)
    except ConnectionError:
        call.status = _DROPPED
        return False
    return True


async def _send_blanks(response: web.StreamResponse, call: Call, seconds: float) -> None:
    """Pass the time of a call, in blanks that JSON allows before the answer; it goes on when its client is gone."""
    here = await _send(response, call, b" ")
    while seconds > 0:
        pause = min(seconds, _BLANK_SECONDS)
        await _wait(pause)
        seconds -= pause
        here = here and await _send(response, call, b" ")


async def _cut_answer(
    request: web.BaseRequest, body: bytes, headers: dict[str, str], early: web.StreamResponse | None
) -> web.StreamResponse:
    """Send half of a body whose whole length was announced (or whose end was to be told), then close."""
    response = early or web.StreamResponse(headers=headers)
    if early is None:
        response.content_length = len(body)
        await response.prepare(request)
    await response.write(body[: len(body) // 2])
    _close(request)
    return response


def _close(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.close()


async def _until_gone(request: web.BaseRequest) -> None:
    while request.transport is not None:  # noqa: ASYNC110 - the server tells of a lost connection in no other way
        await asyncio.sleep(_LOOK_SECONDS)
