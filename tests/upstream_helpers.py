"""Stand-ins for an upstream: a scripted server that may break at any byte, and the pieces of a stream."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Play = Callable[[asyncio.StreamWriter], Awaitable[None]]

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


class Server:
    """A scripted HTTP/1.1 server: keeps what it was sent, and plays `play` for each request."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.connections = 0
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.hung_up = asyncio.Event()
        self.asked = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while not writer.is_closing():
                await self._one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()
        except asyncio.CancelledError:
            pass  # the end of the test
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append((first, headers, body))
        self.asked.set()
        await self.play(writer)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def serving(play: Play) -> AsyncIterator[tuple[str, Server]]:
    server = Server(play)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/api/v1", server
    finally:
        listener.close()
        await server.stop()
