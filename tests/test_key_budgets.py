"""The budget of an API key at the gate: promise 1, whoever changes it and whenever; and what people see of it."""

import asyncio
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Budget, Policy
from batchmill.config.settings import Settings
from batchmill.config.windows import WindowKind
from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.producer import Batch, Producer
from batchmill.producer.conditions import pricer_for
from batchmill.producer.errors import InputError
from batchmill.producer.lines import Conditions
from batchmill.store import api_keys, gauges, keys, policy
from batchmill.store.api_keys import ApiKey, Wanted
from batchmill.store.gate import NEVER, Reply, Why
from batchmill.store.model import LineState

from .fleet_helpers import gather, lines, scene
from .gate_helpers import DAY, Clock, Worker, budget, policy_of, sums
from .store_helpers import MODEL, UPSTREAM
from .waiting import wait_until

NANO = 10**9


async def key_of(redis: Redis, nano: int | None, name: str = "ci", window: WindowKind = WindowKind.TOTAL) -> ApiKey:
    usd = None if nano is None else Decimal(nano) / NANO
    wanted = Wanted(name=name, project="web", budget_usd=usd, window=window)
    return (await api_keys.create(redis, UPSTREAM, wanted, "me")).key


async def learn(worker: Worker) -> None:
    worker.book.learn(await policy.live(worker.redis, UPSTREAM))


async def ask(worker: Worker, key: ApiKey, *bounds: int) -> Reply:
    """Ask by what the worker knows of the policy."""
    return await worker.admit(*((bound, 0) for bound in bounds), rules=worker.rules(key=key.id))


def book(key: ApiKey, window: str = "total") -> str:
    return keys.budget(UPSTREAM, key.budget_name, window)


async def test_a_key_s_lines_pass_by_its_budget_and_others_don_t(redis: Redis, clock: Clock) -> None:
    key, other = await key_of(redis, 10), await key_of(redis, None, "other")
    worker = Worker(redis, clock)
    await learn(worker)
    reply = await ask(worker, key, 6, 6, 4)
    assert (reply.why, reply.wait, reply.skipped) == (Why.BUDGET, NEVER, (1,))
    assert worker.rules(key=key.id).budgets[reply.which - 1].name == "key:ci"
    assert (await sums(redis, book(key))).held == 10
    assert (await ask(worker, other, 50)).looked == 1
    assert (await worker.admit((50, 0))).looked == 1
    assert (await sums(redis, book(key))).held == 10


async def test_it_counts_beside_every_other_budget(redis: Redis, clock: Clock) -> None:
    key = await key_of(redis, 10)
    await policy.apply(redis, UPSTREAM, policy_of(budget("all", 5)), "a file")
    worker = Worker(redis, clock)
    await learn(worker)
    reply = await ask(worker, key, 6)
    assert (reply.why, worker.rules(key=key.id).budgets[reply.which - 1].name) == (Why.BUDGET, "all")
    assert (await ask(worker, key, 5)).why is Why.NOTHING
    assert (await sums(redis, book(key))).held == 5


async def test_its_window_begins_anew_by_the_calendar(redis: Redis, clock: Clock) -> None:
    key = await key_of(redis, 10, window=WindowKind.DAY)
    worker = Worker(redis, clock)
    await learn(worker)
    assert (await ask(worker, key, 10)).looked == 1
    await clock.forward(DAY)
    assert (await ask(worker, key, 10)).why is Why.WINDOW
    worker.book.turn()
    assert (await ask(worker, key, 10)).why is Why.NOTHING


CHANGES = {
    "lower": (10, Decimal("2e-9"), [3]),
    "raise": (10, Decimal("20e-9"), [0]),
    "take away": (10, None, [0, 1, 2, 3]),
    "give": (None, Decimal("2e-9"), [3]),
}
"""The budget before and after (nano-dollars; USD), and which of lines of 20, 10, 21 and 2 fit then."""


@pytest.mark.parametrize("change", CHANGES)
async def test_no_line_passes_by_what_was_in_force_before_a_change(redis: Redis, clock: Clock, change: str) -> None:
    before, after, fitting = CHANGES[change]
    key = await key_of(redis, before)
    worker = Worker(redis, clock)
    await learn(worker)
    await api_keys.set_budget(redis, UPSTREAM, key.id, after, None, "me")
    assert (await ask(worker, key, 1)).why is Why.POLICY
    await learn(worker)
    reply = await ask(worker, key, 20, 10, 21, 2)
    assert [place for place in range(4) if reply.admitted(place)] == fitting


async def test_what_a_revoked_key_handed_over_stays_within_its_budget(redis: Redis, clock: Clock) -> None:
    key = await key_of(redis, 10)
    worker = Worker(redis, clock)
    await api_keys.revoke(redis, UPSTREAM, key.id, "me")
    await learn(worker)
    assert not (await ask(worker, key, 11)).admitted(0)
    assert (await ask(worker, key, 10)).admitted(0)


async def test_changes_by_two_at_once_and_askers_between_them_keep_the_limit(redis: Redis, clock: Clock) -> None:
    """The limit goes up and down while three workers take what they get; nothing passes after it was lowered."""
    key = await key_of(redis, 100)
    workers = [Worker(redis, clock, name) for name in ("one", "two", "three")]

    async def work(worker: Worker, bound: int) -> None:
        for _ in range(25):
            reply = await ask(worker, key, bound)
            if reply.why is Why.POLICY:
                await learn(worker)
            elif worker.held:
                held = next(iter(worker.held.values()))
                await worker.settle(held, bound // 2)

    async def operate(*limits: int) -> None:
        for limit in limits:
            await api_keys.set_budget(redis, UPSTREAM, key.id, Decimal(limit) / NANO, None, "me")
            await policy.raise_budget(redis, UPSTREAM, key.budget_name, limit + 7, "you")

    working = (work(worker, 3 + place) for place, worker in enumerate(workers))
    await asyncio.gather(*working, operate(60, 150, 30, 90), operate(40, 120, 20))
    found = await sums(redis, book(key))
    assert sum(found) <= 157
    await policy.raise_budget(redis, UPSTREAM, key.budget_name, 1, "me")
    spent = await sums(redis, book(key))
    for worker in workers:
        assert not (await ask(worker, key, 5)).admitted(0)
        await learn(worker)
        assert (await ask(worker, key, 5)).why is Why.BUDGET
    assert await sums(redis, book(key)) == spent


async def test_a_key_s_first_budget_counts_for_what_it_handed_over_before(redis: Redis, clock: Clock) -> None:
    key = await key_of(redis, None)
    worker = Worker(redis, clock)
    await learn(worker)
    assert worker.rules(key=key.id).budgets == ()
    await api_keys.set_budget(redis, UPSTREAM, key.id, Decimal(1), None, "me")
    await learn(worker)
    assert [rule.name for rule in worker.rules(key=key.id).budgets] == ["key:ci"]
    assert worker.rules(MODEL, key=key.id).number != worker.rules(MODEL).number


async def test_it_is_among_the_budgets_that_people_see(redis: Redis, clock: Clock) -> None:
    key = await key_of(redis, 10)
    worker = Worker(redis, clock)
    await learn(worker)
    await ask(worker, key, 4)
    (gauge,) = await gauges.budgets(redis, UPSTREAM)
    assert (gauge.name, gauge.window, gauge.limit, gauge.held, gauge.free) == ("key:ci", "total", 10, 4, 6)


async def test_a_line_over_the_whole_budget_of_its_key_is_refused_at_once(redis: Redis, settings: Settings) -> None:
    settings = msgspec.structs.replace(settings, simulate=True)
    wanted = Wanted(name="poor", project="web", budget_usd=Decimal("0.000000001"))
    poor = (await api_keys.create(redis, settings.upstream_name, wanted, "me")).key
    producer = Producer(redis, settings)
    with pytest.raises(InputError, match="key:poor"):
        await producer.submit(lines(1), key=poor.id)
    batch = await producer.submit(lines(1))
    assert (await batch.status()).key is None


async def test_rules_of_a_file_that_nobody_applied_count_beside_a_key_s(redis: Redis, settings: Settings) -> None:
    own = Policy(budgets=(Budget(name="mine", limit_usd=Decimal(3)),))
    settings = msgspec.structs.replace(settings, simulate=True, policy=own)
    wanted = Wanted(name="ci", project="web", budget_usd=Decimal(1))
    await api_keys.create(redis, settings.upstream_name, wanted, "me")
    pricer = await pricer_for(redis, settings, Conditions())
    assert [rule.name for rule in pricer.policy.budgets] == ["mine", "key:ci"]


@pytest.mark.drill
async def test_work_of_a_key_stops_at_its_budget_says_so_and_goes_on_when_it_is_raised(tmp_path: Path) -> None:
    options = SimulatorOptions(latency="uniform:10:30", mean_output_tokens=60)
    async with scene(tmp_path, options, processes=2, concurrency=4) as at:
        upstream = at.settings.upstream_name
        wanted = Wanted(name="ci", project="web", budget_usd=Decimal("0.004"))
        key = (await api_keys.create(at.store.redis, upstream, wanted, "me")).key
        batch = await at.producer.submit(lines(400, max_tokens=120), key=key.id)
        await wait_until(lambda: says(batch, "budget key:ci"), patience=60)
        (gauge,) = await gauges.budgets(at.store.redis, upstream)
        assert gauge.spent + gauge.held + gauge.suspect <= gauge.limit
        assert gauge.spent > 0
        await policy.raise_budget(at.store.redis, upstream, "key:ci", 10 * NANO, "me")
        results = await gather(batch)
        assert {result.state for result in results.values()} == {LineState.SUCCEEDED}
        (gauge,) = await gauges.budgets(at.store.redis, upstream)
        assert gauge.spent == sum(result.cost or 0 for result in results.values())


async def says(batch: Batch, text: str) -> bool:
    return text in ((await batch.status()).blocked_on or "")
