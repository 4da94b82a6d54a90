"""How much goes through the gate, on one core of one server: calls/s, lines/s and latency, by rules and prefix.

    python bench/gate.py [--seconds 2] [--pipeline 16] [--no-log]

The server runs on one core, the client on another. It keeps its append-only log, as batchmill runs it; `--no-log`
tells how much of the cost is the log's. Rules are budgets and limits, half of each, as a worker would send
them; every call admits its whole prefix. What was admitted is settled again, and that is measured, too. `calls/s` is
the server's capacity: with several calls in each pipeline, so that the client is not what is measured. p50 and p99 are
of single calls, one after the other, round trip and client included.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal

import psutil
import uvloop

from batchmill.config.policy import Budget, Limit, Policy
from batchmill.config.settings import load
from batchmill.config.windows import WindowKind
from batchmill.store.connection import open_store
from batchmill.store.gate import Ask, Caller, Candidate, admit
from batchmill.store.policy import LivePolicy
from batchmill.store.rules import Rulebook, Rules
from batchmill.store.settlement import Outcome, Settlement, Settling, settle

UPSTREAM = "https://upstream.test/v1"
MODEL = "maker/model"
PREFIXES = (1, 16, 64)
RULES = (1, 3, 6)
ROUNDS = 32  # pipelines between two looks at the server's clock, which ticks in hundredths of a second

Report = dict[str, float]


def rules_of(count: int) -> Rules:
    """So many rules that never bind: a budget, a limit of requests and tokens, a budget ..."""
    much = Decimal(1_000_000)
    budgets = [Budget(name=f"b{n}", limit_usd=much, window=WindowKind.DAY) for n in range((count + 1) // 2)]
    limits = [
        Limit(name=f"l{n}", match="*", requests_per_minute=10**9, tokens_per_minute=10**9, shared=n % 2 == 0)
        for n in range(count // 2)
    ]
    book = Rulebook(UPSTREAM)
    book.learn(LivePolicy(0, Policy(limits=tuple(limits), budgets=tuple(budgets)), "bench"))
    return book.rules(MODEL, "default", None, round(time.time() * 1000))


class Bench:
    def __init__(self, redis: object, rules: Rules) -> None:
        self.redis = redis
        self.rules = rules
        self.caller = Caller(UPSTREAM, "worker", 60)
        self.calls = itertools.count(1)
        self.settlings = itertools.count(1)
        self.ids: Iterator[int] = itertools.count(1)

    def ask(self, prefix: int) -> Ask:
        names = (f"batch_01a20bcf00c3f71811f2a3e18dbe.{next(self.ids)}.0123abcd" for _ in range(prefix))
        return Ask(self.rules, tuple(Candidate(name, 1_000_000, 1000) for name in names))

    def settling(self, ask: Ask) -> Settling:
        done = (Settlement(one.hold, one.bound, 400_000, 400, Outcome.ANSWERED) for one in ask.candidates)
        return Settling(next(self.settlings), self.rules, tuple(done))

    async def measure(self, prefix: int, seconds: float, pipeline: int) -> Report:
        admitting = settling = 0.0
        calls = 0
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            rounds = [[self.ask(prefix) for _ in range(pipeline)] for _ in range(ROUNDS)]
            server = cpu_of(self.server)
            for asks in rounds:
                replies = await admit(self.redis, self.caller, next(self.calls), asks)  # type: ignore[arg-type]
                if any(reply.looked != prefix for reply in replies):
                    raise RuntimeError(f"not admitted: {replies}")
            admitting += cpu_of(self.server) - server
            server = cpu_of(self.server)
            for asks in rounds:
                await settle(self.redis, self.caller, [self.settling(ask) for ask in asks])  # type: ignore[arg-type]
            settling += cpu_of(self.server) - server
            calls += pipeline * ROUNDS
        return {"admit": admitting / calls, "settle": settling / calls}

    async def latency(self, prefix: int, count: int) -> Report:
        took = []
        for _ in range(count):
            ask = self.ask(prefix)
            started = time.perf_counter()
            await admit(self.redis, self.caller, next(self.calls), [ask])  # type: ignore[arg-type]
            took.append(1000 * (time.perf_counter() - started))
            await settle(self.redis, self.caller, [self.settling(ask)])  # type: ignore[arg-type]
        cuts = statistics.quantiles(took, n=100)
        return {"p50": cuts[49], "p99": cuts[98]}

    server: psutil.Process


def cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def main(seconds: float, pipeline: int, log: bool) -> None:
    with tempfile.TemporaryDirectory() as data_dir:
        settings = load(environ={"BATCHMILL_DATA_DIR": data_dir, "OPENROUTER_API_KEY": "sk-or-v1-bench"})
        async with open_store(settings) as store:
            server = psutil.Process(int((await store.redis.info("server"))["process_id"]))
            if not log:
                await store.redis.config_set("appendonly", "no")
            cores = sorted(os.sched_getaffinity(0))
            server.cpu_affinity([cores[-1]])
            os.sched_setaffinity(0, {cores[0]})
            print("| rules | prefix | admitted: calls/s | lines/s | p50 ms | p99 ms | settled: calls/s | lines/s |")
            print("|---|---|---|---|---|---|---|---|")
            for count, prefix in itertools.product(RULES, PREFIXES):
                await store.redis.flushall()
                bench = Bench(store.redis, rules_of(count))
                bench.server = server
                await bench.latency(prefix, 100)  # to warm up
                late = await bench.latency(prefix, 1000)
                cost = await bench.measure(prefix, seconds, pipeline)
                admits, settles = 1 / cost["admit"], 1 / cost["settle"]
                print(
                    f"| {count} | {prefix} | {admits:,.0f} | {admits * prefix:,.0f} | {late['p50']:.2f} "
                    f"| {late['p99']:.2f} | {settles:,.0f} | {settles * prefix:,.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--pipeline", type=int, default=16, help="calls in one round trip")
    parser.add_argument("--no-log", action="store_true", help="without the append-only log")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(given.seconds, given.pipeline, not given.no_log))
