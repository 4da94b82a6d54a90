"""What choosing a model costs: the catalogue read, filtered, recommended from; a line routed, priced and bounded.

    python bench/routing.py [--seconds 1]

These are the pure functions that producers and workers call; nothing talks to a server but the last rows. The catalogue
is the packaged one, filled up to 500 models under other ids. Each row is called for that long, after a warm-up call, on
one core; median and p99 are of single calls, in microseconds or milliseconds as the goal is.

The last rows are a worker's, with an embedded server: from the failure of a line on one model to its send to the next.
"""

import argparse
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import msgspec
import uvloop
from fallback import activation

from batchmill.config.policy import Routing
from batchmill.config.strategy import Strategy
from batchmill.openrouter.bounds import bound, ceiling_of
from batchmill.openrouter.models import decode_models
from batchmill.openrouter.prices import decode_price
from batchmill.openrouter.simulator.catalogue import load_catalogue
from batchmill.routing.automatic import choose, likely_cost
from batchmill.routing.candidates import Candidate
from batchmill.routing.eligibility import needs_of, unfit
from batchmill.routing.health import ModelHealth
from batchmill.routing.recommendation import Needs as Wanted
from batchmill.routing.recommendation import recommend
from batchmill.routing.selection import Filter, select
from batchmill.routing.shelf import Shelf
from batchmill.routing.strategies import decide, rank

MODELS = 500
CANDIDATES = 8
ENOUGH = 20  # calls, however long they take
PERCENTILES = 100
TODAY = date(2026, 11, 24)
BODY = msgspec.json.encode(
    {
        "messages": [{"role": "user", "content": "Say in one sentence what a token bucket is. " * 10}],
        "max_tokens": 200,
        "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}],
    }
)

Row = tuple[str, str, Callable[[], object]]


def listing_of(count: int) -> bytes:
    """Return a listing of so many models: the packaged ones, and then those again under other ids."""
    entries = msgspec.json.decode(load_catalogue().listing)["data"]
    copies = (
        entry | {"id": f"{entry['id']}-{turn}"} if turn else entry
        for turn in range(count // len(entries) + 1)
        for entry in entries
    )
    return msgspec.json.encode({"data": [entry for _, entry in zip(range(count), copies, strict=False)]})


def rows() -> list[Row]:
    """Return what is measured: a name, the goal, and the call."""
    listing = listing_of(MODELS)
    models = decode_models(listing)
    return [
        (f"discovery: parse {len(models)} models", "50 ms", lambda: decode_models(listing)),
        *catalogue_rows(Shelf(models)),
        *line_rows(),
        *price_rows(),
    ]


def catalogue_rows(shelf: Shelf) -> list[Row]:
    """Return what goes over all models."""
    wanted = Filter(capabilities=("tools", "structured_outputs"), min_context=100_000)
    needs = needs_of(BODY)
    recommended = Wanted(today=TODAY, wanted=wanted)
    return [
        ("filter (tools, structured outputs, 100k)", "5 ms", lambda: select(shelf, wanted)),
        ("recommend from the same", "5 ms", lambda: recommend(shelf, recommended)),
        (
            "auto: candidates of a line from all models",
            "5 ms",
            lambda: choose(shelf.models, needs, Routing(), Strategy.COST, {}, today=TODAY.isoformat()),
        ),
    ]


def line_rows() -> list[Row]:
    """Return what goes for one line with several candidates."""
    chance = random.Random(1)
    candidates = [Candidate(f"maker/model-{n}", 1_000_000 + 5_000 * n) for n in range(CANDIDATES)]
    health = {
        each.model: ModelHealth(model=each.model, calls=200, failures=n, seconds=60, latency_ms=700.0 + 20 * n)
        for n, each in enumerate(candidates)
    }
    found: list[Row] = []
    for strategy in Strategy:
        again, anew = routed(strategy, candidates, health, chance)
        found.append((f"route a line by {strategy}, {CANDIDATES} candidates", "200 us", again))
        found.append(("  the same after health has changed", "200 us", anew))
    return found


def routed(
    strategy: Strategy, candidates: list[Candidate], health: dict[str, ModelHealth], chance: random.Random
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return how a line is routed with a ranking that is there, and with one that has to be made."""
    ranking = rank(strategy, candidates, health)
    estimates = [each.estimate for each in candidates]

    def again() -> object:
        return ranking.draw(chance.random(), 1, estimates)

    def anew() -> object:
        return decide(strategy, candidates, health, draw=chance.random(), turn=1)

    return again, anew


def price_rows() -> list[Row]:
    """Return what goes for one line and one model."""
    facts = decode_models(load_catalogue().listing)["openai/gpt-4o-mini"]
    ceiling = ceiling_of(decode_price(facts.pricing))
    if ceiling is None:
        raise SystemExit(f"{facts.id} has no usable price in the packaged catalogue")
    needs = needs_of(BODY)
    return [
        ("what a line needs", "20 us", lambda: needs_of(BODY)),
        ("whether a model can serve it", "20 us", lambda: unfit(facts, needs, Routing())),
        ("likely cost of a line", "20 us", lambda: likely_cost(facts.pricing, needs)),
        ("bound of a line", "20 us", lambda: bound(BODY, facts, ceiling)),
    ]


def print_fallback() -> None:
    """Print how long it takes from a failure to the send on the next model, of one line and with many in the air."""
    for lines, at_once, seconds in ((300, 1, 0.02), (4000, 100, 0.2)):
        with tempfile.TemporaryDirectory() as folder:
            took = uvloop.run(activation(Path(folder), lines, at_once=at_once, seconds=seconds))
        median, p99 = statistics.median(took), statistics.quantiles(took, n=PERCENTILES, method="inclusive")[-1]
        name = f"from a failure to the next model's send, {at_once} in the air"
        print(f"| {name} | {in_unit(median, '5 ms')} | {in_unit(p99, '5 ms')} | 5 ms | {len(took):,} |", flush=True)


def measure(call: Callable[[], object], seconds: float) -> tuple[float, float, int]:
    """Return median and p99 of single calls (seconds), and how many there were."""
    call()
    took: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(took) < ENOUGH:
        before = time.perf_counter()
        call()
        took.append(time.perf_counter() - before)
    return statistics.median(took), statistics.quantiles(took, n=PERCENTILES, method="inclusive")[-1], len(took)


def in_unit(seconds: float, goal: str) -> str:
    """Return a duration in the unit of the goal."""
    unit = goal.split()[1]
    return f"{seconds * (1_000 if unit == 'ms' else 1_000_000):.1f} {unit}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What choosing a model costs.")
    parser.add_argument("--seconds", type=float, default=1.0)
    seconds = parser.parse_args().seconds
    gc.disable()
    print("| what | median | p99 | goal | calls |")
    print("|---|---|---|---|---|")
    for name, goal, call in rows():
        gc.collect()
        median, p99, calls = measure(call, seconds)
        print(f"| {name} | {in_unit(median, goal)} | {in_unit(p99, goal)} | {goal} | {calls:,} |", flush=True)
    print_fallback()


if __name__ == "__main__":
    main()
