"""Connections that nobody can hold for nothing.

    connected ──► head of a request ──► body, answer ──► idle ──► the next one
        └── too slow ──┴── too long: 431    │              └── uvicorn's keep-alive ends it
            408, and closed                 └── the client does not read the answer: cut off

Uvicorn by itself (0.54) waits for ever for the first byte, for the end of a head, and for a client to read.
What is silent in the middle of a body is `bodies.py`'s to end.
"""

import asyncio

import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger()

MOST_HEAD_BYTES = 64 * 1024
"""Of the request line and all headers."""

STALLS = 10
"""How often the time for a head a client may take to read on; programs work on a line before they read the next."""

_MOST_FRAMING = 8  # bytes on the wire for one of a body, where every chunk is a byte; trailers have no end

_BUSY = (503, "Service Unavailable", "The service has all the connections it may have.")
_SLOW = (408, "Request Timeout", "The head of the request did not come on.")
_LONG = (431, "Request Header Fields Too Large", "The head of the request is too long.")


class Bounds(msgspec.Struct, frozen=True):
    """How long (seconds) a head may take, and how many connections there may be."""

    head_seconds: float
    connections: int


def connection_of(bounds: Bounds) -> type[HttpToolsProtocol]:
    """Return what uvicorn makes of each connection."""

    class Connection(_Connection):
        pass

    Connection.bounds = bounds
    return Connection


class _Connection(HttpToolsProtocol):
    bounds: Bounds

    _head = 0  # bytes of a head that is not complete
    _in_head = False
    _fed = 0  # bytes since the head, with the framing of chunks, and of them
    _body = 0  # bytes of the body
    _in_body = False
    _deadline: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections:
            log.warning("service.too_many_connections", most=self.bounds.connections)
            self._refuse(_BUSY)
            return
        self._hurry()

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > MOST_HEAD_BYTES:
                self._refuse(_LONG)
        elif self.cycle is None or self.cycle.response_complete:
            self._hurry()  # what comes now belongs to nothing that is being answered, and ended uvicorn's keep-alive
        else:
            self._calm()
        if self._in_body:
            self._fed += len(data)
            if self._fed > 2 * MOST_HEAD_BYTES + _MOST_FRAMING * self._body:
                log.warning("service.no_body", bytes=self._fed)
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head = True, 0
        self._hurry()

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._fed = self._body = 0
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes after a body, nobody reads
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(STALLS * self.bounds.head_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        if self.flow is not None:
            super().resume_writing()

    def _hurry(self) -> None:
        """Let the head be complete in time; more bytes don't give it more time."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.bounds.head_seconds, self._too_slow)

    def _calm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._hurry()  # a pipelined request may wait for the answer to the one before it
        elif self._in_head:
            self._refuse(_SLOW)
        else:
            self.transport.close()

    def _refuse(self, answer: tuple[int, str, str]) -> None:
        if self.transport.is_closing():
            return
        status, phrase, message = answer
        body = msgspec.json.encode({"error": {"message": message, "type": "invalid_request_error"}})
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()
        self._calm()
