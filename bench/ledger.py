"""What the ledger costs: records/s, CPU of client and server a completion, memory; and reports as people see them.

    python bench/ledger.py [--records 1000000] [--flush 40]

Completions are settled as a worker's recorder settles them, so many a flush, with their records and without. The holds
are not taken at the gate before, so that only the settling is measured: each is put into the owner's hash. Then there
are two years of days before, each with 300 groups and 200 batches, and `batchmill spend` is run for each report: its
seconds and its peak of memory are those of the whole process, from its start to its end.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time

import msgspec
import psutil
import uvloop
from redis.asyncio import Redis

from batchmill.config.policy import Policy
from batchmill.config.settings import load
from batchmill.spend.ledger import UsageRecord
from batchmill.spend.reports import By
from batchmill.store import keys, ledger
from batchmill.store.clock import now_ms
from batchmill.store.connection import open_store
from batchmill.store.gate import Caller
from batchmill.store.policy import LivePolicy
from batchmill.store.rules import Rulebook, Rules
from batchmill.store.settlement import Outcome, Settlement, Settling, settle

UPSTREAM, MODEL, OWNER = "https://upstream.test/v1", "maker/model", "worker"
_PLAIN = 20_000  # completions that are settled without records, to compare
_LINES = 5_000  # of a batch: 200 batches a million records
_DAYS, _GROUPS, _BATCHES = 730, 300, 200  # of the history, and of a day of it
_COST = 400_000  # nano-dollars
_PROVIDERS = ("Azure", "OpenAI", "DeepInfra")


def record_of(number: int, hold: str) -> UsageRecord:
    """Return a record as long as real ones."""
    batch = hold.partition(".")[0]
    return UsageRecord(
        at=0, hold=hold, project=f"project-{number // _LINES % 4}", batch=batch, index=number,
        custom_id=f"request-{number}", asked=MODEL, model=MODEL, served=MODEL, provider=_PROVIDERS[number % 3],
        generation=f"gen-1717171717-{number:020}", prompt_tokens=900, completion_tokens=200, cost=_COST,
        latency_ms=1500,
    )  # fmt: skip


def batch_of(number: int) -> str:
    """Return an id as long as real ones."""
    return f"batch_01a20bcf00c3f718{number:012x}"


async def fill(redis: Redis, rules: Rules, first: int, count: int, flush: int, *, told: bool) -> tuple[float, float]:
    """Settle so many; return seconds, and CPU seconds of this process, that the settling took."""
    caller, took, used = Caller(UPSTREAM, OWNER, 60), 0.0, 0.0
    for start in range(first, first + count, flush):
        holds = [f"{batch_of(n // _LINES)}.{n}.0123abcd" for n in range(start, start + flush)]
        held = [part for hold in holds for part in (hold, "1:1000000:1000:1:")]
        await redis.execute_command("HSET", keys.holds(UPSTREAM, OWNER), *held)
        began, cpu = time.perf_counter(), time.process_time()
        ends = tuple(
            Settlement(hold, 1_000_000, _COST, 1100, Outcome.ANSWERED, record=record_of(n, hold) if told else None)
            for n, hold in enumerate(holds, start)
        )
        await settle(redis, caller, [Settling(start + flush, rules, ends)])
        took += time.perf_counter() - began
        used += time.process_time() - cpu
    return took, used


async def measure(redis: Redis, server: psutil.Process, count: int, flush: int) -> dict[str, object]:
    """Settle without records, then with, and report."""
    book = Rulebook(UPSTREAM)
    book.learn(LivePolicy(0, Policy(), "bench"))
    rules = book.rules(MODEL, "default", None, 0)
    plain_server = busy(server)
    _, plain = await fill(redis, rules, 0, _PLAIN, flush, told=False)
    plain_server = busy(server) - plain_server
    before, full_server = await memory(redis), busy(server)
    took, used = await fill(redis, rules, _PLAIN, count, flush, told=True)
    full_server = busy(server) - full_server
    grown = await memory(redis) - before
    began = time.perf_counter()
    read = sum([1 async for _ in ledger.records(redis, UPSTREAM)])
    reading = time.perf_counter() - began
    return {
        "records_a_second": round(count / took),
        "client_us_without": round(plain / _PLAIN * 1e6, 1),
        "client_us_with": round(used / count * 1e6, 1),
        "server_us_without": round(plain_server / _PLAIN * 1e6, 1),
        "server_us_with": round(full_server / count * 1e6, 1),
        "bytes_a_record": round(grown / count),
        "records_read_a_second": round(read / reading),
        "stream_mb": round(await memory(redis) / 1e6),
    }


async def fill_history(redis: Redis) -> dict[str, float]:
    """Write the roll-ups of the days before today; return what a day takes (bytes) in Redis."""
    today = (await now_ms(redis)) // ledger.DAY_MS
    for day in range(today - _DAYS + 1, today):
        names = [keys.rollup(UPSTREAM, ledger.name_of(day)), keys.batch_rollup(UPSTREAM, ledger.name_of(day))]
        async with redis.pipeline(transaction=False) as pipe:
            for which, field, sums in ledger.changes([call_of(day, number) for number in range(_GROUPS)]):
                pipe.execute_command("HSET", names[which - 1], field, sums)
            await pipe.execute()
    groups, batches = [await redis.execute_command("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names]
    return {"bytes_a_group_and_day": round(groups / _GROUPS), "bytes_a_batch_and_day": round(batches / _BATCHES)}


def call_of(day: int, number: int) -> UsageRecord:
    """Return what stands for all calls of a group on a day: five projects, twenty models, three providers."""
    project, model, provider = number % 5, number // 5 % 20, number // 100 % 3
    return UsageRecord(
        at=0, hold="", project=f"project-{project}", batch=batch_of(day * _BATCHES + number % _BATCHES), index=0,
        model=f"{MODEL}-{model}", provider=_PROVIDERS[provider], prompt_tokens=31_250_000 + number,
        completion_tokens=7_654_321, cost=1_234_567_891 * (1 + number), tags=(f"team=team-{project}", "env=production"),
    )  # fmt: skip


def report(environ: dict[str, str], *options: str) -> tuple[float, float]:
    """Run `batchmill spend`; return seconds and peak memory (MB) of the process."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "batchmill.cli", "spend", *options], env=environ, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"spend {' '.join(options)} ended with {process.returncode}")
    return round(time.perf_counter() - began, 2), round(used.ru_maxrss / 1024)


def reports(environ: dict[str, str]) -> list[dict[str, object]]:
    """Run each report over a month and over all days: the better of two, since the first one reads the disk."""
    found: list[dict[str, object]] = []
    for by in By:
        for days in (30, _DAYS):
            seconds, megabytes = min(report(environ, "--by", by, "--since", f"{days}d") for _ in range(2))
            found.append({"by": by, "days": days, "seconds": seconds, "peak_mb": megabytes})
    return found


def busy(process: psutil.Process) -> float:
    """Return the seconds of CPU that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def memory(redis: Redis) -> int:
    """Return what the ledger's stream takes (bytes)."""
    return int(await redis.execute_command("MEMORY", "USAGE", keys.usage(UPSTREAM), "SAMPLES", 0) or 0)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--flush", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own = {"BATCHMILL_DATA_DIR": folder, "BATCHMILL_BASE_URL": UPSTREAM, "OPENROUTER_API_KEY": "x"}
        settings = load(environ={**own, "HOME": os.environ["HOME"]})
        async with open_store(settings) as store:
            info = await store.redis.info("server")
            found = await measure(store.redis, psutil.Process(info["process_id"]), options.records, options.flush)
            found |= await fill_history(store.redis)
            found["reports"] = await asyncio.to_thread(reports, {**os.environ, **own})
    print(msgspec.json.format(msgspec.json.encode(found)).decode())


if __name__ == "__main__":
    uvloop.run(main())
