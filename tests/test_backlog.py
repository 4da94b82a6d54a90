"""What waits: lines counted by batch and lane, with what is known of their cost and speed."""

from fractions import Fraction

import pytest
from redis.asyncio import Redis

from batchmill.config.strategy import Strategy
from batchmill.routing.health import Tally
from batchmill.store import batches, statistics
from batchmill.store.backlog import queued_lines
from batchmill.store.clock import now_ms
from batchmill.store.model import BatchState, Fare, Line, Road, Route, Terms
from batchmill.store.staging import BatchFacts, Staging
from batchmill.store.statistics import SLOT, Counted

from .store_helpers import DAYS, MODEL, UPSTREAM, batch_of, costly, line, put, result

OTHER = "maker/other"
ROADS = (Road(MODEL), Road(OTHER))
PRICING = b'{"prompt":"0.000001","completion":"0.000002","request":"0"}'


async def priced(redis: Redis, lanes: dict[str, tuple[Terms, list[Line]]], project: str = "default") -> str:
    """Enqueue a batch with one shard a lane."""
    staging = Staging(redis, UPSTREAM, retention_days=DAYS)
    for lane, (terms, lines) in lanes.items():
        await staging.add(lane, lines, terms)
    counts = {lane: len(lines) for lane, (_, lines) in lanes.items()}
    return await staging.release(BatchFacts(total=sum(counts.values()), models=counts, content="c", project=project))


def routed(strategy: Strategy) -> tuple[Terms, list[Line]]:
    fares = (Fare(9, 9, 8), Fare(9, 9, 2), Fare(9, 9))
    return Terms(route=Route("auto", strategy, ROADS)), [Line(0, "line-0", b"{}", fares=fares)]


async def test_without_batches_nothing_waits(redis: Redis) -> None:
    assert await queued_lines(redis, UPSTREAM) == []


async def test_lines_with_a_result_do_not_wait(redis: Redis) -> None:
    batch_id = await batch_of(redis, 4, 4, 2)
    await put(redis, batch_id, *(result(index) for index in range(3)))
    [found] = await queued_lines(redis, UPSTREAM)
    assert (found.batch, found.lane, found.models, found.lines) == (batch_id, MODEL, (MODEL,), 7)
    assert (found.observed, found.estimate, found.lasts_ms) == (None, None, None)


async def test_what_is_finished_cancelled_or_elsewhere_does_not_wait(redis: Redis) -> None:
    await put(redis, await batch_of(redis, 1, content="1"), result(0))
    await batches.mark_stopping(redis, await batch_of(redis, 5, content="2"), BatchState.CANCELLING)
    await batch_of(redis, 5, content="3")
    assert len(await queued_lines(redis, UPSTREAM)) == 1
    assert await queued_lines(redis, "https://other.test/v1") == []


async def test_only_those_of_a_project(redis: Redis) -> None:
    await priced(redis, {MODEL: (Terms(project="evals"), [line(0)])}, "evals")
    assert len(await queued_lines(redis, UPSTREAM, "evals")) == 1
    assert await queued_lines(redis, UPSTREAM, "other") == []


async def test_lines_are_spread_over_lanes_and_none_is_lost(redis: Redis) -> None:
    lanes = {MODEL: (Terms(), [line(0), line(1), line(2)]), OTHER: (Terms(), [line(3), line(4)])}
    batch_id = await priced(redis, lanes)
    await put(redis, batch_id, result(0))
    assert {each.lane: each.lines for each in await queued_lines(redis, UPSTREAM)} == {MODEL: 2, OTHER: 2}


async def test_a_batch_in_one_lane_tells_what_its_lines_cost(redis: Redis) -> None:
    batch_id = await batch_of(redis, 20)
    await put(redis, batch_id, *(costly(index, 7) for index in range(9)), costly(9, None))
    assert (await queued_lines(redis, UPSTREAM))[0].observed is None  # nine are too few
    await put(redis, batch_id, costly(10, 17))
    assert (await queued_lines(redis, UPSTREAM))[0].observed == 8


async def test_prices_tell_what_lines_are_likely_to_cost(redis: Redis) -> None:
    body = b'{"messages":[],"max_tokens":10}'
    await priced(redis, {MODEL: (Terms(pricing=PRICING), [Line(0, "line-0", body)])})
    [found] = await queued_lines(redis, UPSTREAM)
    assert found.estimate is not None
    assert 10 * 2000 < found.estimate < 10 * 2000 + 100 * 1000  # ten tokens of answer, and a few of prompt


@pytest.mark.parametrize(
    ("strategy", "likely"), [(Strategy.ORDER, 8), (Strategy.COST, 2), (Strategy.AVAILABILITY, Fraction(10, 2))]
)
async def test_a_routed_line_costs_as_its_strategy_chooses(redis: Redis, strategy: Strategy, likely: Fraction) -> None:
    await priced(redis, {"auto#1": routed(strategy)})
    [found] = await queued_lines(redis, UPSTREAM)
    assert (found.models, found.estimate) == ((MODEL, OTHER), likely)


async def test_it_lasts_as_long_as_the_last_minutes_say(redis: Redis) -> None:
    await batch_of(redis, 40, content="1")
    await batch_of(redis, 20, content="2")
    now = await now_ms(redis)
    await statistics.count(redis, UPSTREAM, [Counted(MODEL, now // 1000 // SLOT, now, {"p": Tally(calls=30)})])
    found = await queued_lines(redis, UPSTREAM)
    assert [each.lasts_ms for each in found] == [600_000, 600_000]  # 60 lines, 30 in five minutes
