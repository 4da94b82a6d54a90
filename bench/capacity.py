"""What a completion takes of Redis, by stage, and the sizes that follow up to a billion completions a day.

    python bench/capacity.py [--lines 20000]

One worker (100 in the air, upstream at 50 ms) works off one batch; the server is asked before, after the lines were
handed over, and at the end. Prompts and answers are those of the simulator: add your own bytes to ours.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Callable

import msgspec
import psutil
from bare import body
from redis.asyncio import Redis
from throughput import CLIENT_CORE, SERVER_CORE, Upstream, done, lines, settings_for

from batchmill.config.settings import Settings
from batchmill.producer import Producer
from batchmill.store import keys
from batchmill.store.connection import Store, open_store
from batchmill.workers.fleet import Fleet

DAYS = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
KEPT_DAYS = 1  # that results stay in Redis, for the table
DAY = 86_400
BUSY = 0.5  # of a core of the server that we plan with
PEAK = 2  # times the mean rate


class Moment(msgspec.Struct):
    """What the server says of itself."""

    memory: int
    log_bytes: int
    commands: int
    trips: int
    cpu: float


async def moment(redis: Redis, server: psutil.Process) -> Moment:
    info = await redis.info("everything")
    times = server.cpu_times()
    return Moment(
        info["used_memory"],
        info["aof_current_size"],
        info["total_commands_processed"],
        info["total_reads_processed"],
        times.user + times.system,
    )


async def usage(redis: Redis, name: str) -> int:
    return int(await redis.execute_command("MEMORY", "USAGE", name, "SAMPLES", 0) or 0)


async def measure(store: Store, settings: Settings, count: int) -> dict[str, float]:
    """Return what one completion takes, by stage (bytes, seconds, numbers)."""
    redis, producer = store.redis, Producer(store.redis, settings)
    server = psutil.Process(int((await redis.info("server"))["process_id"]))
    server.cpu_affinity([SERVER_CORE])
    await redis.execute_command("CONFIG", "SET", "auto-aof-rewrite-percentage", 0)  # or the log would shrink meanwhile
    start = await moment(redis, server)
    batch = await producer.submit(lines(count, 1), name="capacity")
    queued = await moment(redis, server)
    async with Fleet(settings, store.url) as fleet:
        worker = psutil.Process(fleet.pids[0])
        worker.cpu_affinity([CLIENT_CORE])
        used = sum(worker.cpu_times()[:2])
        await done(batch)
        used = sum(worker.cpu_times()[:2]) - used
        end = await moment(redis, server)
    status = await batch.status()
    if status.succeeded != count:
        raise RuntimeError(f"{status.succeeded} of {count} lines succeeded")
    return {
        "body": len(body(10_000_000)),
        "queued": (queued.memory - start.memory) / count,
        "result": await usage(redis, keys.results(batch.id)) / count,
        "ledger": await usage(redis, keys.usage(settings.upstream_name)) / count,
        "log": (end.log_bytes - start.log_bytes) / count,
        "commands": (end.commands - start.commands) / count,
        "trips": (end.trips - start.trips) / count,
        "server_s": (end.cpu - start.cpu) / count,
        "worker_s": used / count,
    }


async def main(count: int) -> None:
    upstream = Upstream(50)
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = settings_for(upstream.url, folder, 100)
            async with open_store(settings) as store:
                found = await measure(store, settings, count)
    finally:
        upstream.process.terminate()
        upstream.process.wait()
    show(found, count)


def show(found: dict[str, float], count: int) -> None:
    print(f"{count:,} completions, 100 in the air, bodies of {found['body']:.0f} bytes\n")
    print("| a completion takes | |\n|---|---|")
    for title, value in (
        ("commands of Redis", f"{found['commands']:.2f}"),
        ("round trips", f"{found['trips']:.2f}"),
        ("CPU of the server", f"{found['server_s'] * 1e6:.0f} µs"),
        ("CPU of a worker", f"{found['worker_s'] * 1e6:.0f} µs"),
        ("memory while it waits", f"{found['queued']:.0f} bytes, its body among them"),
        ("memory of its result, as long as that is kept", f"{found['result']:.0f} bytes, its answer among them"),
        ("memory of its usage record", f"{found['ledger']:.0f} bytes"),
        ("written to the append-only log", f"{found['log']:.0f} bytes"),
    ):
        print(f"| {title} | {value} |")
    columns: tuple[tuple[str, Callable[[float], str]], ...] = (
        ("completions a day", lambda day: f"{day:,.0f}"),
        ("a second, mean", lambda day: f"{day / DAY:,.1f}"),
        ("cores of workers", lambda day: number(PEAK * day / DAY * found["worker_s"] / BUSY)),
        ("servers", lambda day: number(max(1, PEAK * day / DAY * found["server_s"] / BUSY))),
        (f"results of {KEPT_DAYS} day in memory", lambda day: size(day * KEPT_DAYS * found["result"])),
        ("queue of an hour", lambda day: size(day / 24 * found["queued"])),
        ("log a second", lambda day: size(day / DAY * found["log"])),
    )
    print("\n| " + " | ".join(title for title, _ in columns) + " |\n" + "|---" * len(columns) + "|")
    for day in DAYS:
        print("| " + " | ".join(told(day) for _, told in columns) + " |")
    print(f"\ncores and servers for {PEAK} times the mean, each {BUSY:.0%} busy")


def number(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:,.0f}"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=20_000)
    asyncio.run(main(parser.parse_args().lines))
