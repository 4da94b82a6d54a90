"""The client of the upstream: one call in, one Outcome out.

httpx's types over the aiohttp transport, which is called directly: `httpx.AsyncClient` costs more than the transport
(0.5 against 0.34 ms a completion). All of httpx and aiohttp stays inside this file.
"""

import asyncio
import io
import time
import urllib.request
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
from batchmill.config.settings import Secret, UpstreamSettings, normalized_url
from batchmill.openrouter.classify import Verdict, provider_fault
from batchmill.openrouter.errors import CODES
from batchmill.openrouter.outcomes import Billed, Failure, Outcome
from batchmill.openrouter.replies import GENERATION_ID, Reply, judge

_KEEPALIVE_SECONDS: Final = 15.0  # an idle connection that the server closes in that moment costs a lost request
_DNS_SECONDS: Final = 60
_LARGE_BODY: Final = 1 << 20  # aiohttp warns of bytes beyond this; it writes a file-like body piece by piece
_NO_HEADERS: Final = httpx.Headers()
_TROUBLE: Final = (httpx.HTTPError, httpx.StreamError, aiohttp.ClientError, HttpProcessingError, OSError, EOFError)
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


class Upstream:
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

    async def complete(self, body: bytes) -> Outcome:
        """Send one completion request, a JSON object, and return how it ended; trouble is a Failure, never raised."""
        return await self._exchange(_Request("POST", self._completions, body, self._timeouts))

    async def _exchange(self, request: httpx.Request) -> Outcome:
        started = time.monotonic()
        response = None
        try:
            async with asyncio.timeout(self._total):
                response = await self._transport.handle_async_request(request)
                content = await _read(response)
        except _TROUBLE as error:
            return _lost(error, response, _milliseconds_since(started))
        reply = Reply(response.status_code, response.headers, content, _milliseconds_since(started))
        return self._without_key(judge(reply, time.time()))

    def _without_key(self, outcome: Outcome) -> Outcome:
        """An upstream may quote the key that it refuses."""
        if self._key is None or not isinstance(outcome, Failure):
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
    if "content-encoding" in response.headers:  # sent although we asked for none
        try:
            return await response.aread()
        finally:
            await response.aclose()
    try:
        return b"".join([chunk async for chunk in response.stream])  # type: ignore[union-attr] # always async here
    finally:
        await response.stream.aclose()  # type: ignore[union-attr]


def _milliseconds_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _lost(error: Exception, response: httpx.Response | None, latency_ms: int) -> Failure:
    verdict = verdict_on_trouble(error)
    return Failure(
        code=verdict.code,
        message=CODES[verdict.code],
        retry=verdict.retry,
        fault=verdict.fault,
        billed=verdict.billed,
        generation_id=response.headers.get(GENERATION_ID) if response else None,
        latency_ms=latency_ms,
    )


def verdict_on_trouble(error: Exception) -> Verdict:
    """Return what follows from an exception of the transport; only what happened before sending costs nothing.

    httpx-aiohttp 0.2 calls a refused connection, and a connection lost after sending, both `ConnectTimeout`, and maps
    some errors not at all: so the aiohttp exception behind the httpx one decides.
    """
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ else error
    if isinstance(cause, aiohttp.ConnectionTimeoutError):
        return provider_fault("connect_timeout")
    if isinstance(cause, _NEVER_CONNECTED):
        return provider_fault("connect_failed")
    if isinstance(cause, TimeoutError):  # aiohttp's SocketTimeoutError is one
        return provider_fault("timeout", Billed.MAYBE)
    if isinstance(cause, aiohttp.ClientResponseError | HttpProcessingError | httpx.DecodingError):
        return provider_fault("invalid_response", Billed.MAYBE)
    return provider_fault("connection_lost", Billed.MAYBE)
