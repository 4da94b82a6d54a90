"""Streams over a socket: one answer, and every way that a stream can end."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import batchmill.openrouter.client
from batchmill.config.settings import UpstreamSettings
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Fault, Retry, Usage
from batchmill.openrouter.stream import streaming_body

from .upstream_helpers import COMMENT, DONE, ERROR, HELLO, USAGE, chunk, event

BODY = b'{"model":"a/b","messages":[],"temperature":1.10}'
AT_ONCE = 0.05
Tail = Callable[[web.Request], Awaitable[None]]


@asynccontextmanager
async def streaming(
    pieces: list[bytes], tail: Tail | None = None, headers: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[tuple[Upstream, list[bytes]]]:
    sent: list[bytes] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        sent.append(await request.read())
        always = {"Content-Type": "text/event-stream; charset=utf-8", "X-Generation-Id": "gen-head"}
        response = web.StreamResponse(headers={**always, **(headers or {})})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if tail is not None:
            await tail(request)
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    async with TestServer(app) as server:
        where = UpstreamSettings(base_url=str(server.make_url("/v1")), **settings)
        async with Upstream(where, None, max_connections=2) as client:
            yield client, sent


async def cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


async def streamed(pieces: list[bytes], tail: Tail | None = None, **settings: Any) -> Answer | Failure:
    async with streaming(pieces, tail, **settings) as (client, _):
        return await client.stream(BODY)


async def test_a_stream_becomes_one_answer() -> None:
    heard: list[bytes] = []

    async def listen(data: bytes) -> None:
        heard.append(data)

    async with streaming(HELLO) as (client, sent):
        answer = await client.stream(BODY, listen)
    assert sent == [streaming_body(BODY)]
    assert heard == [each[6:-2] for each in HELLO if each not in (COMMENT, DONE)]
    assert isinstance(answer, Answer)
    whole = msgspec.json.decode(answer.body)
    assert (whole["object"], whole["choices"][0]["message"]) == (
        "chat.completion",
        {"role": "assistant", "content": "Hello"},
    )
    assert (answer.model, answer.provider, answer.generation_id, answer.finish_reason) == ("a/b", "P", "gen-1", "stop")
    assert (answer.cost, answer.usage) == (132_000, Usage(3, 2))
    assert answer.first_token_ms is not None
    assert 0 <= answer.first_token_ms <= answer.latency_ms


@pytest.mark.parametrize(
    "pieces",
    [
        HELLO[:-1],  # usage, but no end mark
        [*HELLO[:-2], DONE],  # an end mark, but no usage
        [*HELLO[:-2], event(chunk(choices=[], usage=USAGE)), DONE],  # usage without a choice
        [b"".join(HELLO)],
    ],
)
@pytest.mark.parametrize("tail", [None, cut])
async def test_an_answer_is_whole_with_an_end_mark_or_usage(pieces: list[bytes], tail: Tail | None) -> None:
    answer = await streamed(pieces, tail)
    assert isinstance(answer, Answer)
    assert msgspec.json.decode(answer.body)["choices"][0]["message"]["content"] == "Hello"


async def test_the_end_mark_needs_no_blank_line() -> None:
    assert isinstance(await streamed([*HELLO[:-2], DONE.rstrip()]), Answer)


@pytest.mark.parametrize(
    ("pieces", "tail", "code", "generation"),
    [
        (HELLO[:4], None, "stream_incomplete", "gen-1"),
        (HELLO[:5], None, "stream_incomplete", "gen-1"),
        (HELLO[:1], None, "stream_incomplete", "gen-head"),
        ([*HELLO[:3], HELLO[4][:-9]], None, "stream_incomplete", "gen-1"),
        ([*HELLO[:3], event(b"{damaged"), HELLO[4], DONE], None, "stream_incomplete", "gen-1"),
        (HELLO[:4], cut, "connection_lost", "gen-1"),
        (HELLO[:1], cut, "connection_lost", "gen-head"),
        ([DONE], None, "invalid_response", "gen-head"),
    ],
)
async def test_a_stream_that_breaks_off_may_have_been_billed(
    pieces: list[bytes], tail: Tail | None, code: str, generation: str
) -> None:
    failure = await streamed(pieces, tail)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.retry, failure.fault) == (code, Retry.BACKOFF, Fault.PROVIDER)
    assert (failure.billed, failure.generation_id) == (Billed.MAYBE, generation)


@pytest.mark.parametrize(
    ("before", "after", "billed", "cost"),
    [
        ([], [], Billed.NO, None),
        (HELLO[:3], [], Billed.MAYBE, None),
        (HELLO[:3], [event(chunk(usage=USAGE)), DONE], Billed.YES, 132_000),
    ],
)
async def test_an_error_in_mid_stream(
    before: list[bytes], after: list[bytes], billed: Billed, cost: int | None
) -> None:
    heard: list[bytes] = []

    async def listen(data: bytes) -> None:
        heard.append(data)

    error = event(chunk({"content": ""}, "error", error=ERROR))
    async with streaming([COMMENT, *before, error, *after]) as (client, _):
        failure = await client.stream(BODY, listen)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.message, failure.status) == ("provider_unavailable", "gone", 502)
    assert (failure.retry, failure.fault) == (Retry.BACKOFF, Fault.PROVIDER)
    assert (failure.billed, failure.cost, failure.generation_id) == (billed, cost, "gen-1")
    assert failure.body is not None
    assert msgspec.json.decode(failure.body) == {"error": ERROR}
    assert not any(b"error" in data for data in heard)


async def test_a_silence_in_mid_stream_may_have_been_billed() -> None:
    over = asyncio.Event()

    async def silence(_: web.Request) -> None:
        await over.wait()

    async with streaming(HELLO[:4], silence, read_timeout=AT_ONCE) as (client, _):
        failure = await client.stream(BODY)
        over.set()
    assert isinstance(failure, Failure)
    assert (failure.code, failure.billed, failure.generation_id) == ("timeout", Billed.MAYBE, "gen-1")


@pytest.mark.parametrize("end", [DONE, event(chunk(error=ERROR))])
async def test_a_settled_stream_is_not_waited_for(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchmill.openrouter.client, "_LINGER_SECONDS", AT_ONCE)
    over = asyncio.Event()

    async def silence(_: web.Request) -> None:
        await over.wait()

    async with streaming([*HELLO[:5], end], silence) as (client, _):
        outcome = await client.stream(BODY)
        over.set()
    assert isinstance(outcome, Answer if end == DONE else Failure)
    assert not isinstance(outcome, Failure) or outcome.code == "provider_unavailable"


async def test_what_the_listener_raises_is_its_own() -> None:
    async def refuse(_: bytes) -> None:
        raise ConnectionResetError("the listener went away")

    async with streaming(HELLO) as (client, _):
        with pytest.raises(ConnectionResetError, match="the listener"):
            await client.stream(BODY, refuse)


async def test_a_compressed_stream_is_understood_although_nobody_asked_for_one() -> None:
    packed = gzip.compress(b"".join(HELLO))
    async with streaming([packed[:50], packed[50:]], headers={"Content-Encoding": "gzip"}) as (client, _):
        assert isinstance(await client.stream(BODY), Answer)


@pytest.mark.parametrize("status", [200, 429])
async def test_an_endpoint_that_answers_whole_is_understood(status: int) -> None:
    body = {"choices": [{"finish_reason": "stop"}]} if status == 200 else {"error": {"code": 429, "message": "slow"}}

    async def handle(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    async with TestServer(app) as server:
        where = UpstreamSettings(base_url=str(server.make_url("/v1")))
        async with Upstream(where, None, max_connections=1) as client:
            outcome = await client.stream(BODY)
    if status == 200:
        assert isinstance(outcome, Answer)
    else:
        assert isinstance(outcome, Failure)
        assert outcome.retry is Retry.LATER
