"""What a change costs: the worker of this checkout against that of another, one measurement of each in turn.

    git worktree add /tmp/before REVISION && make -C /tmp/before .venv/.installed-dev
    python bench/versus.py /tmp/before [--rounds 6]

Each measurement is one of `bench/throughput.py` (pinned, upstream at 200 ms) in a process of its own, by the checkout's
own interpreter and code. Ratios are of medians, with the spread of the rounds beside them.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parents[1]
CONCURRENCIES = (100, 1000)
COLUMNS = ("rate", "cpu", "server_ms", "trips")
MEASURE = """
import asyncio, json, os, sys, tempfile
import throughput as bench
concurrency = int(sys.argv[1])

async def measure():
    upstream = bench.Upstream(200)
    try:
        with tempfile.TemporaryDirectory() as data_dir:
            settings = bench.settings_for(upstream.url, data_dir, concurrency)
            async with bench.open_store(settings) as store:
                server = int((await store.redis.info("server"))["process_id"])
                os.sched_setaffinity(server, {bench.SERVER_CORE})
                calls = bench.SECONDS * bench.RATES["any", concurrency]
                return await bench.batchmill(store, settings, upstream, calls, concurrency)
    finally:
        upstream.process.terminate()
        upstream.process.wait()

print(json.dumps(asyncio.run(measure())))
"""


def measure(checkout: Path, concurrency: int) -> dict[str, float]:
    command = [str(checkout / ".venv/bin/python"), "-c", MEASURE, str(concurrency)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=checkout / "bench")
    report: dict[str, float] = json.loads(done.stdout)
    return report


def main(before: Path, rounds: int) -> None:
    reports: dict[tuple[Path, int], list[dict[str, float]]] = defaultdict(list)
    for number in range(rounds):
        for concurrency in CONCURRENCIES:
            pair = (before, HERE) if number % 2 == 0 else (HERE, before)
            for checkout in pair:
                report = measure(checkout, concurrency)
                reports[checkout, concurrency].append(report)
                told = ", ".join(f"{column} {report[column]:.4g}" for column in COLUMNS)
                print(f"# {checkout.name} at {concurrency}: {told}", file=sys.stderr)
    print(f"this checkout against {before.name}, {rounds} rounds in turn\n")
    print("| in the air | figure | before | now | ratio of medians | ratios by round |")
    print("|---|---|---|---|---|---|")
    for concurrency in CONCURRENCIES:
        for column in COLUMNS:
            then = [report[column] for report in reports[before, concurrency]]
            now = [report[column] for report in reports[HERE, concurrency]]
            ratios = sorted(after / earlier for after, earlier in zip(now, then, strict=True))
            old, new = statistics.median(then), statistics.median(now)
            print(
                f"| {concurrency} | {column} | {old:.4g} | {new:.4g} | {new / old:.3f} "
                f"| {ratios[0]:.3f} … {ratios[-1]:.3f} |"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="another checkout, installed in its .venv")
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    main(given.before.resolve(), given.rounds)
