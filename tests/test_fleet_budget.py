"""The promise that the product is about: a cap that holds over every replica, whatever dies (promises 1, 2, 4)."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import httpx
import msgspec
import pytest

from batchmill.config.policy import Budget, Policy
from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.producer import Batch
from batchmill.spend.ledger import Source
from batchmill.store import keys, ledger, policy
from batchmill.store.model import Result
from batchmill.store.suspects import Suspect, suspects

from .fleet_helpers import Scene, gather, lines, scene, when_done
from .waiting import wait_until

pytestmark = pytest.mark.drill

LINES = 1200
NAME = "cap"
SPEAKER = "openai/gpt-4o-mini"
OPTIONS = SimulatorOptions(
    latency="lognormal:600:0.5", record=True, mean_output_tokens=60, early_headers=True, cached_share=0.2
)
CAP = Decimal("0.015")  # a third of what the lines cost in all, about


class Record(msgspec.Struct, frozen=True):
    """One call as the simulator billed it."""

    body: str
    billed_nano: int
    generation_id: str | None = None


async def bill(at: Scene) -> int:
    """Return what the simulator has billed so far (nano-dollars)."""
    async with httpx.AsyncClient() as client:
        reply = await client.get(at.simulator.base_url.removesuffix("/api/v1") + "/_sim/stats")
    return int(reply.json()["billed_nano"])


async def billed_calls(at: Scene) -> list[Record]:
    async with httpx.AsyncClient() as client:
        reply = await client.get(at.simulator.base_url.removesuffix("/api/v1") + "/_sim/calls")
    return [call for call in msgspec.json.decode(reply.content, type=list[Record]) if call.billed_nano]


async def books(at: Scene) -> Counter[str]:
    """Return the sums of the budget as the gate keeps them (nano-dollars)."""
    name = keys.budget(at.settings.upstream_name, NAME, "total")
    found = await at.store.redis.execute_command("HGETALL", name)
    return Counter({field.decode(): int(value) for field, value in found.items()})


@asynccontextmanager
async def watched(at: Scene, cap: int) -> AsyncIterator[list[int]]:
    """Look all the time whether the upstream has billed more than the cap, and whether the books say so."""
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(await bill(at))
            assert seen[-1] <= cap, "the upstream billed more than the cap"
            await asyncio.sleep(0.1)

    task = asyncio.create_task(look())
    yield seen
    assert not task.done() or task.result() is None
    task.cancel()


async def kill_at_random(at: Scene, times: int) -> None:
    """Kill workers, one after the other; the fleet starts them again. And the server, once."""
    dice = random.Random(7)
    for number in range(times):
        await asyncio.sleep(dice.uniform(0.4, 0.9))
        dice.choice([worker for worker in at.fleet._workers if worker.returncode is None]).kill()
        if number == times // 2 and at.store.server is not None:
            os.kill(int(at.store.server.pid_path.read_text()), signal.SIGKILL)


async def blocked(batch: Batch) -> bool:
    return (await batch.status()).blocked_by == ("budget",)


async def test_a_cap_holds_through_kills_and_a_restart_and_is_used_up(tmp_path: Path) -> None:
    cap = int(CAP * 10**9)
    async with scene(tmp_path, OPTIONS, processes=8, concurrency=6) as at:
        upstream = at.settings.upstream_name
        budgets = (Budget(name=NAME, limit_usd=CAP),)
        await policy.apply(at.store.redis, upstream, Policy(budgets=budgets), "test")
        batch = await at.producer.submit(lines(LINES, models=(SPEAKER,), max_tokens=120))
        async with watched(at, cap):
            await when_done(batch, 20)
            await kill_at_random(at, 6)
            await wait_until(lambda: blocked(batch), patience=60)
            before = await books(at)
        assert before["spent"] + before["held"] + before["suspect"] <= cap
        assert before["debt"] == 0
        assert cap - before.total() < Decimal("0.1") * cap, "the budget was not used up"

        await policy.raise_budget(at.store.redis, upstream, NAME, 10 * 10**9, "tester")
        results = await gather(batch)
        assert len(results) == LINES
        assert all(result.succeeded for result in results.values())
        await wait_until(lambda: settled(at), patience=60)
        await check_books(at, results)
        await check_ledger(at, results)


async def settled(at: Scene) -> bool:
    """Whether nothing is held, and all suspects that can be looked up are."""
    left = await suspects(at.store.redis, at.settings.upstream_name)
    return not (await books(at))["held"] and not [suspect for suspect in left if suspect.generation]


async def check_books(at: Scene, results: dict[str, Result]) -> None:
    """To the nano-dollar: what is booked is what was billed, but for suspects; and those are listed, line by line."""
    sums, calls = await books(at), await billed_calls(at)
    left = await suspects(at.store.redis, at.settings.upstream_name)
    booked = sums["spent"] + sums["debt"]
    unknown = sum(call.billed_nano for call in calls) - booked
    assert sums["suspect"] == sum(suspect.amount for suspect in left)
    assert 0 <= unknown <= sums["suspect"]
    told = Counter[str]()
    for result in results.values():
        told.update({attempt.generation_id or "": attempt.cost or 0 for attempt in result.attempts})
    paid_for_nothing = [call for call in calls if call.generation_id not in told]
    lost = sum(call.billed_nano for call in paid_for_nothing)
    assert sum(result.cost or 0 for result in results.values()) == sum(call.billed_nano for call in calls) - lost
    check_suspects(left, results, calls)


def check_suspects(left: list[Suspect], results: dict[str, Result], calls: list[Record]) -> None:
    """Each line whose bill is not in the books is among the suspects, and with at least what it was billed."""
    by_index = {result.index: result for result in results.values()}
    bodies = {
        sha256(msgspec.json.encode(line["body"])).hexdigest(): number
        for number, line in enumerate(lines(LINES, models=(SPEAKER,), max_tokens=120))
    }
    most = Counter[int]()
    for call in calls:
        most[bodies[call.body]] = max(most[bodies[call.body]], call.billed_nano)
    for suspect in left:
        assert suspect.index in by_index
        assert suspect.amount >= most[suspect.index]


async def check_ledger(at: Scene, results: dict[str, Result]) -> None:
    """Records, roll-ups and the budget tell the same sums, and each line costs what its records say."""
    redis, upstream = at.store.redis, at.settings.upstream_name
    last = {record.hold: record async for record in ledger.records(redis, upstream)}.values()
    known = [record for record in last if record.source is not Source.SUSPECT]
    day, last_day = (ledger.day_of(pick(record.at for record in last)) for pick in (min, max))
    rollups = await ledger.rollups(redis, upstream, day, last_day)
    sums = await books(at)
    assert sum(record.cost for record in known) == sum(one.cost for one in rollups) == sums["spent"] + sums["debt"]
    unknown = sum(record.cost for record in last if record.source is Source.SUSPECT)
    assert unknown == sum(one.suspect for one in rollups) == sums["suspect"]
    assert len(last) == sum(one.requests for one in rollups)
    batches = [sums async for one in ledger.days(redis, upstream, day, last_day, by_batch=True) for _, sums in one.sums]
    assert [sum(each) for each in zip(*batches, strict=True)][-2:] == [sum(one.cost for one in known), unknown]
    costs = Counter[str]()
    for record in known:
        if record.outcome == ledger.OK:
            costs[record.custom_id] += record.cost
    assert costs == {name: result.cost for name, result in results.items()}
