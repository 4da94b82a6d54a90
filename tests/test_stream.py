"""Streams: events cut anywhere, chunks merged into one answer, and every way that a stream can end."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from batchmill.config.settings import UpstreamSettings
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Fault, Retry, Usage
from batchmill.openrouter.stream import EventReader, Gathering, streaming_body

BODY = b'{"model":"a/b","messages":[],"temperature":1.10}'
AT_ONCE = 0.05
DONE = b"data: [DONE]\n\n"
COMMENT = b": OPENROUTER PROCESSING\n\n"


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **top: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    table = {"id": "gen-1", "model": "a/b", "provider": "P", "object": "chat.completion.chunk", "choices": [choice]}
    return json.dumps({**table, **top}).encode()


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.000132}
HELLO = [
    COMMENT,
    event(chunk({"role": "assistant", "content": ""})),
    event(chunk({"content": "Hel"})),
    COMMENT,
    event(chunk({"content": "lo"}, "stop")),
    event(chunk({"content": ""}, "stop", usage=USAGE)),
    DONE,
]
ERROR = {"code": 502, "message": "gone", "metadata": {"error_type": "provider_unavailable"}}


@given(st.integers(1, 9), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_events_are_the_same_wherever_the_network_cut_them(size: int, newline: bytes) -> None:
    raw = b"".join([*HELLO, b"event: x\nid: 1\ndata:no blank\ndata:  two\n\n"]).replace(b"\n", newline)
    reader = EventReader()
    events = [data for at in range(0, len(raw), size) for data in reader.feed(raw[at : at + size])]
    events += reader.finish()
    expected = [each[6:-2] for each in HELLO if each != COMMENT]
    assert events == [*expected, b"no blank\n two"]


def test_the_last_event_needs_no_blank_line() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\n\ndata: [DONE]") == [b"a"]
    assert reader.finish() == [b"[DONE]"]
    assert reader.finish() == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a":1.10}', b'{"a":1.10,"stream":true,"stream_options":{"include_usage":true}}'),
        (b' {"a":1.10 } \n', b' {"a":1.10,"stream":true,"stream_options":{"include_usage":true}}'),
        (b"{ }", b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (
            b'{"stream":false,"a":1.10,"stream_options":{"x":1.0,"include_usage":false}}',
            b'{"stream":true,"a":1.10,"stream_options":{"x":1.0,"include_usage":true}}',
        ),
        (b'{"stream_options":7}', b'{"stream_options":{"include_usage":true},"stream":true}'),
    ],
)
def test_a_request_becomes_a_stream_and_keeps_every_value_as_it_was(body: bytes, expected: bytes) -> None:
    assert streaming_body(body) == expected


def gathered(*chunks: bytes) -> dict[str, Any]:
    gathering = Gathering()
    for each in chunks:
        gathering.add(each)
    whole = msgspec.json.decode(gathering.body())
    assert isinstance(whole, dict)
    return whole


def test_tool_calls_are_joined_by_their_index() -> None:
    whole = gathered(
        chunk(
            {"tool_calls": [{"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": ""}}]}
        ),
        chunk({"tool_calls": [{"index": 0, "id": "", "function": {"name": None, "arguments": '{"a"'}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "c1", "function": {"name": "g", "arguments": "{}"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}, "tool_calls"),
    )
    message = whole["choices"][0]["message"]
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "f", "arguments": '{"a":1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert message["tool_calls"][0]["id"] == "c0"
    assert message["content"] is None
    assert whole["choices"][0]["finish_reason"] == "tool_calls"


def test_choices_lists_and_unknown_fields_survive() -> None:
    whole = gathered(
        chunk({"reasoning": "th", "reasoning_details": [{"i": 1}]}, service_tier="flex", odd=1.10),
        chunk({"reasoning": "ink", "reasoning_details": [{"i": 2}]}, service_tier=None),
        b'{"choices":[{"index":1,"delta":{"content":"b"},"logprobs":{"content":[1]}}]}',
        b'{"choices":[{"index":1,"delta":{"content":"c"},"logprobs":{"content":[2]}}]}',
        b'{"choices":[{"delta":null},{"index":{},"delta":{"content":"x"}}]}',
        b'{"choices":null}',
    )
    first, second = whole["choices"]
    assert first["message"]["reasoning"] == "think"
    assert first["message"]["reasoning_details"] == [{"i": 1}, {"i": 2}]
    assert first["message"]["content"] == "x"
    assert (second["message"]["content"], second["logprobs"]) == ("bc", {"content": [1, 2]})
    assert (whole["object"], whole["service_tier"], whole["odd"]) == ("chat.completion", "flex", 1.10)


Tail = Callable[[web.Request], Awaitable[None]]


@asynccontextmanager
async def streaming(
    pieces: list[bytes], tail: Tail | None = None, **settings: Any
) -> AsyncIterator[tuple[Upstream, list[bytes]]]:
    sent: list[bytes] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        sent.append(await request.read())
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Generation-Id": "gen-head"}
        response = web.StreamResponse(headers=headers)
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


@pytest.mark.parametrize(
    ("pieces", "tail", "code", "generation"),
    [
        (HELLO[:4], None, "stream_incomplete", "gen-1"),
        (HELLO[:5], None, "stream_incomplete", "gen-1"),
        (HELLO[:1], None, "stream_incomplete", "gen-head"),
        ([*HELLO[:3], HELLO[4][:-9]], None, "stream_incomplete", "gen-1"),
        ([*HELLO[:3], event(b"{damaged"), HELLO[4]], None, "stream_incomplete", "gen-1"),
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


async def test_what_the_listener_raises_is_its_own() -> None:
    async def refuse(_: bytes) -> None:
        raise ConnectionResetError("the listener went away")

    async with streaming(HELLO) as (client, _):
        with pytest.raises(ConnectionResetError, match="the listener"):
            await client.stream(BODY, refuse)


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
