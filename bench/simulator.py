"""How many completions the simulator answers on one core, at no latency.

    python bench/simulator.py

The simulator runs in a process of its own on one core, the client in this one on another. The client speaks raw
HTTP/1.1 over keep-alive connections, one request in the air on each, every body different. CPU time is the server's:
`rate by CPU` is what one core of it could answer if nobody else used the machine.
"""

import argparse
import asyncio
import os
import sys
import time
from subprocess import PIPE, Popen
from typing import cast

import psutil
import uvloop

from batchmill.openrouter.simulator import SimulatorOptions, serve

MODEL = "openai/gpt-4o-mini"
PROMPT = "Summarise the following paragraph in one sentence, and name the people in it. " * 4


class Client(asyncio.Protocol):
    """One connection: sends its next request as soon as an answer is whole."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._bench.is_whole(self._buffer):
            self._bench.finished(bytes(self._buffer))
            self._buffer.clear()
            self._send()

    def _send(self) -> None:
        request = self._bench.next_request()
        if self._transport is not None:
            if request is None:
                self._transport.close()
            else:
                self._transport.write(request)


class Bench:
    """A fixed number of completions over so many connections."""

    def __init__(self, total: int, *, stream: bool) -> None:
        self.total = total
        self.stream = stream
        self.sent = 0
        self.done = 0
        self._nonce = time.time_ns()
        self._end = asyncio.get_running_loop().create_future()

    def finished(self, answer: bytes) -> None:
        self.done += 1
        if self._end.done():
            return
        if not answer.startswith(b"HTTP/1.1 200 "):
            self._end.set_exception(RuntimeError(f"the simulator answered {answer[:200]!r}"))
        elif self.done == self.total:
            self._end.set_result(None)

    def next_request(self) -> bytes | None:
        if self.sent >= self.total:
            return None
        self.sent += 1
        body = (
            f'{{"model":"{MODEL}","max_tokens":400,"stream":{str(self.stream).lower()},"messages":[{{"role":"user",'
            f'"content":"{PROMPT} {self._nonce} {self.sent}"}}]}}'
        ).encode()
        head = (
            "POST /api/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer sk-or-v1-bench\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        return head + body

    def is_whole(self, buffer: bytearray) -> bool:
        if self.stream:
            return buffer.endswith(b"0\r\n\r\n")
        head_end = buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return False
        at = buffer.index(b"Content-Length: ") + 16
        return len(buffer) >= head_end + 4 + int(buffer[at : buffer.index(b"\r", at)])

    async def run(self, port: int, connections: int) -> float:
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        for _ in range(connections):
            await loop.create_connection(lambda: Client(self), "127.0.0.1", port)
        await self._end
        return self.total / (time.perf_counter() - started)


async def bench(total: int, port: int, connections: int, *, stream: bool) -> float:
    return await Bench(total, stream=stream).run(port, connections)


def run_server() -> None:
    uvloop.run(serve(SimulatorOptions(), "127.0.0.1", 0, lambda url: print(url, flush=True)))


def pin(process: int, core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process, {cores[core % len(cores)]})


def measure(total: int) -> None:
    server = Popen([sys.executable, __file__, "--serve"], stdout=PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().split(":")[2].split("/")[0])
        pin(server.pid, 0)
        pin(os.getpid(), 1)
        cpu = psutil.Process(server.pid)
        print(f"{'answer':>8} {'connections':>12} {'completions/s':>14} {'CPU us each':>12} {'rate by CPU':>12}")
        for stream in (False, True):
            for connections in (1, 10, 100, 1000):
                before = sum(cpu.cpu_times()[:2])
                rate = uvloop.run(bench(total, port, connections, stream=stream))
                each = (sum(cpu.cpu_times()[:2]) - before) / total
                kind = "stream" if stream else "whole"
                print(f"{kind:>8} {connections:>12} {rate:>14,.0f} {each * 1e6:>12.0f} {1 / each:>12,.0f}", flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="be the server process")
    parser.add_argument("--total", type=int, default=20_000, help="completions of each row")
    arguments = parser.parse_args()
    run_server() if arguments.serve else measure(arguments.total)
