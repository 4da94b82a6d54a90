"""Three models that can do the same, one slow, one failing, one well: where lines go, and that they come back."""

import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchmill.config.policy import Alias, Breaker, Policy
from batchmill.config.strategy import Strategy
from batchmill.openrouter.simulator import FaultKind, Faults, SimulatorOptions
from batchmill.openrouter.simulator.faults import ModelFaults
from batchmill.producer import Batch
from batchmill.store import policy
from batchmill.store.model import Result

from .fleet_helpers import Scene, lines, scene
from .waiting import wait_until

pytestmark = pytest.mark.drill

SLOW, SICK, WELL = "openai/gpt-4o-mini", "meta-llama/llama-3.1-8b-instruct", "mistralai/mistral-nemo"
MODELS = (SLOW, SICK, WELL)
SECONDS = 15.0
SETTLED = 60.0  # seconds in which the fleet has to find out
_numbers = count()


async def tell(at: Scene, what: str, change: dict[str, Any]) -> None:
    """Change how a model of the simulator behaves."""
    async with httpx.AsyncClient() as client:
        reply = await client.post(at.simulator.base_url.removesuffix("/api/v1") + f"/_sim/{what}", json=change)
    assert reply.status_code == 200, reply.text


async def submit(at: Scene, number: int) -> Batch:
    own = [{**line, "custom_id": f"{next(_numbers)}"} for line in lines(number, models=("trio",))]
    for line in own:
        line["body"]["seed"] = next(_numbers)
    return await at.producer.submit(own, name="trio")


async def shares(batch: Batch, seconds: float) -> dict[str, float]:
    """Return which model answered how large a share of the lines that ended within the next seconds."""
    answered: Counter[str] = Counter()
    started = time.monotonic()
    async for result in fresh(batch):
        answered[result.model] += 1
        if time.monotonic() - started > seconds:
            break
    return {model: answered[model] / answered.total() for model in MODELS}


async def fresh(batch: Batch) -> AsyncIterator[Result]:
    """Yield what ends from now on."""
    there = (await batch.status()).done
    number = 0
    async for result in batch.results(follow=True):
        number += 1
        if number > there:
            yield result


async def becomes(batch: Batch, wanted: dict[str, float], within: float) -> dict[str, float]:
    """Return the shares once each model has at least what is wanted of it; the last that were seen when time is up."""
    started = time.monotonic()
    while True:
        seen = await shares(batch, 5.0)
        if all(seen[model] >= least for model, least in wanted.items()) or time.monotonic() - started > within:
            return seen


@pytest.mark.timeout(240)
@pytest.mark.parametrize("strategy", [Strategy.PERFORMANCE, Strategy.AVAILABILITY])
async def test_lines_go_to_the_healthy_one_and_come_back_to_the_others_when_they_are_well(
    strategy: Strategy, tmp_path: Path
) -> None:
    options = SimulatorOptions(
        latency="100",
        latencies={SLOW: "1500"},
        mean_output_tokens=10,
        faults=Faults(models={SICK: ModelFaults(rates={FaultKind.INTERNAL: 0.5})}),
    )
    breaker = Breaker(min_calls=10_000)  # a model that fails half of the time must be left without it, too
    rules = Policy(breaker=breaker, aliases=(Alias(name="trio", models=MODELS, strategy=strategy),))
    async with scene(tmp_path, options, processes=2, concurrency=10) as at:
        await policy.apply(at.store.redis, at.settings.upstream_name, rules, "test")
        batch = await submit(at, 40_000)
        found = await becomes(batch, {WELL: 0.9}, SETTLED)
        kept = await shares(batch, SECONDS)

        await tell(at, "latency", {"model": SLOW, "latency": "100"})
        await tell(at, "faults", {"model": SICK})
        back = await becomes(batch, dict.fromkeys(MODELS, 0.15), 90.0)
        failed = (await batch.status()).failed
        await batch.cancel()
        await wait_until(lambda: over(batch), "the batch is over", patience=20)

    assert found[WELL] >= 0.9, found
    assert kept[WELL] >= 0.9, kept
    assert min(back.values()) >= 0.15, back
    assert failed <= 40, "who fails is tried elsewhere"


async def over(batch: Batch) -> bool:
    return (await batch.status()).state.terminal


async def billed(at: Scene) -> int:
    """Return what the simulator has billed so far (nano-dollars)."""
    async with httpx.AsyncClient() as client:
        reply = await client.get(at.simulator.base_url.removesuffix("/api/v1") + "/_sim/stats")
    return int(reply.json()["billed_nano"])


@pytest.mark.timeout(120)
async def test_cost_spends_a_fifth_less_than_round_robin_among_equals(tmp_path: Path) -> None:
    """Models of about one size, at the prices of OpenRouter's catalogue; what counts is the upstream's own bill."""
    equals = (
        "openai/gpt-4o-mini",
        "google/gemini-2.0-flash-001",
        "mistralai/mistral-small-3.2-24b-instruct",
        "amazon/nova-lite-v1",
        "qwen/qwen-2.5-72b-instruct",
    )
    spent: dict[Strategy, int] = {}
    async with scene(tmp_path, SimulatorOptions(latency="5"), processes=1) as at:
        for strategy in (Strategy.ROUND_ROBIN, Strategy.COST):
            before = await billed(at)
            own = ({**line, "custom_id": f"{strategy}-{n}"} for n, line in enumerate(lines(200, models=equals[:1])))
            batch = await at.producer.submit(own, fallback=equals[1:], strategy=strategy)
            results = [result async for result in batch.results(follow=True)]
            assert all(result.succeeded for result in results)
            spent[strategy] = await billed(at) - before
            assert spent[strategy] == (await batch.status()).cost
    assert spent[Strategy.COST] <= 0.8 * spent[Strategy.ROUND_ROBIN], spent
