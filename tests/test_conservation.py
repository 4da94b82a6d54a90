"""Every cent is the same cent: lines, records, roll-ups, budgets and the upstream's own bill, over random fleets."""

import random
from collections import Counter
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from batchmill.config.policy import Alias, Budget, Policy
from batchmill.config.strategy import Strategy
from batchmill.openrouter.simulator import FaultKind, Faults, SimulatorOptions
from batchmill.spend.ledger import Source
from batchmill.store import ledger, policy
from batchmill.store.gauges import budgets

from .fleet_helpers import MODELS, Scene, gather, lines, scene
from .waiting import wait_until

TRIO = (*MODELS, "deepseek/deepseek-v3.2")
KNOWN = {FaultKind.INTERNAL: 0.1, FaultKind.RATE_LIMIT: 0.05, FaultKind.UNAVAILABLE: 0.05, FaultKind.MODERATION: 0.03}
"""Faults after which the cost is certain: none."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
async def test_lines_records_rollups_budget_and_bill_are_one_sum(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    options = SimulatorOptions(seed=seed, latency="5", faults=Faults(rates=KNOWN), cached_share=0.3, spill_rate=0.2)
    alias = Alias(name="trio", models=TRIO, strategy=chance.choice(list(Strategy)))
    everything = Budget(name="all", limit_usd=Decimal(1000))
    costs: Counter[str] = Counter()
    async with scene(tmp_path, options, processes=chance.randint(1, 2), concurrency=chance.randint(5, 40)) as at:
        rules = Policy(budgets=(everything,), aliases=(alias,))
        await policy.apply(at.store.redis, at.settings.upstream_name, rules, "test")
        for number in range(chance.randint(2, 4)):
            batch = await at.producer.submit(
                lines(chance.randint(5, 60), models=chance.choice((MODELS, ("trio",), TRIO))),
                name=f"batch {number}",
                anew=True,
                project=chance.choice(("web", "evals")),
                tags=chance.choice(({}, {"team": "search"})),
            )
            costs[batch.id] = sum(result.cost or 0 for result in (await gather(batch)).values())
            assert (await batch.status()).cost == costs[batch.id]
        await wait_until(lambda: nothing_held(at), "all is settled")
        await check(at, costs)


async def nothing_held(at: Scene) -> bool:
    (all_of_it,) = await budgets(at.store.redis, at.settings.upstream_name)
    return not all_of_it.held


async def check(at: Scene, costs: Counter[str]) -> None:
    redis, upstream = at.store.redis, at.settings.upstream_name
    records = [record async for record in ledger.records(redis, upstream)]
    first, last = (ledger.day_of(pick(record.at for record in records)) for pick in (min, max))
    rollups = await ledger.rollups(redis, upstream, first, last)
    (all_of_it,) = await budgets(redis, upstream)
    async with httpx.AsyncClient() as client:
        billed = (await client.get(at.simulator.base_url.removesuffix("/api/v1") + "/_sim/stats")).json()["billed_nano"]
    by_batch: Counter[str] = Counter()
    for record in records:
        by_batch[record.batch] += record.cost
    assert {record.source for record in records} == {Source.TOLD}
    assert by_batch == costs
    rolled: Counter[str] = Counter()
    async for day in ledger.days(redis, upstream, first, last, by_batch=True):
        rolled.update({group.batch: cost for group, (*_, cost, _) in day.sums})
    assert rolled == costs
    assert costs.total() == sum(one.cost for one in rollups) == all_of_it.spent + all_of_it.debt == billed
    assert (all_of_it.suspect, sum(one.suspect for one in rollups)) == (0, 0)
    assert len(records) == sum(one.requests for one in rollups)
