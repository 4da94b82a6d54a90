"""Whose shard is claimed next: projects by weight, their batches by priority, a newcomer soon, nobody never."""

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.store import batches, keys, lanes
from batchmill.store.lanes import Claim, Ending
from batchmill.store.model import BatchState, Priority
from batchmill.store.staging import requeue_lost

from .store_helpers import (
    DAYS,
    LEASE,
    MODEL,
    UPSTREAM,
    claim,
    complete,
    fall_silent,
    named_batch,
    queued,
    weigh,
)

PRIORITIES = list(Priority)
HOUR = 3600.0


async def turns(redis: Redis, count: int, *, without: tuple[str, ...] = ()) -> list[str]:
    """Claim that many shards one by one; return the names of their batches."""
    claims: list[Claim] = []
    for number in range(count):
        claims += await lanes.claim(redis, UPSTREAM, MODEL, f"run{number}", lease=LEASE, room=1, without=without)
    return [held.batch_id.removeprefix("batch_") for held in claims]


async def test_batches_of_a_project_take_turns(redis: Redis) -> None:
    for name in "abc":
        await named_batch(redis, 1, 1, 1, name=name)
    assert await turns(redis, 9) == [*"abcabcabc"]


async def test_one_claim_of_many_shards_goes_by_turns_too(redis: Redis) -> None:
    for name in "abc":
        await named_batch(redis, 2, 2, 2, name=name)
    held = await claim(redis, room=8)
    assert [one.batch_id[-1] for one in held] == [*"abca"]
    assert [one.lines for one in held] == [2, 2, 2, 2]


async def test_a_claim_tells_whose_it_is(redis: Redis) -> None:
    await named_batch(redis, 3, 3, name="a", project="a|b|ü", priority=Priority.HIGH)
    first, second = await claim(redis)
    assert (first.project, first.priority, first.tag) == ("a|b|ü", Priority.HIGH, 0.0)
    assert second.tag == 3.0


async def test_a_small_batch_is_not_stuck_behind_a_giant_one(redis: Redis) -> None:
    await named_batch(redis, *[64] * 100, name="giant")
    await turns(redis, 20)
    await named_batch(redis, *[1] * 10, name="small")
    order = await turns(redis, 14)
    assert order.count("small") == 10
    assert "small" in order[:2]


async def test_projects_get_their_weights_however_many_batches_they_have(redis: Redis) -> None:
    await weigh(redis, one=3, many=1)
    for number in range(20):
        await named_batch(redis, *[8] * 10, name=f"many{number}", project="many")
    await named_batch(redis, *[8] * 150, name="one", project="one")
    order = await turns(redis, 160)
    for prefix in range(16, 160, 16):
        assert abs(order[:prefix].count("one") - 0.75 * prefix) <= 2


async def test_a_project_gains_nothing_by_small_batches_one_after_another(redis: Redis) -> None:
    """Each batch is finished before the next one comes, and still the project pays for those before."""
    await weigh(redis, big=3, small=1)
    await named_batch(redis, *[8] * 100, name="big", project="big")
    order = []
    for number in range(80):
        if "small" not in "".join(await queued(redis)):
            await named_batch(redis, 8, name=f"small{number}", project="small")
        (held,) = await claim(redis, room=1)
        order.append(held.project)
        await complete(redis, [held])
    assert abs(order.count("small") - 20) <= 1


async def test_priorities_share_a_project_and_low_never_starves(redis: Redis) -> None:
    for priority in PRIORITIES:
        await named_batch(redis, *[1] * 150, name=priority.value, priority=priority)
    assert Counter(await turns(redis, 146)) == {"high": 128, "normal": 16, "low": 2}


@pytest.mark.parametrize("weight", ["0", "-1", "much"])
async def test_a_weight_that_is_none_counts_as_one(redis: Redis, weight: str) -> None:
    await redis.execute_command("HSET", keys.weights(UPSTREAM), "odd", weight)
    await redis.execute_command("EXPIRE", keys.weights(UPSTREAM), 60)
    await named_batch(redis, 1, 1, name="a", project="odd")
    await named_batch(redis, 1, 1, name="b", project="plain")
    assert await turns(redis, 4) == [*"abab"]


async def test_a_newcomer_is_claimed_without_those_who_are_here(redis: Redis) -> None:
    a = await named_batch(redis, 1, 1, name="a")
    assert await turns(redis, 1, without=(a,)) == []
    await named_batch(redis, 1, 1, 1, name="b")
    held = await lanes.claim(redis, UPSTREAM, MODEL, "run", lease=LEASE, room=100, without=[a])
    assert [one.batch_id for one in held] == ["batch_b"]
    await named_batch(redis, 1, name="c", project="other")
    assert sorted(await turns(redis, 9, without=(a, "batch_b"))) == ["c"]
    assert await lanes.claim(redis, UPSTREAM, MODEL, "run", lease=LEASE, room=0, without=[a]) == []


async def test_who_is_passed_over_is_not_overtaken_for_good(redis: Redis) -> None:
    """Time goes by those who wait: what comes meanwhile starts beside them, not behind those who were let by."""
    await named_batch(redis, *[1] * 9, name="a", project="one")
    await named_batch(redis, *[1] * 9, name="b", project="one")
    await named_batch(redis, *[1] * 9, name="c", project="two")
    assert await turns(redis, 3) == ["a", "c", "b"]
    assert await turns(redis, 8, without=("batch_a",)) == [*"cbcbcbcb"]
    await named_batch(redis, *[1] * 9, name="d", project="one")
    assert await turns(redis, 4) == [*"cdca"]


async def test_begun_shards_of_those_who_are_here_are_left_out_too(redis: Redis) -> None:
    a = await named_batch(redis, 1, name="a")
    await named_batch(redis, 1, name="b")
    await fall_silent(redis, *await claim(redis))
    assert await turns(redis, 1, without=(a,)) == ["b"]
    assert await turns(redis, 1) == ["a"]


async def test_a_shard_given_back_gives_its_turn_back(redis: Redis) -> None:
    """A batch whose budget is full comes and goes in vain; its project must not pay for that."""
    await named_batch(redis, *[1] * 40, name="a", project="one")
    await named_batch(redis, *[1] * 40, name="b", project="two")
    (vain,) = await claim(redis, room=1)
    for _ in range(10):
        assert await lanes.finish(redis, vain, Ending.GIVE_BACK)
        (vain,) = await claim(redis, room=1)
    order = [vain.batch_id[-1], *await turns(redis, 19)]
    assert Counter(order) == {"a": 10, "b": 10}


async def test_a_batch_whose_shards_are_all_leased_leaves_and_comes_back(redis: Redis) -> None:
    a = await named_batch(redis, 1, name="a")
    await named_batch(redis, 1, 1, name="b")
    claims = await claim(redis)
    assert await claim(redis) == []
    assert not await redis.exists(keys.flows(UPSTREAM, MODEL))
    assert await lanes.finish(redis, claims[0], Ending.GIVE_BACK)
    assert [held.batch_id for held in await claim(redis)] == [a]


async def test_a_parked_batch_is_not_claimed_until_it_is_due(redis: Redis) -> None:
    a = await named_batch(redis, 1, 1, 1, name="a")
    await named_batch(redis, 1, 1, name="b")
    (held,) = await claim(redis, room=1)
    await lanes.park(redis, UPSTREAM, MODEL, a, HOUR)
    assert await lanes.finish(redis, held, Ending.GIVE_BACK)
    await requeue_lost(redis, UPSTREAM, a, retention_days=DAYS)
    assert await turns(redis, 9) == ["b", "b"]
    assert len(await queued(redis)) == 3
    await redis.execute_command("ZINCRBY", keys.parked(UPSTREAM, MODEL), -HOUR * 1000, a)
    assert await turns(redis, 9) == ["a", "a", "a"]


@pytest.mark.parametrize("parked_first", [False, True])
async def test_what_a_silent_worker_had_of_a_parked_batch_waits_too(redis: Redis, parked_first: bool) -> None:
    a = await named_batch(redis, 1, 1, name="a")
    await named_batch(redis, 1, name="b")
    held = await claim(redis)
    if parked_first:
        await lanes.park(redis, UPSTREAM, MODEL, a, HOUR)
    await fall_silent(redis, *held)
    if not parked_first:
        await lanes.park(redis, UPSTREAM, MODEL, a, HOUR)
    assert await turns(redis, 9) == ["b"]
    await lanes.unpark(redis, UPSTREAM, MODEL, a)
    assert await turns(redis, 9) == ["a", "a"]


async def test_all_of_a_lane_may_be_called_back(redis: Redis) -> None:
    for name in "abc":
        batch_id = await named_batch(redis, 1, name=name)
        await lanes.park(redis, UPSTREAM, MODEL, batch_id, HOUR)
    assert await turns(redis, 1) == []
    await lanes.unpark(redis, UPSTREAM, MODEL, "batch_b")
    await lanes.unpark(redis, UPSTREAM, MODEL, "batch_unknown")
    assert await turns(redis, 9) == ["b"]
    async with redis.pubsub() as subscription:
        await subscription.subscribe(keys.wake(UPSTREAM))
        await subscription.get_message(timeout=5)
        await lanes.unpark(redis, UPSTREAM, MODEL, None)
        assert await subscription.get_message(timeout=5) is not None
    assert await turns(redis, 9) == ["a", "c"]
    await lanes.unpark(redis, UPSTREAM, MODEL, None)


async def test_parking_what_is_over_leaves_nothing(redis: Redis) -> None:
    a = await named_batch(redis, 1, name="a")
    await complete(redis, await claim(redis))
    await lanes.park(redis, UPSTREAM, MODEL, a, HOUR)
    assert not await redis.exists(keys.parked(UPSTREAM, MODEL))


async def test_a_batch_that_ends_while_it_is_parked_leaves_nothing(redis: Redis) -> None:
    a = await named_batch(redis, 1, name="a")
    (held,) = await claim(redis)
    await lanes.park(redis, UPSTREAM, MODEL, a, HOUR)
    await complete(redis, [held])
    for made in (keys.parked, keys.flows, keys.flow_facts, keys.projects, keys.turns):
        assert not await redis.exists(made(UPSTREAM, MODEL))


@pytest.mark.parametrize("lost", [keys.flows, keys.flow_facts, keys.projects, keys.turns, keys.parked])
async def test_whatever_is_lost_of_the_turns_no_shard_is(redis: Redis, lost: Callable[[str, str], str]) -> None:
    """Somebody deleted keys, or a script has a defect: every shard is still found, by claims or by maintenance."""
    batch_ids = [await named_batch(redis, 1, 1, 1, name=name, project=name) for name in "abc"]
    claims = await claim(redis, room=2)
    await redis.delete(lost(UPSTREAM, MODEL))
    assert await lanes.finish(redis, claims[0], Ending.GIVE_BACK)
    for _ in range(10):
        for batch_id in batch_ids:
            await requeue_lost(redis, UPSTREAM, batch_id, retention_days=DAYS)
        claims += await claim(redis, room=1)
    await complete(redis, claims[1:])
    assert len(claims) == 10
    for made in (keys.lane, keys.leases, keys.runs, keys.flow_facts, keys.turns):
        assert not await redis.exists(made(UPSTREAM, MODEL))


async def test_a_shard_without_a_flow_is_found_between_parked_ones(redis: Redis) -> None:
    for name in "abc":
        await named_batch(redis, 1, 1, name=name)
    assert await turns(redis, 1) == ["a"]
    await redis.delete(keys.flows(UPSTREAM, MODEL))
    for name in "ac":
        await lanes.park(redis, UPSTREAM, MODEL, f"batch_{name}", HOUR)
    assert await turns(redis, 9) == ["b", "b"]


async def test_maintenance_gives_a_place_to_what_has_a_strange_one(redis: Redis) -> None:
    a = await named_batch(redis, 1, 1, name="a")
    before = await redis.zrange(keys.lane(UPSTREAM, MODEL), 0, -1, withscores=True)
    await redis.execute_command("ZADD", keys.lane(UPSTREAM, MODEL), 7.9e11, f"{a}.0.1")
    assert await requeue_lost(redis, UPSTREAM, a, retention_days=DAYS) == []
    assert await redis.zrange(keys.lane(UPSTREAM, MODEL), 0, -1, withscores=True) == before


async def test_slots_go_round_and_spare_those_in_use(redis: Redis) -> None:
    await named_batch(redis, 1, name="a")
    await redis.execute_command("HSET", keys.turns(UPSTREAM, MODEL), "slots", 2**19 - 1, "projects", 2**14 - 1)
    await named_batch(redis, 1, name="b", project="other")
    scores = [score for _, score in await redis.zrange(keys.lane(UPSTREAM, MODEL), 0, -1, withscores=True)]
    assert scores == [1 << 20, 2 << 20]
    assert sorted(await turns(redis, 9)) == ["a", "b"]


async def test_a_lost_shard_that_a_cancel_takes_is_counted(redis: Redis) -> None:
    """Else its end would be taken for the batch's, and what is given back would have no place."""
    a = await named_batch(redis, 1, 1, name="a")
    lost, running = await claim(redis)
    assert await lanes.finish(redis, lost, Ending.LET_GO)
    for _ in range(2):  # the reply to the first call was lost
        taken = await lanes.take(redis, UPSTREAM, MODEL, lost.reference, "cancel", lease=LEASE)
    assert taken is not None
    await complete(redis, [taken])
    assert await lanes.finish(redis, running, Ending.GIVE_BACK)
    assert await turns(redis, 2) == ["a"]
    await complete(redis, [msgspec.structs.replace(running, run="run0")])
    assert (await batches.status(redis, a)).state is BatchState.COMPLETED
    assert not await redis.exists(keys.flow_facts(UPSTREAM, MODEL))
