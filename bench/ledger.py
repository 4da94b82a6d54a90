"""What the ledger costs: records/s, CPU of client and server a completion, memory a record, and a report's time.

    python bench/ledger.py [--records 1000000] [--flush 40]

Completions are settled as a worker's recorder settles them, so many a flush, with their records and without. The holds
are not taken at the gate before, so that only the settling is measured: each is put into the owner's hash.
"""

import argparse
import os
import tempfile
import time

import msgspec
import psutil
import uvloop
from redis.asyncio import Redis

from batchmill.config.policy import Policy
from batchmill.config.settings import load
from batchmill.spend.ledger import UsageRecord
from batchmill.store import keys, ledger
from batchmill.store.connection import open_store
from batchmill.store.gate import Caller
from batchmill.store.policy import LivePolicy
from batchmill.store.rules import Rulebook, Rules
from batchmill.store.settlement import Outcome, Settlement, Settling, settle

UPSTREAM, MODEL, OWNER = "https://upstream.test/v1", "maker/model", "worker"
_PLAIN = 20_000  # completions that are settled without records, to compare
_COST = 400_000  # nano-dollars
_PROVIDERS = ("Azure", "OpenAI", "DeepInfra")


def record_of(number: int, hold: str) -> UsageRecord:
    """Return a record as long as real ones."""
    return UsageRecord(
        at=0, hold=hold, project=f"project-{number % 4}", batch=hold.partition(".")[0], index=number,
        custom_id=f"request-{number}", asked=MODEL, model=MODEL, served=MODEL, provider=_PROVIDERS[number % 3],
        generation=f"gen-1717171717-{number:020}", prompt_tokens=900, completion_tokens=200, cost=_COST,
        latency_ms=1500,
    )  # fmt: skip


async def fill(redis: Redis, rules: Rules, first: int, count: int, flush: int, *, told: bool) -> tuple[float, float]:
    """Settle so many; return seconds, and CPU seconds of this process, that the settling took."""
    caller, took, used = Caller(UPSTREAM, OWNER, 60), 0.0, 0.0
    for start in range(first, first + count, flush):
        holds = [f"batch_01a20bcf00c3f71811f2a3e18dbe.{n}.0123abcd" for n in range(start, start + flush)]
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


async def measure(redis: Redis, server: psutil.Process, count: int, flush: int) -> dict[str, float]:
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
    today = ledger.day_of(round(time.time() * 1000))
    first = ledger.name_of(round(time.time() * 1000) // ledger.DAY_MS - 729)
    await ledger.rollups(redis, UPSTREAM, first, today)
    report = time.perf_counter() - began
    return {
        "records_a_second": round(count / took),
        "client_us_without": round(plain / _PLAIN * 1e6, 1),
        "client_us_with": round(used / count * 1e6, 1),
        "server_us_without": round(plain_server / _PLAIN * 1e6, 1),
        "server_us_with": round(full_server / count * 1e6, 1),
        "bytes_a_record": round(grown / count),
        "report_seconds": round(report, 3),
    }


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
        settings = load(environ={"BATCHMILL_DATA_DIR": folder, "OPENROUTER_API_KEY": "x", "HOME": os.environ["HOME"]})
        async with open_store(settings) as store:
            info = await store.redis.info("server")
            found = await measure(store.redis, psutil.Process(info["process_id"]), options.records, options.flush)
    print(msgspec.json.format(msgspec.json.encode(found)).decode())


if __name__ == "__main__":
    uvloop.run(main())
