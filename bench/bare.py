"""Bare loops against an upstream, each in a process of its own: what any home-made script could do at best.

    python bench/bare.py httpx|transport|aiohttp URL CONCURRENCY CALLS

Prints one JSON object: calls/s, CPU seconds a call, peak memory, and when each answer was read, by generation id. The
first CONCURRENCY calls only warm up.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import httpx
import msgspec
import uvloop
from httpx_aiohttp import HttpxAiohttpClient

KEY = "sk-or-v1-bench"
MODEL = "openai/gpt-4o-mini"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}

Call = Callable[[bytes], Awaitable[bytes]]


class Completion(msgspec.Struct):
    """What a home-made script reads of an answer, at least."""

    id: str
    choices: list[dict[str, object]]
    usage: dict[str, object]


def body(number: int) -> bytes:
    message = {"role": "user", "content": f"Name three uses of the number {number}, one a line."}
    return msgspec.json.encode({"model": MODEL, "max_tokens": 60, "messages": [message]})


async def open_client(kind: str, url: str, concurrency: int, stack: AsyncExitStack) -> Call:
    if kind == "aiohttp":
        connector = aiohttp.TCPConnector(limit=concurrency)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, headers=HEADERS))

        async def call_aiohttp(content: bytes) -> bytes:
            async with session.post(url, data=content) as response:
                return await response.read()

        return call_aiohttp
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    make = {"httpx": httpx.AsyncClient, "transport": HttpxAiohttpClient}[kind]
    client = await stack.enter_async_context(make(limits=limits, timeout=120, headers=HEADERS))

    async def call_httpx(content: bytes) -> bytes:
        return (await client.post(url, content=content)).content

    return call_httpx


async def run(call: Call, first: int, count: int, concurrency: int) -> dict[str, float]:
    read_at: dict[str, float] = {}
    decode = msgspec.json.Decoder(Completion).decode
    numbers = iter(range(first, first + count))

    async def runner() -> None:
        for number in numbers:
            completion = decode(await call(body(number)))
            read_at[completion.id] = time.time()

    await asyncio.gather(*(runner() for _ in range(concurrency)))
    return read_at


def peak_mb(process: int | str) -> float:
    """Return the most memory that a process had; `ru_maxrss` would start from what its parent had."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


async def main() -> None:
    kind, url, concurrency, calls = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    async with AsyncExitStack() as stack:
        call = await open_client(kind, f"{url}/chat/completions", concurrency, stack)
        await run(call, 0, concurrency, concurrency)
        cpu, wall = time.process_time(), time.monotonic()
        read_at = await run(call, concurrency, calls, concurrency)
        report = {
            "rate": calls / (time.monotonic() - wall),
            "cpu": (time.process_time() - cpu) / calls,
            "peak_mb": peak_mb("self"),
            "read_at": read_at,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
