"""One table from one run: batchmill's worker against bare client loops, and what its queue costs.

    python bench/throughput.py [--rounds 3] [--latency-ms 200] [--quick]

The upstream (the simulator) and Redis are pinned to one core, every client to another, one client at a time. Each
figure is the median over the rounds. A completion counts when its result can be read by a poller.
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
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import psutil
from bare import KEY, MODEL, body

from batchmill.config.settings import LogSettings, Settings, WorkerSettings, load
from batchmill.producer import Batch, Producer
from batchmill.store.connection import Store, open_store
from batchmill.store.model import Result
from batchmill.workers.fleet import Fleet

CLIENT_CORE, SERVER_CORE = 0, 1
SECONDS = 8  # what one measurement takes, about
EXPECTED = {("httpx", 100): 50, ("httpx", 1000): 45, ("*", 100): 450, ("*", 1000): 1500}
HERE = Path(__file__).parent


@dataclass
class Row:
    name: str
    concurrency: int
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)


@dataclass
class Queue:
    """What one batchmill measurement says about Redis."""

    commands: float
    trips: float
    visible_ms: float
    server_cpu: float


def calls_for(kind: str, concurrency: int, quick: bool) -> int:
    rate = EXPECTED.get((kind, concurrency), EXPECTED[("*", 100 if concurrency < 500 else 1000)])
    return max(concurrency, rate * (2 if quick else SECONDS))


def bare(kind: str, url: str, concurrency: int, calls: int) -> dict[str, float]:
    command = [sys.executable, str(HERE / "bare.py"), kind, url, str(concurrency), str(calls)]
    done = subprocess.run(
        command, check=True, capture_output=True, preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CORE})
    )
    return dict(json.loads(done.stdout))


def start_upstream(latency_ms: int) -> tuple[subprocess.Popen[bytes], str]:
    code = (
        "import asyncio, uvloop\n"
        "from batchmill.openrouter.simulator import SimulatorOptions, serve\n"
        f"options = SimulatorOptions(latency='{latency_ms}', mean_output_tokens=60, record=True)\n"
        "with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:\n"
        "    runner.run(serve(options, '127.0.0.1', 0, lambda url: print(url, flush=True)))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
    )
    if process.stdout is None:
        raise RuntimeError("no pipe")
    return process, process.stdout.readline().decode().strip()


def lines(count: int, salt: int) -> list[dict[str, object]]:
    return [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": msgspec.Raw(body(salt * 10_000_000 + number)),
        }
        for number in range(count)
    ]


async def wait_done(batch: Batch) -> None:
    async for _ in batch.results(follow=True):
        pass


async def batchmill(store: Store, settings: Settings, calls: int, salt: int) -> tuple[dict[str, float], Queue]:
    """Measure one worker process: warm it up with one batch, then count over a second."""
    producer = Producer(store.redis, settings)
    url = settings.upstream.base_url.removesuffix("/api/v1")
    os.sched_setaffinity(0, {SERVER_CORE})
    async with Fleet(settings, store.url) as fleet:
        worker = psutil.Process(fleet.pids[0])
        await asyncio.to_thread(worker.cpu_affinity, [CLIENT_CORE])
        await wait_done(await producer.submit(lines(settings.worker.concurrency, salt), name="warm-up"))
        httpx.post(f"{url}/_sim/reset")
        server = psutil.Process(int((await store.redis.info("server"))["process_id"]))
        before, server_cpu = worker.cpu_times(), server.cpu_times()
        batch = await producer.submit(lines(calls, salt + 1), name="measured")
        # the submitter's own commands do not count
        info = await store.redis.info("stats")
        while not (status := await batch.status()).state.terminal:
            await asyncio.sleep(0.25)
        after, info_after, server_after = worker.cpu_times(), await store.redis.info("stats"), server.cpu_times()
        entries = await store.redis.xrange(f"bm:{{{batch.id}}}:results")
        stamps = [int(entry_id.split(b"-")[0]) / 1000 for entry_id, fields in entries if b"r" in fields]
        records = {r["generation_id"]: r["t"] for r in httpx.get(f"{url}/_sim/calls", timeout=60).json()}
        results = [msgspec.msgpack.decode(fields[b"r"], type=Result) for _, fields in entries if b"r" in fields]
        generations = [result.attempts[-1].generation_id for result in results]
        delays = [
            stamp - records[generation]
            for stamp, generation in zip(stamps, generations, strict=True)
            if generation in records
        ]
        first = min(records.values()) - 0.2
        if status.succeeded != calls:
            raise RuntimeError(f"{status.succeeded} of {calls} lines succeeded")
        report = {
            "rate": calls / (max(stamps) - first),
            "cpu": (sum(after[:2]) - sum(before[:2])) / calls,
            "peak_mb": peak_mb(worker.pid),
        }
        queue = Queue(
            commands=(info_after["total_commands_processed"] - info["total_commands_processed"]) / calls,
            trips=(info_after["total_reads_processed"] - info["total_reads_processed"]) / calls,
            visible_ms=statistics.median(delays) * 1000,
            server_cpu=(sum(server_after[:2]) - sum(server_cpu[:2])) / calls,
        )
        return report, queue


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


async def enqueue(store: Store, settings: Settings, count: int) -> tuple[float, float]:
    """Return lines/s enqueued from a file, and Redis bytes a queued line beyond its body."""
    producer = Producer(store.redis, settings)
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        for line in lines(count, 900):
            file.write(msgspec.json.encode(line) + b"\n")
        file.flush()
        before = int((await store.redis.info("memory"))["used_memory"])
        started = time.monotonic()
        batch = await producer.submit(file.name)
        rate = count / (time.monotonic() - started)
        bytes_a_line = (int((await store.redis.info("memory"))["used_memory"]) - before) / count
        await batch.cancel()
    return rate, bytes_a_line


def settings_for(url: str, data_dir: str, concurrency: int) -> Settings:
    settings = load(environ={"BATCHMILL_BASE_URL": url, "OPENROUTER_API_KEY": KEY, "BATCHMILL_DATA_DIR": data_dir})
    return msgspec.structs.replace(
        settings, worker=WorkerSettings(concurrency=concurrency), log=LogSettings(level="error")
    )


async def measure(rounds: int, latency_ms: int, quick: bool) -> None:
    upstream, url = start_upstream(latency_ms)
    names = {"httpx": "httpx", "transport": "httpx + aiohttp transport", "aiohttp": "aiohttp"}
    rows = {(kind, c): Row(names.get(kind, kind), c) for c in (100, 1000) for kind in (*names, "batchmill")}
    queues: dict[int, list[Queue]] = {100: [], 1000: []}
    enqueued: list[tuple[float, float]] = []
    try:
        with tempfile.TemporaryDirectory() as data_dir:
            async with open_store(settings_for(url, data_dir, 100)) as store:
                pid = int((await store.redis.info("server"))["process_id"])
                os.sched_setaffinity(pid, {SERVER_CORE})
                for number in range(rounds):
                    for concurrency in (100, 1000):
                        for kind in names:
                            calls = calls_for(kind, concurrency, quick)
                            report = await asyncio.to_thread(bare, kind, url, concurrency, calls)
                            note(rows[kind, concurrency], report)
                            httpx.post(url.removesuffix("/api/v1") + "/_sim/reset")
                        settings = settings_for(url, data_dir, concurrency)
                        calls = calls_for("batchmill", concurrency, quick)
                        report, queue = await batchmill(store, settings, calls, 10 * number + concurrency)
                        note(rows["batchmill", concurrency], report)
                        queues[concurrency].append(queue)
                    os.sched_setaffinity(0, {CLIENT_CORE})
                    enqueued.append(await enqueue(store, settings_for(url, data_dir, 100), 20_000 if quick else 100_000))
    finally:
        upstream.terminate()
        upstream.wait()
    print_tables(list(rows.values()), queues, enqueued, latency_ms, rounds)


def note(row: Row, report: dict[str, float]) -> None:
    row.rate.append(report["rate"])
    row.cpu.append(report["cpu"])
    row.peak_mb.append(report["peak_mb"])
    print(f"# {row.name} at {row.concurrency}: {report['rate']:.0f}/s, {report['cpu'] * 1000:.3f} ms", file=sys.stderr)


def print_tables(
    rows: list[Row], queues: dict[int, list[Queue]], enqueued: list[tuple[float, float]], latency_ms: int, rounds: int
) -> None:
    median = statistics.median
    base = {row.concurrency: row for row in rows if "transport" in row.name}
    print(f"upstream at {latency_ms} ms; medians of {rounds} round(s); ratios to the transport loop\n")
    print("| client | concurrency | completions/s | ratio | CPU ms/completion | ratio | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        rate, cpu = median(row.rate), median(row.cpu)
        rates = median(a / b for a, b in zip(row.rate, base[row.concurrency].rate, strict=True))
        cpus = median(a / b for a, b in zip(row.cpu, base[row.concurrency].cpu, strict=True))
        print(
            f"| {row.name} | {row.concurrency} | {rate:,.0f} | {rates:.2f} "
            f"| {cpu * 1000:.3f} | {cpus:.2f} | {median(row.peak_mb):.0f} |"
        )
    print("\n| batchmill's queue | at 100 | at 1000 |\n|---|---|---|")
    for title, name, form in (
        ("Redis commands a completion", "commands", "{:.2f}"),
        ("Redis round trips a completion", "trips", "{:.3f}"),
        ("upstream's answer to visible result, median ms", "visible_ms", "{:.1f}"),
        ("Redis CPU, ms a completion", "server_cpu", "{:.3f}"),
    ):
        values = [median(getattr(queue, name) for queue in queues[concurrency]) for concurrency in (100, 1000)]
        scale = 1000 if name == "server_cpu" else 1
        print(f"| {title} | " + " | ".join(form.format(value * scale) for value in values) + " |")
    print(f"\nenqueued: {median(rate for rate, _ in enqueued):,.0f} lines/s", end="; ")
    print(f"Redis bytes a queued line: {median(size for _, size in enqueued):,.0f} (body {len(body(9_000_000_000))})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="a fourth of the calls, to see that it runs")
    given = parser.parse_args()
    asyncio.run(measure(given.rounds, given.latency_ms, given.quick))
