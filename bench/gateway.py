"""What many clients of a gateway cost the batch that runs beside them, and how long they wait for their answers.

    python bench/gateway.py [--lines 4000] [--pollers 200] [--uploads 50] [--pause 1.0] [--rounds 3]

One gateway, two workers, one Redis, the upstream at 100 ms. A batch is handed over and worked off first alone, then
while every poller asks for it, the list of batches or a page of its lines, with a pause between two requests (0: none,
which shows what a gateway can take), and while files of a megabyte are uploaded, all at once. Fails when any answer was
an error, or any line has no result.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from bare import KEY
from throughput import Upstream, lines, settings_for

from batchmill.config.settings import WorkerSettings
from batchmill.store.connection import open_store
from batchmill.workers.fleet import Fleet

LATENCY_MS = 100
WORKERS, CONCURRENCY = 2, 50
MEGABYTE = 1_000_000
LOOK_EVERY = 0.25  # seconds between two looks of whoever waits for the batch
PATIENCE = 120  # seconds
MS = 1000


class Taken(msgspec.Struct):
    """The answers to one operation: how long each took (seconds), and the errors."""

    seconds: list[float] = []
    errors: list[str] = []


class Client:
    """Asks one gateway, and keeps how it was answered."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self.taken: dict[str, Taken] = defaultdict(Taken)

    async def ask(self, operation: str, method: str, path: str, **request: Any) -> Any:
        """Return the answer; what is no 200 is kept as an error."""
        taken, began = self.taken[operation], time.perf_counter()
        try:
            async with self._http.request(method, path, **request) as reply:
                body = await reply.read()
                if reply.status != 200:
                    taken.errors.append(f"{reply.status} {body[:200].decode(errors='replace')}")
                    return None
        except (aiohttp.ClientError, TimeoutError) as error:
            taken.errors.append(repr(error))
            return None
        taken.seconds.append(time.perf_counter() - began)
        return msgspec.json.decode(body)

    async def upload(self, content: bytes, operation: str = "upload a file") -> str:
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", content, filename="lines.jsonl")
        made = await self.ask(operation, "POST", "/v1/files", data=form)
        return made["id"] if made else ""

    async def begin(self, content: bytes) -> str:
        """Hand a batch over; return its id."""
        body = {"input_file_id": await self.upload(content, "upload the batch's file"),
                "endpoint": "/v1/chat/completions", "completion_window": "24h"}  # fmt: skip
        made = await self.ask("create the batch", "POST", "/v1/batches", json=body)
        return str(made["id"])

    async def end(self, batch_id: str, count: int) -> None:
        """Wait for the end of a batch. Raises RuntimeError when a line did not succeed."""
        while True:
            found = await self.ask("wait for its end", "GET", f"/v1/batches/{batch_id}")
            if found and found["status"] in ("completed", "failed", "expired", "cancelled"):
                break
            await asyncio.sleep(LOOK_EVERY)
        if found["request_counts"] != {"total": count, "completed": count, "failed": 0}:
            raise RuntimeError(f"not every line has a result: {found['request_counts']}")

    async def poll(self, batch_id: str, number: int, pause: float) -> None:
        """Ask for ever, in turn, for the batch, the list and its lines."""
        asked = (
            ("retrieve a batch", f"/v1/batches/{batch_id}"),
            ("list batches", "/v1/batches?limit=20"),
            ("list lines", f"/v1/batches/{batch_id}/lines?limit=50"),
        )
        await asyncio.sleep(pause * (number % 97) / 97)  # not all at the same instant
        for turn in itertools.count(number):
            await self.ask(*_get(asked[turn % len(asked)]))
            await asyncio.sleep(pause)


def _get(asked: tuple[str, str]) -> tuple[str, str, str]:
    operation, path = asked
    return operation, "GET", path


def jsonl(count: int, salt: int) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines(count, salt))


@asynccontextmanager
async def gateway(redis_url: str, data: Path, upstream: str) -> AsyncIterator[str]:
    """Run `batchmill serve` in a process of its own; yield its URL."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BATCHMILL")}
    environ |= {"BATCHMILL_DATA_DIR": str(data), "BATCHMILL_BASE_URL": upstream, "OPENROUTER_API_KEY": KEY}
    command = [sys.executable, "-m", "batchmill.cli", "serve", "--port", "0", "--redis", redis_url]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)  # noqa: ASYNC220 - once
    try:
        said = " "
        while process.stderr and said and "batchmill at http" not in said:
            said = process.stderr.readline()
        if not said:
            raise RuntimeError("the gateway did not begin")
        yield said.split()[2].rstrip(",")
    finally:
        process.terminate()
        process.communicate()


async def alone(client: Client, content: bytes, count: int) -> float:
    """Return the seconds of a batch that nobody else asks for."""
    began = time.perf_counter()
    await client.end(await client.begin(content), count)
    return time.perf_counter() - began


async def crowded(client: Client, content: bytes, options: argparse.Namespace) -> float:
    """Return the seconds of a batch while everybody asks and uploads."""
    began = time.perf_counter()
    batch_id = await client.begin(content)
    pollers = [asyncio.create_task(client.poll(batch_id, each, options.pause)) for each in range(options.pollers)]
    filler = content[: content.rfind(b"\n", 0, MEGABYTE) + 1]
    uploads = [asyncio.create_task(client.upload(filler)) for _ in range(options.uploads)]
    await client.end(batch_id, options.lines)
    seconds = time.perf_counter() - began
    await asyncio.gather(*uploads)
    for each in pollers:
        each.cancel()
    await asyncio.gather(*pollers, return_exceptions=True)
    return seconds


async def measure(options: argparse.Namespace) -> int:
    upstream = Upstream(LATENCY_MS)
    times: dict[str, list[float]] = {"alone": [], "crowded": []}
    try:
        with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as folder:
            worker = WorkerSettings(processes=WORKERS, concurrency=CONCURRENCY)
            settings = msgspec.structs.replace(
                settings_for(upstream.url, f"{folder}/fleet", CONCURRENCY), worker=worker
            )
            async with (
                open_store(settings) as store,
                Fleet(settings, store.url, server=store.server),
                gateway(store.url, Path(folder, "gateway"), upstream.url) as url,
                aiohttp.ClientSession(
                    url, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(PATIENCE)
                ) as http,
            ):
                client, quiet = Client(http), Client(http)
                await alone(quiet, jsonl(200, 0), 200)  # warms up
                for number in range(options.rounds):
                    times["alone"].append(await alone(quiet, jsonl(options.lines, 2 * number + 1), options.lines))
                    content = jsonl(options.lines, 2 * number + 2)
                    times["crowded"].append(await crowded(client, content, options))
    finally:
        upstream.process.terminate()
        upstream.process.communicate()
    print(*table(client.taken, sum(times["crowded"])), *verdict(times, options), sep="\n")
    wrong = [error for each in (client, quiet) for taken in each.taken.values() for error in taken.errors]
    print(*wrong[:10], sep="\n", file=sys.stderr)
    return 1 if wrong else 0


def table(taken: dict[str, Taken], seconds: float) -> Iterator[str]:
    yield "| operation | requests | errors | a second | p50 ms | p99 ms |"
    yield "|---|---:|---:|---:|---:|---:|"
    for operation, one in taken.items():
        times = sorted(one.seconds) or [0.0]
        p50, p99 = (MS * times[min(len(times) - 1, int(part * len(times)))] for part in (0.5, 0.99))
        count = len(one.seconds)
        yield f"| {operation} | {count:,} | {len(one.errors)} | {count / seconds:.1f} | {p50:.1f} | {p99:.1f} |"


def verdict(times: dict[str, list[float]], options: argparse.Namespace) -> Iterator[str]:
    quiet, busy = (statistics.median(times[name]) for name in ("alone", "crowded"))
    yield ""
    yield (
        f"{options.lines:,} lines, {options.pollers} pollers each {options.pause:g} s, "
        f"{options.uploads} uploads of 1 MB: alone {quiet:.2f} s, crowded {busy:.2f} s, ratio {busy / quiet:.2f} "
        f"(medians of {options.rounds})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=4000)
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--uploads", type=int, default=50)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two requests of a poller")
    parser.add_argument("--rounds", type=int, default=3)
    return asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
