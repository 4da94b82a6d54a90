"""One table from one run: batchmill's worker against bare client loops, and what its queue costs.

    python bench/throughput.py [--rounds 3] [--latency-ms 200] [--quick]

The upstream (the simulator) and Redis are pinned to one core, every client to another, one client at a time. Figures
are medians over the rounds. A completion of batchmill counts when a poller can read its result.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
from bare import KEY, body, peak_mb

from batchmill.config.settings import LogSettings, Settings, WorkerSettings, load
from batchmill.openrouter.simulator import CallRecord
from batchmill.producer import Batch, Producer
from batchmill.store.batches import open_shards
from batchmill.store.connection import Store, open_store
from batchmill.store.records import read
from batchmill.workers.fleet import Fleet

CLIENT_CORE, SERVER_CORE = 0, 1
SECONDS = 8  # what one measurement takes, about
LOOPS = {"httpx": "httpx", "transport": "httpx + aiohttp transport", "aiohttp": "aiohttp"}
RATES = {("httpx", 100): 50, ("httpx", 1000): 45, ("any", 100): 450, ("any", 1000): 1800}
COLUMNS = ("rate", "cpu", "peak_mb", "late_ms")

Report = dict[str, float]


class Upstream:
    """The simulator in a process of its own, pinned."""

    def __init__(self, latency_ms: int) -> None:
        code = (
            "import asyncio, uvloop\n"
            "from batchmill.openrouter.simulator import SimulatorOptions, serve\n"
            f"options = SimulatorOptions(latency='{latency_ms}', mean_output_tokens=60, record=True)\n"
            "with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:\n"
            "    runner.run(serve(options, '127.0.0.1', 0, lambda url: print(url, flush=True)))\n"
        )
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        os.sched_setaffinity(self.process.pid, {SERVER_CORE})
        self.url = self.process.stdout.readline().strip() if self.process.stdout else ""

    def answered_at(self) -> dict[str, float]:
        """Return when each call was answered, by generation id, and forget them."""
        admin = self.url.removesuffix("/api/v1") + "/_sim"
        records = msgspec.json.decode(httpx.get(f"{admin}/calls", timeout=60).content, type=list[CallRecord])
        httpx.post(f"{admin}/reset")
        return {record.generation_id: record.t for record in records if record.generation_id}


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Let this process, and those that it starts, run on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def lateness(answered: dict[str, float], seen: dict[str, float]) -> float:
    """Return the median ms from the upstream's answer to when it was seen."""
    return 1000 * statistics.median(seen[name] - answered[name] for name in seen if name in answered)


def bare(kind: str, upstream: Upstream, concurrency: int, calls: int) -> Report:
    command = [sys.executable, str(Path(__file__).parent / "bare.py"), kind, upstream.url, str(concurrency), str(calls)]
    with pinned(CLIENT_CORE):
        done = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {
        "rate": done["rate"],
        "cpu": done["cpu"],
        "peak_mb": done["peak_mb"],
        "late_ms": lateness(upstream.answered_at(), done["read_at"]),
    }


def lines(count: int, salt: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        content = msgspec.Raw(body(salt * 10_000_000 + number))
        yield {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": content}


async def done(batch: Batch) -> None:
    while not (await batch.status()).state.terminal:  # noqa: ASYNC110 - seldom, so as not to disturb
        await asyncio.sleep(0.25)


async def visible_at(store: Store, batch_id: str) -> dict[str, float]:
    """Return when each result entered the stream (the server's clock is ours), by generation id."""
    seen: dict[str, float] = {}
    cursor = "0-0"
    while entries := await read(store.redis, batch_id, cursor):
        for entry in entries:
            if entry.result:
                seen[entry.result.attempts[-1].generation_id or ""] = int(entry.cursor.split("-")[0]) / 1000
        cursor = entries[-1].cursor
    return seen


async def batchmill(store: Store, settings: Settings, upstream: Upstream, calls: int, salt: int) -> Report:
    """Measure one worker process: one batch to warm it up, then one that counts."""
    producer = Producer(store.redis, settings)
    async with Fleet(settings, store.url) as fleet:
        worker = psutil.Process(fleet.pids[0])
        server = psutil.Process(int((await store.redis.info("server"))["process_id"]))
        worker.cpu_affinity([CLIENT_CORE])
        await done(await producer.submit(lines(settings.worker.concurrency, salt), name="warm-up"))
        await asyncio.to_thread(upstream.answered_at)
        cpu, server_cpu = sum(worker.cpu_times()[:2]), sum(server.cpu_times()[:2])
        with pinned(SERVER_CORE):
            batch = await producer.submit(lines(calls, salt + 1), name="measured")
        before = await store.redis.info("stats")  # what the submitter asked of Redis does not count
        shards = len(await open_shards(store.redis, batch.id))
        await done(batch)
        after = await store.redis.info("stats")
        cpu, server_cpu = sum(worker.cpu_times()[:2]) - cpu, sum(server.cpu_times()[:2]) - server_cpu
        answered = await asyncio.to_thread(upstream.answered_at)
        seen = await visible_at(store, batch.id)
        if len(seen) != calls:
            raise RuntimeError(f"{len(seen)} of {calls} lines succeeded")
        trips = after["total_reads_processed"] - before["total_reads_processed"]
        return {
            "rate": (calls - 1) / (max(seen.values()) - min(answered.values())),
            "cpu": cpu / calls,
            "peak_mb": peak_mb(worker.pid),
            "late_ms": lateness(answered, seen),
            "commands": (after["total_commands_processed"] - before["total_commands_processed"]) / calls,
            "trips": trips / calls,
            "trips_beyond": (trips - 4 * shards) / calls,
            "server_ms": 1000 * server_cpu / calls,
        }


async def enqueue(store: Store, settings: Settings, count: int) -> Report:
    """Measure one producer: lines/s from a file into the queue, and Redis bytes a queued line, body and all."""
    producer = Producer(store.redis, settings)
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file, pinned(CLIENT_CORE):
        for line in lines(count, 900):
            file.write(msgspec.json.encode(line) + b"\n")
        file.flush()
        before = int((await store.redis.info("memory"))["used_memory"])
        started = time.monotonic()
        batch = await producer.submit(file.name, anew=True)
        rate = count / (time.monotonic() - started)
        used = int((await store.redis.info("memory"))["used_memory"]) - before
        await batch.cancel()
    return {"rate": rate, "bytes": used / count}


def settings_for(url: str, data_dir: str, concurrency: int) -> Settings:
    settings = load(environ={"BATCHMILL_BASE_URL": url, "OPENROUTER_API_KEY": KEY, "BATCHMILL_DATA_DIR": data_dir})
    return msgspec.structs.replace(
        settings, worker=WorkerSettings(concurrency=concurrency), log=LogSettings(level="error")
    )


class Table:
    """All reports of a run, by client and concurrency."""

    def __init__(self) -> None:
        self.reports: dict[tuple[str, int], list[Report]] = defaultdict(list)

    def note(self, name: str, concurrency: int, report: Report) -> None:
        self.reports[name, concurrency].append(report)
        told = ", ".join(f"{key} {value:.4g}" for key, value in report.items())
        print(f"# {name} at {concurrency}: {told}", file=sys.stderr)

    def median(self, name: str, concurrency: int, column: str) -> float:
        return statistics.median(report[column] for report in self.reports[name, concurrency])

    def ratio(self, name: str, concurrency: int, column: str) -> float:
        """Return the median of the ratios to the transport loop, round by round."""
        pairs = zip(self.reports[name, concurrency], self.reports[LOOPS["transport"], concurrency], strict=True)
        return statistics.median(ours[column] / loop[column] for ours, loop in pairs)


async def measure(rounds: int, latency_ms: int, quick: bool) -> Table:
    table = Table()
    upstream = Upstream(latency_ms)
    try:
        with tempfile.TemporaryDirectory() as data_dir:
            async with open_store(settings_for(upstream.url, data_dir, 100)) as store:
                os.sched_setaffinity(int((await store.redis.info("server"))["process_id"]), {SERVER_CORE})
                for number in range(rounds):
                    for concurrency in (100, 1000):
                        await measure_round(table, store, upstream, (number, concurrency), quick, data_dir)
                    settings = settings_for(upstream.url, data_dir, 100)
                    table.note("enqueue", 0, await enqueue(store, settings, 20_000 if quick else 100_000))
    finally:
        upstream.process.terminate()
        upstream.process.wait()
    return table


async def measure_round(
    table: Table, store: Store, upstream: Upstream, at: tuple[int, int], quick: bool, data_dir: str
) -> None:
    number, concurrency = at
    seconds = 2 if quick else SECONDS
    for kind, name in LOOPS.items():
        calls = max(concurrency, seconds * RATES.get((kind, concurrency), RATES["any", concurrency]))
        table.note(name, concurrency, await asyncio.to_thread(bare, kind, upstream, concurrency, calls))
    settings = settings_for(upstream.url, data_dir, concurrency)
    calls = seconds * RATES["any", concurrency]
    report = await batchmill(store, settings, upstream, calls, 10 * number + concurrency)
    table.note("batchmill", concurrency, report)


def show(table: Table, latency_ms: int, rounds: int) -> None:
    print(f"upstream at {latency_ms} ms, medians of {rounds} round(s), ratios to the loop over the aiohttp transport\n")
    print("| client | in the air | completions/s | ratio | CPU ms each | ratio | peak MB | answer to seen, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for concurrency in (100, 1000):
        for name in (*LOOPS.values(), "batchmill"):
            rate, cpu, peak, late = (table.median(name, concurrency, column) for column in COLUMNS)
            rates, cpus = table.ratio(name, concurrency, "rate"), table.ratio(name, concurrency, "cpu")
            print(
                f"| {name} | {concurrency} | {rate:,.0f} | {rates:.2f} | {cpu * 1000:.3f} | {cpus:.2f} "
                f"| {peak:.0f} | {late:.0f} |"
            )
    print("\n| what batchmill asks of Redis, a completion | 100 in the air | 1000 |\n|---|---|---|")
    for column, title in (
        ("commands", "commands"),
        ("trips", "round trips"),
        ("trips_beyond", "round trips beyond 4 a shard"),
        ("server_ms", "CPU of the server, ms"),
    ):
        print(f"| {title} | " + " | ".join(f"{table.median('batchmill', c, column):.3f}" for c in (100, 1000)) + " |")
    size = len(body(9_000_000_000))
    print(f"\nenqueued: {table.median('enqueue', 0, 'rate'):,.0f} lines/s from a file; ", end="")
    print(f"Redis bytes a queued line: {table.median('enqueue', 0, 'bytes'):.0f}, its body of {size} included")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="a fourth of the calls, to see that it runs")
    given = parser.parse_args()
    show(asyncio.run(measure(given.rounds, given.latency_ms, given.quick)), given.latency_ms, given.rounds)
