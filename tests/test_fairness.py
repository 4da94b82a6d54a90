"""Whose shard is claimed next: projects by weight, batches by priority; in any order of events as a model says."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import fakeredis
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from batchmill.store import batches, keys, lanes
from batchmill.store.connection import connect
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.lanes import Claim, Ending
from batchmill.store.model import BatchState, Priority, Terms
from batchmill.store.staging import Staging, requeue_lost

from .conftest import check_leaks
from .store_helpers import (
    DAYS,
    LEASE,
    MODEL,
    UPSTREAM,
    claim,
    complete,
    end_leases,
    facts,
    leased,
    line,
    queued,
    set_pulse,
)

T = TypeVar("T")

PRIORITIES = list(Priority)
HOUR = 3600.0


async def enqueue(
    redis: Redis, *sizes: int, name: str, project: str = "default", priority: Priority = Priority.NORMAL
) -> str:
    """Enqueue a batch with an id that tells who it is; return the id."""
    staging = Staging(redis, UPSTREAM, retention_days=DAYS, batch_id=f"batch_{name}")
    first = 0
    for size in sizes:
        await staging.add(MODEL, [line(index) for index in range(first, first + size)], Terms(project, priority))
        first += size
    return await staging.release(facts(sum(sizes), content=name, project=project, priority=priority))


async def weigh(redis: Redis, **weights: float) -> None:
    for project, weight in weights.items():
        await redis.execute_command("HSET", keys.weights(UPSTREAM), project, weight)
    await redis.execute_command("EXPIRE", keys.weights(UPSTREAM), 60)


async def turns(redis: Redis, count: int, *, without: tuple[str, ...] = ()) -> list[str]:
    """Claim that many shards one by one; return the names of their batches."""
    claims: list[Claim] = []
    for number in range(count):
        claims += await lanes.claim(redis, UPSTREAM, MODEL, f"run{number}", lease=LEASE, room=1, without=without)
    return [held.batch_id.removeprefix("batch_") for held in claims]


async def test_batches_of_a_project_take_turns(redis: Redis) -> None:
    for name in "abc":
        await enqueue(redis, 1, 1, 1, name=name)
    assert await turns(redis, 9) == [*"abcabcabc"]


async def test_one_claim_of_many_shards_goes_by_turns_too(redis: Redis) -> None:
    for name in "abc":
        await enqueue(redis, 2, 2, 2, name=name)
    held = await claim(redis, room=8)
    assert [one.batch_id[-1] for one in held] == [*"abca"]
    assert [one.lines for one in held] == [2, 2, 2, 2]


async def test_a_claim_tells_whose_it_is(redis: Redis) -> None:
    await enqueue(redis, 3, 3, name="a", project="a|b|ü", priority=Priority.HIGH)
    first, second = await claim(redis)
    assert (first.project, first.priority, first.tag) == ("a|b|ü", Priority.HIGH, 0.0)
    assert second.tag == 3.0


async def test_a_small_batch_is_not_stuck_behind_a_giant_one(redis: Redis) -> None:
    await enqueue(redis, *[64] * 100, name="giant")
    await turns(redis, 20)
    await enqueue(redis, *[1] * 10, name="small")
    order = await turns(redis, 14)
    assert order.count("small") == 10
    assert "small" in order[:2]


async def test_projects_get_their_weights_however_many_batches_they_have(redis: Redis) -> None:
    await weigh(redis, one=3, many=1)
    for number in range(20):
        await enqueue(redis, *[8] * 10, name=f"many{number}", project="many")
    await enqueue(redis, *[8] * 150, name="one", project="one")
    order = await turns(redis, 160)
    for prefix in range(16, 160, 16):
        assert abs(order[:prefix].count("one") - 0.75 * prefix) <= 2


async def test_a_project_gains_nothing_by_small_batches_one_after_another(redis: Redis) -> None:
    """Each batch is finished before the next one comes, and still the project pays for those before."""
    await weigh(redis, big=3, small=1)
    await enqueue(redis, *[8] * 100, name="big", project="big")
    order = []
    for number in range(80):
        if "small" not in "".join(await queued(redis)):
            await enqueue(redis, 8, name=f"small{number}", project="small")
        (held,) = await claim(redis, room=1)
        order.append(held.project)
        await complete(redis, [held])
    assert abs(order.count("small") - 20) <= 1


async def test_priorities_share_a_project_and_low_never_starves(redis: Redis) -> None:
    for priority in PRIORITIES:
        await enqueue(redis, *[1] * 150, name=priority.value, priority=priority)
    assert Counter(await turns(redis, 146)) == {"high": 128, "normal": 16, "low": 2}


@pytest.mark.parametrize("weight", ["0", "-1", "much"])
async def test_a_weight_that_is_none_counts_as_one(redis: Redis, weight: str) -> None:
    await redis.execute_command("HSET", keys.weights(UPSTREAM), "odd", weight)
    await redis.execute_command("EXPIRE", keys.weights(UPSTREAM), 60)
    await enqueue(redis, 1, 1, name="a", project="odd")
    await enqueue(redis, 1, 1, name="b", project="plain")
    assert await turns(redis, 4) == [*"abab"]


async def test_a_newcomer_is_claimed_without_those_who_are_here(redis: Redis) -> None:
    a = await enqueue(redis, 1, 1, name="a")
    assert await turns(redis, 1, without=(a,)) == []
    await enqueue(redis, 1, 1, 1, name="b")
    held = await lanes.claim(redis, UPSTREAM, MODEL, "run", lease=LEASE, room=100, without=[a])
    assert [one.batch_id for one in held] == ["batch_b"]
    await enqueue(redis, 1, name="c", project="other")
    assert sorted(await turns(redis, 9, without=(a, "batch_b"))) == ["c"]
    assert await lanes.claim(redis, UPSTREAM, MODEL, "run", lease=LEASE, room=0, without=[a]) == []


async def test_who_is_passed_over_is_not_overtaken_for_good(redis: Redis) -> None:
    """Time goes by those who wait: what comes meanwhile starts beside them, not behind those who were let by."""
    await enqueue(redis, *[1] * 9, name="a", project="one")
    await enqueue(redis, *[1] * 9, name="b", project="one")
    await enqueue(redis, *[1] * 9, name="c", project="two")
    assert await turns(redis, 3) == ["a", "c", "b"]
    assert await turns(redis, 8, without=("batch_a",)) == [*"cbcbcbcb"]
    await enqueue(redis, *[1] * 9, name="d", project="one")
    assert await turns(redis, 4) == [*"cdca"]


async def test_begun_shards_of_those_who_are_here_are_left_out_too(redis: Redis) -> None:
    a = await enqueue(redis, 1, name="a")
    await enqueue(redis, 1, name="b")
    await fall_silent(redis, *await claim(redis))
    assert await turns(redis, 1, without=(a,)) == ["b"]
    assert await turns(redis, 1) == ["a"]


async def test_a_shard_given_back_gives_its_turn_back(redis: Redis) -> None:
    """A batch whose budget is full comes and goes in vain; its project must not pay for that."""
    await enqueue(redis, *[1] * 40, name="a", project="one")
    await enqueue(redis, *[1] * 40, name="b", project="two")
    (vain,) = await claim(redis, room=1)
    for _ in range(10):
        assert await lanes.finish(redis, vain, Ending.GIVE_BACK)
        (vain,) = await claim(redis, room=1)
    order = [vain.batch_id[-1], *await turns(redis, 19)]
    assert Counter(order) == {"a": 10, "b": 10}


async def test_a_batch_whose_shards_are_all_leased_leaves_and_comes_back(redis: Redis) -> None:
    a = await enqueue(redis, 1, name="a")
    await enqueue(redis, 1, 1, name="b")
    claims = await claim(redis)
    assert await claim(redis) == []
    assert not await redis.exists(keys.flows(UPSTREAM, MODEL))
    assert await lanes.finish(redis, claims[0], Ending.GIVE_BACK)
    assert [held.batch_id for held in await claim(redis)] == [a]


async def fall_silent(redis: Redis, *held: Claim) -> None:
    await set_pulse(redis)
    await end_leases(redis, *(one.reference for one in held))
    renewal = (await lanes.renew(redis, UPSTREAM, {MODEL: []}, lease=LEASE))[MODEL]
    assert sorted(renewal.recovered) == sorted(one.reference for one in held)


async def test_a_parked_batch_is_not_claimed_until_it_is_due(redis: Redis) -> None:
    a = await enqueue(redis, 1, 1, 1, name="a")
    await enqueue(redis, 1, 1, name="b")
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
    a = await enqueue(redis, 1, 1, name="a")
    await enqueue(redis, 1, name="b")
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
        batch_id = await enqueue(redis, 1, name=name)
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
    a = await enqueue(redis, 1, name="a")
    await complete(redis, await claim(redis))
    await lanes.park(redis, UPSTREAM, MODEL, a, HOUR)
    assert not await redis.exists(keys.parked(UPSTREAM, MODEL))


async def test_a_batch_that_ends_while_it_is_parked_leaves_nothing(redis: Redis) -> None:
    a = await enqueue(redis, 1, name="a")
    (held,) = await claim(redis)
    await lanes.park(redis, UPSTREAM, MODEL, a, HOUR)
    await complete(redis, [held])
    for made in (keys.parked, keys.flows, keys.flow_facts, keys.projects, keys.turns):
        assert not await redis.exists(made(UPSTREAM, MODEL))


@pytest.mark.parametrize("lost", [keys.flows, keys.flow_facts, keys.projects, keys.turns, keys.parked])
async def test_whatever_is_lost_of_the_turns_no_shard_is(redis: Redis, lost: Callable[[str, str], str]) -> None:
    """Somebody deleted keys, or a script has a defect: every shard is still found, by claims or by maintenance."""
    batch_ids = [await enqueue(redis, 1, 1, 1, name=name, project=name) for name in "abc"]
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
        await enqueue(redis, 1, 1, name=name)
    assert await turns(redis, 1) == ["a"]
    await redis.delete(keys.flows(UPSTREAM, MODEL))
    for name in "ac":
        await lanes.park(redis, UPSTREAM, MODEL, f"batch_{name}", HOUR)
    assert await turns(redis, 9) == ["b", "b"]


async def test_maintenance_gives_a_place_to_what_has_a_strange_one(redis: Redis) -> None:
    a = await enqueue(redis, 1, 1, name="a")
    before = await redis.zrange(keys.lane(UPSTREAM, MODEL), 0, -1, withscores=True)
    await redis.execute_command("ZADD", keys.lane(UPSTREAM, MODEL), 7.9e11, f"{a}.0.1")
    assert await requeue_lost(redis, UPSTREAM, a, retention_days=DAYS) == []
    assert await redis.zrange(keys.lane(UPSTREAM, MODEL), 0, -1, withscores=True) == before


async def test_slots_go_round_and_spare_those_in_use(redis: Redis) -> None:
    await enqueue(redis, 1, name="a")
    await redis.execute_command("HSET", keys.turns(UPSTREAM, MODEL), "slots", 2**19 - 1, "projects", 2**14 - 1)
    await enqueue(redis, 1, name="b", project="other")
    scores = [score for _, score in await redis.zrange(keys.lane(UPSTREAM, MODEL), 0, -1, withscores=True)]
    assert scores == [1 << 20, 2 << 20]
    assert sorted(await turns(redis, 9)) == ["a", "b"]


async def test_a_lost_shard_that_a_cancel_takes_is_counted(redis: Redis) -> None:
    """Else its end would be taken for the batch's, and what is given back would have no place."""
    a = await enqueue(redis, 1, 1, name="a")
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


class Model:
    """The same rule in plain words, without a number in two parts."""

    def __init__(self) -> None:
        self.weights: dict[str, float] = {}
        self.places: dict[str, str] = {}  # reference -> lane, begun, later, lease, lost or gone
        self.batches: dict[str, tuple[str, Priority]] = {}
        self.parked: dict[str, bool] = {}  # whether it is due
        self.forget()

    def forget(self) -> None:
        self.clock = 0.0
        self.tags: dict[str, float] = {}
        self.clocks: dict[str, float] = {}
        self.flows: dict[str, float] = {}

    def of(self, batch: str, *places: str) -> list[str]:
        found = [name for name, place in self.places.items() if keys.batch_of(name) == batch and place in places]
        return sorted(found, key=number)

    def come(self, batch: str) -> None:
        if batch not in self.flows:
            self.parked.setdefault(batch, True)

    def enter(self, batch: str) -> None:
        project = self.batches[batch][0]
        self.tags.setdefault(project, self.clock)
        self.flows[batch] = self.clocks.setdefault(project, 0)

    def claim(self, room: int, without: list[str]) -> list[str]:
        for batch in sorted(batch for batch, due in self.parked.items() if due):
            del self.parked[batch]
            self.enter(batch)
        claimed: list[str] = []
        while room > 0 and (reference := self.begun(without) or self.turn(without)):
            self.places[reference] = "lease"
            claimed.append(reference)
            room -= 10**6 if without else lines(reference)
        return claimed

    def begun(self, without: list[str]) -> str | None:
        found = [name for name, place in self.places.items() if place == "begun" and keys.batch_of(name) not in without]
        return min(found, key=lambda name: (number(name), name), default=None)

    def turn(self, without: list[str]) -> str | None:
        passed: set[str] = set()
        while left := self.tags.keys() - passed:
            project = min(left, key=lambda name: (self.tags[name], name))
            own = [batch for batch in self.flows if self.batches[batch][0] == project]
            if not own:
                del self.tags[project], self.clocks[project]
                continue
            batch = min(set(own) - set(without), key=lambda name: (self.flows[name], name), default=None)
            if batch is None:
                passed.add(project)
            elif waiting := self.of(batch, "lane"):
                self.charge(batch, waiting[0], moves_clock=not without)
                return waiting[0]
            else:
                del self.flows[batch]
        return None

    def charge(self, batch: str, reference: str, *, moves_clock: bool) -> None:
        project, priority = self.batches[batch]
        if moves_clock:
            self.clock, self.clocks[project] = self.tags[project], self.flows[batch]
        self.flows[batch] += lines(reference) * priority.stride
        self.tags[project] += lines(reference) / self.weights.get(project, 1)

    def give_back(self, reference: str, place: str) -> None:
        batch = keys.batch_of(reference)
        project, priority = self.batches[batch]
        if batch in self.flows:
            back = self.flows[batch] - lines(reference) * priority.stride
            self.flows[batch] = max(self.clocks[project], back)
        if project in self.tags:
            back = self.tags[project] - lines(reference) / self.weights.get(project, 1)
            self.tags[project] = max(self.clock, back)
        self.places[reference] = place
        if place == "lane":
            self.come(batch)
        elif place == "lost":
            self.left(batch)

    def left(self, batch: str) -> None:
        if not self.of(batch, "lane", "begun", "later", "lease"):
            self.flows.pop(batch, None)
            self.parked.pop(batch, None)
        if all(place in ("lost", "gone") for place in self.places.values()):
            self.forget()


def number(reference: str) -> int:
    return int(reference.split(".")[1])


def lines(reference: str) -> int:
    return int(reference.split(".")[2])


class Fairness(RuleBasedStateMachine):
    """One lane, three projects; who claims does not matter here."""

    def __init__(self, open_redis: Callable[[], Redis]) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.redis = self.do(self.opened(open_redis))
        self.model = Model()
        self.held: dict[str, Claim] = {}
        self.runs = 0

    async def opened(self, open_redis: Callable[[], Redis]) -> Redis:
        redis = open_redis()
        await redis.flushall()
        return redis

    def do(self, step: Awaitable[T]) -> T:
        async def main() -> T:
            return await step

        return self.loop.run_until_complete(main())

    def any_batch(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.model.batches)))

    @rule(
        sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
        project=st.sampled_from(["one", "two", "three"]),
        priority=st.sampled_from(PRIORITIES),
    )
    def enqueue(self, sizes: list[int], project: str, priority: Priority) -> None:
        name = f"{len(self.model.batches):03}"
        batch_id = self.do(enqueue(self.redis, *sizes, name=name, project=project, priority=priority))
        self.model.batches[batch_id] = (project, priority)
        for at, size in enumerate(sizes):
            self.model.places[keys.reference(batch_id, at, size)] = "lane"
        self.model.come(batch_id)

    @rule(project=st.sampled_from(["one", "two"]), weight=st.sampled_from([0.5, 1.0, 3.0]))
    def weigh(self, project: str, weight: float) -> None:
        self.do(weigh(self.redis, **{project: weight}))
        self.model.weights[project] = weight

    def _claim(self, room: int, without: list[str]) -> None:
        self.runs += 1
        claims = self.do(
            lanes.claim(self.redis, UPSTREAM, MODEL, f"run{self.runs}", lease=LEASE, room=room, without=without)
        )
        assert [held.reference for held in claims] == self.model.claim(room, without)
        for held in claims:
            assert (held.project, held.priority) == self.model.batches[held.batch_id]
            self.held[held.reference] = held

    @rule(room=st.integers(1, 12))
    def claim(self, room: int) -> None:
        self._claim(room, [])

    @rule(room=st.integers(1, 3))
    def claim_a_little(self, room: int) -> None:
        self._claim(room, [])

    @precondition(lambda self: self.model.batches)
    @rule(data=st.data())
    def claim_without(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.model.batches)), min_size=1, max_size=3))
        self._claim(5, sorted(chosen))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), place=st.sampled_from(["gone", "gone", "lane", "later", "lost"]))
    def end(self, data: st.DataObject, place: str) -> None:
        held = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
        if place == "gone":
            self.do(complete(self.redis, [held]))
            self.model.places[held.reference] = place
            self.model.left(held.batch_id)
            return
        ending = Ending.LET_GO if place == "lost" else Ending.GIVE_BACK
        assert self.do(lanes.finish(self.redis, held, ending, delay=HOUR if place == "later" else 0))
        self.model.give_back(held.reference, place)

    @precondition(lambda self: self.model.batches)
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        batch_id = self.any_batch(data)
        self.do(lanes.park(self.redis, UPSTREAM, MODEL, batch_id, HOUR))
        if self.model.of(batch_id, "lane", "begun", "later", "lease"):
            self.model.flows.pop(batch_id, None)
            self.model.parked[batch_id] = False
            for reference in self.model.of(batch_id, "begun"):
                self.model.places[reference] = "lane"

    @precondition(lambda self: self.model.parked)
    @rule(data=st.data(), all_of_them=st.booleans())
    def unpark(self, data: st.DataObject, all_of_them: bool) -> None:
        batch_id = data.draw(st.sampled_from(sorted(self.model.parked)))
        self.do(lanes.unpark(self.redis, UPSTREAM, MODEL, None if all_of_them else batch_id))
        for name in list(self.model.parked) if all_of_them else [batch_id]:
            self.model.parked[name] = True

    @precondition(lambda self: "later" in self.model.places.values())
    @rule()
    def time_passes(self) -> None:
        """What was given back for later is due; a claim for nobody's room notices."""
        for reference, place in self.model.places.items():
            if place == "later":
                self.do(self.redis.execute_command("ZADD", keys.lane(UPSTREAM, MODEL), 1e12, reference))
                self.model.places[reference] = "lane"
                self.model.come(keys.batch_of(reference))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """A worker is killed, and another one's heartbeat takes back what it had."""
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.held)), min_size=1))
        self.do(fall_silent(self.redis, *(self.held.pop(reference) for reference in sorted(chosen))))
        for reference in chosen:
            parked = self.model.parked.get(keys.batch_of(reference)) is False
            self.model.places[reference] = "lane" if parked else "begun"

    @precondition(lambda self: self.model.batches)
    @rule(data=st.data())
    def maintain(self, data: st.DataObject) -> None:
        batch_id = self.any_batch(data)
        lost = self.model.of(batch_id, "lost")
        found = self.do(requeue_lost(self.redis, UPSTREAM, batch_id, retention_days=DAYS))
        assert sorted(found) == sorted(lost)
        for reference in lost:
            self.model.places[reference] = "lane"
        if self.model.of(batch_id, "lane", "begun"):
            self.model.come(batch_id)

    @invariant()
    def every_shard_is_in_its_place(self) -> None:
        waiting = [name for name, place in self.model.places.items() if place in ("lane", "begun", "later")]
        assert sorted(self.do(queued(self.redis))) == sorted(waiting)
        assert sorted(self.do(leased(self.redis))) == sorted(self.held)

    @invariant()
    def whoever_waits_has_a_flow_or_is_parked(self) -> None:
        flows = {name.decode() for name in self.do(self.redis.zrange(keys.flows(UPSTREAM, MODEL), 0, -1))}
        parked = {name.decode() for name in self.do(self.redis.zrange(keys.parked(UPSTREAM, MODEL), 0, -1))}
        assert not flows & parked
        assert flows == self.model.flows.keys()
        waiting = {keys.batch_of(name) for name, place in self.model.places.items() if place == "lane"}
        assert waiting <= self.model.flows.keys() | self.model.parked.keys()

    def teardown(self) -> None:
        try:
            self.do(lanes.unpark(self.redis, UPSTREAM, MODEL, None))
            self.model.parked = dict.fromkeys(self.model.parked, True)
            self.time_passes()
            for batch_id in self.model.batches:
                self.do(requeue_lost(self.redis, UPSTREAM, batch_id, retention_days=DAYS))
            self.do(complete(self.redis, [*self.held.values(), *self.do(claim(self.redis, "last", room=10_000))]))
            assert self.do(lanes.waiting(self.redis, UPSTREAM)) == {}
            for made in (keys.flows, keys.flow_facts, keys.projects, keys.turns, keys.parked):
                assert not self.do(self.redis.exists(made(UPSTREAM, MODEL)))
            self.do(check_leaks(self.redis))
        finally:
            self.do(self.redis.aclose())
            self.loop.close()


def run(open_redis: Callable[[], Redis], examples: int) -> None:
    run_state_machine_as_test(
        lambda: Fairness(open_redis),  # type: ignore[arg-type]  # any factory will do, hypothesis' documentation says
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.reuse, Phase.generate],  # shrinking such long stories takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_turns_are_as_the_model_says_on_fakeredis() -> None:
    run(fakeredis.FakeAsyncRedis, 50)


def test_turns_are_as_the_model_says_on_a_real_server(server: EmbeddedServer) -> None:
    run(lambda: connect(server.url), 40)
