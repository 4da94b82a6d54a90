"""The client of the upstream: one call in, one Outcome out; what is asked beside completions is in `lookups`.

httpx's types over the aiohttp transport, which is called directly: `httpx.AsyncClient` costs more than the transport
(0.5 against 0.34 ms a completion). All of httpx and aiohttp stays inside this file.
"""

import asyncio
import io
import time
import typing
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
import httpx
import msgspec
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport

from batchmill.config.errors import ConfigError
from batchmill.config.settings import Secret, UpstreamSettings
from batchmill.config.urls import normalized_url
from batchmill.openrouter.classify import Verdict, provider_fault
from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError
from batchmill.openrouter.lookups import Lookups
from batchmill.openrouter.outcomes import Billed, Failure, Fault, Outcome
from batchmill.openrouter.replies import GENERATION_ID, SUCCESSES, Reply, judge, lost, refuse
from batchmill.openrouter.stream import Gathering, OnChunk, follow, streaming_body

OnGeneration = Callable[[str], None]
"""Gets the id under which the upstream keeps a call; must not raise."""

_KEEPALIVE_SECONDS: Final = 15.0  # an idle connection that the server closes in that moment costs a lost request
_DNS_SECONDS: Final = 60
_LARGE_BODY: Final = 1 << 20  # aiohttp warns of bytes beyond this; it writes a file-like body piece by piece
_LINGER_SECONDS: Final = 2.0  # for the tail of a stream whose answer is whole already
_NO_SUCH_CALL: Final = (404, 405, 501)
_CUT_OFF: Final = provider_fault("stream_incomplete", Billed.MAYBE)
_NO_HEADERS: Final = httpx.Headers()
_JSON_STARTS: Final = (b"{", b" ", b"\n")  # no compressed body starts so; we ask for none, but some servers don't care
# ValueError: what a server can put into a status line or a header that httpx's types can't hold (UnicodeError is one)
_TROUBLE: Final = (
    httpx.HTTPError, httpx.StreamError, aiohttp.ClientError, HttpProcessingError, OSError, EOFError, ValueError,
)  # fmt: skip
_NEVER_CONNECTED: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.ServerFingerprintMismatch,
)


class _Request(httpx.Request):
    """A request with nothing left to prepare: httpx's own constructor parses and encodes all of it for each call.

    The headers are the session's, so that they are encoded once and the key lies in no request.
    """

    def __init__(self, method: str, url: httpx.URL, body: bytes, extensions: dict[str, Any]) -> None:
        self.method = method
        self.url = url
        self.headers = _NO_HEADERS
        self.extensions = extensions
        self._body = body if len(body) <= _LARGE_BODY else io.BytesIO(body)

    @property
    def content(self) -> bytes:
        """The body, in the form that the transport hands on to aiohttp."""
        return self._body  # type: ignore[return-value] # aiohttp takes a file as well; the transport only passes it on


class Upstream(Lookups):
    """The HTTP API that answers, over one pool of at most `max_connections` connections.

    A call beyond them waits for a free connection, and that wait counts as latency: give it as many as calls in the
    air. Use it inside one event loop, and close it there.
    """

    def __init__(self, settings: UpstreamSettings, api_key: Secret | None, *, max_connections: int) -> None:
        self._base_url = normalized_url(settings.base_url)
        self._completions = httpx.URL(f"{self._base_url}/chat/completions")
        self._timeouts = {"timeout": {"connect": settings.connect_timeout, "read": settings.read_timeout}}
        self._total = settings.total_timeout
        self._key = api_key
        tls = httpx.create_ssl_context()
        proxy = _proxy_of(self._base_url)
        headers = _headers(settings, api_key)

        def session() -> aiohttp.ClientSession:
            return aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=max_connections, keepalive_timeout=_KEEPALIVE_SECONDS, ttl_dns_cache=_DNS_SECONDS, ssl=tls
                ),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                proxy=proxy,
            )

        self._transport = AiohttpTransport(verify=tls, client=session)  # the session is made inside the loop

    def __repr__(self) -> str:
        return f"Upstream({self._base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def complete(self, body: bytes, on_generation: OnGeneration | None = None) -> Outcome:
        """Send one completion request, a JSON object, and return how it ended; trouble is a Failure, never raised.

        `on_generation` gets the generation id as soon as the headers of the answer tell it, before its body is there.
        """
        reply = await self._send(_Request("POST", self._completions, body, self._timeouts), on_generation)
        return reply if isinstance(reply, Failure) else self._judge(reply)

    async def stream(
        self, body: bytes, on_chunk: OnChunk | None = None, on_generation: OnGeneration | None = None
    ) -> Outcome:
        """Send one completion request as a stream and gather it into one Answer, whose body is a `chat.completion`.

        `on_chunk` gets the JSON of each chunk as it comes, without errors and the end mark. What it raises ends the
        call and is raised here. An endpoint that answers whole all the same is understood.
        `on_generation` as in `complete`.
        """
        started = time.monotonic()
        gathering = Gathering()
        request = _Request("POST", self._completions, streaming_body(body), self._timeouts)
        response = raised = None
        try:
            async with asyncio.timeout(self._total) as deadline:
                response = await self._transport.handle_async_request(request)
                if on_generation is not None and (generation_id := response.headers.get(GENERATION_ID)):
                    on_generation(generation_id)
                if _is_event_stream(response):
                    raised = await self._follow(response, gathering, on_chunk, deadline)
                else:
                    content = await _read(response)
                    return self._judge(_reply(response, content, started))
        except _TROUBLE as error:
            if response is None or not gathering.settled:
                return _lost(verdict_on_trouble(error), response, started, gathering.body())
        if raised is not None:
            raise raised
        if not gathering.settled:
            return _lost(_CUT_OFF, response, started, gathering.body())
        return self._judge(_gathered(response, gathering, started))

    async def _look_up(self, path: str) -> Reply | None:
        reply = await self._send(_Request("GET", httpx.URL(f"{self._base_url}{path}"), b"", self._timeouts))
        if isinstance(reply, Failure):
            raise UpstreamUnavailableError(reply)
        if reply.status in SUCCESSES:
            return reply
        failure = self._without_key(refuse(reply, time.time()))
        if reply.status in _NO_SUCH_CALL:
            return None
        if failure.fault is Fault.ACCOUNT:
            raise UpstreamRefusedError(failure)
        raise UpstreamUnavailableError(failure)

    async def _send(self, request: httpx.Request, on_generation: OnGeneration | None = None) -> Reply | Failure:
        started = time.monotonic()
        response = None
        try:
            async with asyncio.timeout(self._total):
                response = await self._transport.handle_async_request(request)
                if on_generation is not None and (generation_id := response.headers.get(GENERATION_ID)):
                    on_generation(generation_id)
                content = await _read(response)
        except _TROUBLE as error:
            return _lost(verdict_on_trouble(error), response, started)
        return _reply(response, content, started)

    async def _follow(
        self, response: httpx.Response, gathering: Gathering, on_chunk: OnChunk | None, deadline: asyncio.Timeout
    ) -> Exception | None:
        # the usage may still follow an error, and reading to the end keeps the connection for the next call
        def linger() -> None:
            deadline.reschedule(asyncio.get_running_loop().time() + _LINGER_SECONDS)

        encoded = "content-encoding" in response.headers
        pieces = response.aiter_bytes() if encoded else _stream_of(response).__aiter__()
        try:
            return await follow(pieces, gathering, on_chunk, linger)
        finally:
            await response.aclose()

    def _judge(self, reply: Reply) -> Outcome:
        outcome = judge(reply, time.time())
        return self._without_key(outcome) if isinstance(outcome, Failure) else outcome

    def _without_key(self, outcome: Failure) -> Failure:
        """An upstream may quote the key that it refuses."""
        if self._key is None:
            return outcome
        secret = self._key.reveal()
        return msgspec.structs.replace(
            outcome,
            message=outcome.message.replace(secret, "***"),
            body=outcome.body and outcome.body.replace(secret.encode(), b"***"),
        )


def _headers(settings: UpstreamSettings, api_key: Secret | None) -> dict[str, str]:
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": f"batchmill/{version('batchmill')}",
        "HTTP-Referer": settings.referer,
        "X-OpenRouter-Title": settings.title,
    }
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key.reveal()}"
    for name, value in headers.items():
        if not value.isprintable():
            raise ConfigError(f"the value for the header {name} holds a line break or another control character")
    return headers


def _proxy_of(base_url: str) -> str | None:
    """Return the proxy that the system's settings name, looked up once: aiohttp would ask a thread for every call."""
    url = urlsplit(base_url)
    host = url.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127.") or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and urlsplit(proxy).scheme not in ("http", "https"):
        raise ConfigError(f"the proxy for {host} must be an http(s) URL; unset it, or name {host} in NO_PROXY")
    return proxy


async def _read(response: httpx.Response) -> bytes:
    """Return the whole body, decoded. `Response.aread()` would parse the headers of every answer to the same end."""
    stream = _stream_of(response)
    try:
        content = b"".join([chunk async for chunk in stream])
    finally:
        await stream.aclose()
    if content[:1] in _JSON_STARTS or "content-encoding" not in response.headers:
        return content
    return httpx.Response(response.status_code, headers=response.headers, content=content).content


def _stream_of(response: httpx.Response) -> httpx.AsyncByteStream:
    return typing.cast("httpx.AsyncByteStream", response.stream)  # the transport gives no other kind


def _is_event_stream(response: httpx.Response) -> bool:
    return response.status_code in SUCCESSES and "text/event-stream" in response.headers.get("content-type", "")


def _milliseconds(started: float, ended: float | None = None) -> int:
    return round(((ended or time.monotonic()) - started) * 1000)


def _reply(response: httpx.Response, content: bytes, started: float) -> Reply:
    return Reply(response.status_code, response.headers, content, _milliseconds(started))


def _gathered(response: httpx.Response, gathering: Gathering, started: float) -> Reply:
    first = gathering.first_token_at
    return Reply(
        response.status_code,
        response.headers,
        gathering.body(),
        _milliseconds(started, gathering.last_event_at),
        None if first is None else _milliseconds(started, first),
    )


def _lost(verdict: Verdict, response: httpx.Response | None, started: float, partial: bytes = b"{}") -> Failure:
    return lost(verdict, _milliseconds(started), _NO_HEADERS if response is None else response.headers, partial)


def verdict_on_trouble(error: Exception) -> Verdict:
    """Return what follows from an exception of the transport; only what happened before sending costs nothing.

    httpx-aiohttp 0.2 calls a refused connection, and a connection lost after sending, both `ConnectTimeout`, and maps
    some errors not at all: so the aiohttp exception behind the httpx one decides.
    """
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    if isinstance(cause, aiohttp.ConnectionTimeoutError):
        return provider_fault("connect_timeout")
    if isinstance(cause, _NEVER_CONNECTED):
        return provider_fault("connect_failed")
    if isinstance(cause, TimeoutError):  # aiohttp's SocketTimeoutError is one
        return provider_fault("timeout", Billed.MAYBE)
    if isinstance(cause, aiohttp.ClientResponseError | HttpProcessingError | httpx.DecodingError):
        return provider_fault("invalid_response", Billed.MAYBE)
    return provider_fault("connection_lost", Billed.MAYBE)
