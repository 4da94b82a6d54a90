"""Whose turn it is in a lane, in any order of events, as a plain model says.

The machine below enqueues, claims, gives back, parks, dies and tidies up at random; every claim must return exactly the
shards that the model's rule names.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import fakeredis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from batchmill.store import keys, lanes
from batchmill.store.connection import connect
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.lanes import Claim, Ending
from batchmill.store.model import Priority
from batchmill.store.staging import requeue_lost

from .conftest import check_leaks
from .store_helpers import (
    DAYS,
    LEASE,
    MODEL,
    UPSTREAM,
    claim,
    complete,
    fall_silent,
    leased,
    named_batch,
    queued,
    weigh,
)

T = TypeVar("T")

PRIORITIES = list(Priority)
HOUR = 3600.0


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
        batch_id = self.do(named_batch(self.redis, *sizes, name=name, project=project, priority=priority))
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
