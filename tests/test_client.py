"""The client against real sockets on the loopback: what is sent, what comes back, and every way that it can break."""

import asyncio
import gzip
import socket
import struct
from collections.abc import Callable
from typing import Any

import aiohttp
import httpx
import pytest

from batchmill.config.settings import Secret, UpstreamSettings
from batchmill.openrouter.client import Upstream, verdict_on_trouble
from batchmill.openrouter.errors import CODES
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Fault, Retry

from .upstream_helpers import Play, serving

KEY = "sk-or-v1-0123456789abcdef"
BODY = b'{"model":"a/b","messages":[]}'
DONE = b'{"id":"gen-1","model":"a/b","choices":[{"finish_reason":"stop"}],"usage":{"cost":0.5}}'
NEVER = 20.0  # seconds; longer than any test takes
AT_ONCE = 0.05


def upstream(url: str, **settings: Any) -> Upstream:
    return Upstream(UpstreamSettings(base_url=url, **settings), Secret(KEY), max_connections=8)


def http(body: bytes = DONE, status: str = "200 OK", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "X-Generation-Id: gen-9", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(raw: bytes, then: Callable[[asyncio.StreamWriter], None] | None = None) -> Play:
    async def play(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        if then is not None:
            then(writer)

    return play


def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with a RST instead of a FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def completed(play: Play, body: bytes = BODY, **settings: Any) -> Answer | Failure:
    async with serving(play) as (url, _), upstream(url, **settings) as client:
        return await client.complete(body)


async def test_what_is_sent() -> None:
    async with serving(says(http())) as (url, server), upstream(url, title="my mill") as client:
        assert isinstance(await client.complete(BODY), Answer)
    first, headers, body = server.requests[0]
    assert (first, body) == ("POST /api/v1/chat/completions HTTP/1.1", BODY)
    assert headers.pop("user-agent").startswith("batchmill/")
    assert headers.pop("host")
    assert headers == {
        "authorization": f"Bearer {KEY}",
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "http-referer": "https://github.com/batchmill/batchmill",
        "x-openrouter-title": "my mill",
    }


async def test_one_connection_serves_many_calls_and_cookies_are_not_kept() -> None:
    async with serving(says(http(DONE, "200 OK", "Set-Cookie: a=b"))) as (url, server), upstream(url) as client:
        for _ in range(3):
            assert isinstance(await client.complete(BODY), Answer)
    assert server.connections == 1
    assert not any("cookie" in headers for _, headers, _ in server.requests)


async def test_calls_run_side_by_side_and_never_over_more_connections_than_allowed() -> None:
    both = asyncio.Barrier(2)

    async def play(writer: asyncio.StreamWriter) -> None:
        await both.wait()
        writer.write(http())

    async with serving(play) as (url, server):
        settings = UpstreamSettings(base_url=url, total_timeout=NEVER)
        async with Upstream(settings, None, max_connections=2) as client:
            answers = await asyncio.gather(*(client.complete(BODY) for _ in range(6)))
    assert all(isinstance(answer, Answer) for answer in answers)
    assert server.connections == 2


async def test_the_answer_of_a_call() -> None:
    answer = await completed(says(http()))
    assert isinstance(answer, Answer)
    assert (answer.body, answer.cost, answer.generation_id) == (DONE, 500_000_000, "gen-1")


async def test_the_generation_is_told_before_the_answer_is_there() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    read_on = asyncio.Event()

    async def play(writer: asyncio.StreamWriter) -> None:
        head, _, body = http().partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        await read_on.wait()
        writer.write(body)

    async with serving(play) as (url, _), upstream(url) as client:
        call = asyncio.create_task(client.complete(BODY, told.put_nowait))
        assert await told.get() == "gen-9"
        assert not call.done()
        read_on.set()
        assert isinstance(await call, Answer)


async def test_an_answer_without_a_generation_tells_none() -> None:
    told: list[str] = []
    raw = http().replace(b"X-Generation-Id", b"X-Other")
    async with serving(says(raw)) as (url, _), upstream(url) as client:
        assert isinstance(await client.complete(BODY, told.append), Answer)
    assert told == []


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, 5 << 20])
async def test_a_large_request_arrives_whole_and_warns_of_nothing(size: int) -> None:
    body = b'{"model":"' + b"x" * size + b'"}'
    async with serving(says(http())) as (url, server), upstream(url) as client:
        assert isinstance(await client.complete(body), Answer)
    assert server.requests[0][2] == body


async def test_a_compressed_answer_is_understood_although_nobody_asked_for_one() -> None:
    answer = await completed(says(http(gzip.compress(DONE), "200 OK", "Content-Encoding: gzip")))
    assert isinstance(answer, Answer)
    assert answer.body == DONE


async def test_a_compressed_error_is_understood() -> None:
    page = gzip.compress(b'{"error":{"code":429,"message":"slow down"}}')
    failure = await completed(says(http(page, "429 Too Many", "content-encoding: gzip", "retry-after: 7")))
    assert isinstance(failure, Failure)
    assert (failure.message, failure.retry, failure.retry_after) == ("slow down", Retry.LATER, 7.0)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Generation-Id: gen-9\r\n\r\n"
BREAKS: dict[str, tuple[Play, str, str | None]] = {
    "no answer": (says(b"", hang_up), "connection_lost", None),
    "reset instead of an answer": (says(b"", reset), "connection_lost", None),
    "half a head": (says(b"HTTP/1.1 200 OK\r\nContent-", hang_up), "connection_lost", None),
    "half a body": (says(http()[:-9], hang_up), "connection_lost", "gen-9"),
    "half a chunk": (says(CHUNKED + b"40\r\n{", hang_up), "connection_lost", "gen-9"),
    "a chunk of no size": (says(CHUNKED + b"zz\r\n{", hang_up), "invalid_response", None),
    "no HTTP": (says(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", hang_up), "invalid_response", None),
    "an endless header": (says(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 99_999 + b"\r\n\r\n"), "invalid_response", None),
    "a damaged gzip": (
        says(http(b"\x1f\x8b\x08zzzz", "200 OK", "content-encoding: gzip")),
        "invalid_response",
        "gen-9",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_what_breaks_after_sending_may_have_been_billed(name: str) -> None:
    play, code, generation = BREAKS[name]
    failure = await completed(play)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.retry, failure.fault) == (code, Retry.BACKOFF, Fault.PROVIDER)
    assert (failure.billed, failure.generation_id, failure.status) == (Billed.MAYBE, generation, None)


@pytest.mark.parametrize(
    ("raw", "settings", "generation"),
    [
        (b"", {"read_timeout": AT_ONCE}, None),
        (b"", {"total_timeout": AT_ONCE}, None),
        (http()[:-9], {"read_timeout": AT_ONCE}, "gen-9"),
        (http()[:-9], {"total_timeout": AT_ONCE}, "gen-9"),
    ],
)
async def test_a_silence_after_sending_may_have_been_billed(
    raw: bytes, settings: dict[str, Any], generation: str | None
) -> None:
    failure = await completed(says(raw), **({"read_timeout": NEVER, "total_timeout": NEVER} | settings))
    assert isinstance(failure, Failure)
    assert (failure.code, failure.retry, failure.fault) == ("timeout", Retry.BACKOFF, Fault.PROVIDER)
    assert (failure.billed, failure.generation_id) == (Billed.MAYBE, generation)


async def test_a_refused_connection_costs_nothing() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        async with upstream(url) as client:
            failure = await client.complete(BODY)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.retry, failure.fault) == ("connect_failed", Retry.BACKOFF, Fault.PROVIDER)
    assert failure.billed is Billed.NO


async def test_an_unknown_host_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    async with upstream("http://nowhere.invalid/v1") as client:
        failure = await client.complete(BODY)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.billed) == ("connect_failed", Billed.NO)


async def test_a_handshake_that_hangs_costs_nothing() -> None:
    async with serving(says(b"")) as (url, _), upstream(f"https{url[4:]}", connect_timeout=AT_ONCE) as client:
        failure = await client.complete(BODY)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.billed) == ("connect_timeout", Billed.NO)


async def test_a_server_without_tls_costs_nothing() -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with upstream(f"https://127.0.0.1:{port}/v1") as client:
            failure = await client.complete(BODY)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.billed) == ("connect_failed", Billed.NO)


async def test_a_cancelled_call_hangs_up() -> None:
    async with serving(says(b"")) as (url, server), upstream(url) as client:
        call = asyncio.create_task(client.complete(BODY))
        await server.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.hung_up.wait()


BEFORE_SENDING = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.ServerFingerprintMismatch,
)


def every(kind: type[Exception]) -> list[type[Exception]]:
    """Return a kind of error and all below it, but for those of libraries that the client has nothing to do with."""
    known = [child for child in kind.__subclasses__() if not child.__module__.startswith("python_multipart")]
    return [kind, *(each for child in known for each in every(child))]


@pytest.mark.parametrize(
    "kind",
    sorted(
        {*every(aiohttp.ClientError), *every(httpx.HTTPError), *every(httpx.StreamError), *every(OSError), EOFError},
        key=str,
    ),
)
async def test_no_exception_of_the_transport_is_unmapped(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = kind.__new__(kind)  # whatever its constructor wants

    async def broken(_: httpx.Request) -> httpx.Response:
        raise error

    async with upstream("http://127.0.0.1:9/v1") as client:
        monkeypatch.setattr(client._transport, "handle_async_request", broken)
        for outcome in (await client.complete(BODY), await client.stream(BODY)):
            assert isinstance(outcome, Failure)
            assert outcome.code in CODES
            assert outcome.billed is (Billed.NO if issubclass(kind, BEFORE_SENDING) else Billed.MAYBE)
    assert verdict_on_trouble(error).fault is Fault.PROVIDER
