"""What every request must be like, and what every answer says to browsers. Pure ASGI, so that answers still stream."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchmill.service import problems
from batchmill.service.access.connections import MOST_HEAD_BYTES
from batchmill.service.access.gate import leave
from batchmill.service.access.origin import host_in
from batchmill.service.endpoints import failed
from batchmill.service.problems import ApiError

_PAGE = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_DATA = "default-src 'none'; frame-ancestors 'none'"
_ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Refuses requests without one sound Host header or with too long a head; adds headers for browsers to answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                _mark(MutableHeaders(scope=message))
            await send(message)

        if (error := _wrong(Headers(scope=scope))) is not None:
            await failed(error)(scope, receive, sending)
            return
        state = scope.setdefault("state", {})
        try:
            await self._app(scope, receive, sending)
        finally:
            if whose := state.get("under_way"):
                leave(scope["app"].state.service, whose)


def _wrong(headers: Headers) -> ApiError | None:
    if sum(len(name) + len(value) for name, value in headers.raw) > MOST_HEAD_BYTES:
        return ApiError(431, "The head of the request is too long.")
    hosts = headers.getlist("host")
    if len(hosts) > 1 or not host_in(hosts[0] if hosts else ""):
        return problems.invalid("The request needs one Host header that names a host.")
    return None


def _mark(headers: MutableHeaders) -> None:
    for name, value in _ALWAYS.items():
        headers.setdefault(name, value)
    page = headers.get("content-type", "").startswith("text/html")
    headers.setdefault("content-security-policy", _PAGE if page else _DATA)
    headers.setdefault("cache-control", "no-store")
