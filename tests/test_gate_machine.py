"""The gate against a plain model, whatever order things happen in: promises 1, 2 and 5 as a property.

The machine lets lines through, settles them, early, late, twice or never, has workers die or fall silent and come back,
turns windows, changes limits, and closes suspects. After each step the books must say what the model says.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import fakeredis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from batchmill.store import keys, suspects
from batchmill.store.connection import connect
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.gate import Ask, Reply, Why
from batchmill.store.policy import LivePolicy
from batchmill.store.settlement import Outcome, Settlement, Settling, settle

from .conftest import check_leaks
from .gate_helpers import CLOCK, HOUR, LEASE_MS, Clock, Held, Worker, all_suspects, control_time
from .gate_model import KEY, MODELS, Model, check_books, policy_of
from .store_helpers import UPSTREAM

T = TypeVar("T")

OWNERS = ("one", "two", "three")
BATCH = "batch_1"
BOUNDS = st.sampled_from([1, 0, 40, 90, 200, 700, 10**15])
TOKENS = st.sampled_from([0, 1, 30, 100, 400, 900, 1000, 1500])  # of 1000 that the bucket holds
LINES = st.lists(st.tuples(BOUNDS, TOKENS), min_size=1, max_size=5)
PASSED = st.sampled_from([1000, 300, 50, 1, 0, 5000])
COSTS = st.one_of(st.integers(0, 40), st.just(200), st.just(10**14 + 7))
CLOSED_WITH = st.one_of(st.just(0), COSTS)
MONEY = st.sampled_from([10**6, 100, 2000, 0, 2 * 10**15 + 1])


class Gate(RuleBasedStateMachine):
    """One upstream, two models, three workers."""

    def __init__(self, open_redis: Callable[[], Redis]) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.redis = open_redis()
        self.do(self.redis.flushall())
        self.clock = Clock(self.redis)
        self.model = Model()
        self.own_limit = 0
        self.version = 0
        self.calls: list[tuple[Worker, int, Ask]] = []
        self.settlings: list[tuple[Worker, Settling]] = []
        self.generation = 0

    def do(self, step: Awaitable[T]) -> T:
        async def main() -> T:
            return await step

        return self.loop.run_until_complete(main())

    @initialize()
    def begin(self) -> None:
        self.do(self.clock.set(self.clock.now))
        self.workers = {name: Worker(self.redis, self.clock, name) for name in OWNERS}
        self.change(10**6, 2000, 2000, 2000, 600, 4)
        self.admit("one", MODELS[0], False, False, [(700, 400), (90, 100)], 0, 1, True)

    @rule(data=st.data(), what=st.sampled_from(["silence", "death", "copies", "sweep", "time", "policy"]))
    def upset(self, data: st.DataObject, what: str) -> None:
        """Something happens to the fleet."""
        owner = data.draw(st.sampled_from([name for name in OWNERS if self.workers[name].held] or OWNERS))
        if what == "policy":
            own = data.draw(st.tuples(MONEY, MONEY, MONEY, MONEY))
            self.change(*own, data.draw(st.sampled_from([600, 6000, 60])), data.draw(st.integers(2, 9)))
        elif what == "death":
            self.die(owner)
        elif what == "silence":
            self.fall_silent(data, owner)
        elif what == "sweep":
            self.sweep()
        elif what == "copies":
            self.copies_arrive(data)
        else:
            self.do(self.clock.forward(data.draw(st.sampled_from([5000, LEASE_MS, HOUR // 2, 12 * HOUR]))))

    def change(self, every: int, large: int, of_key: int, own: int, rate: int, concurrency: int) -> None:
        """Another policy is in force from now on; workers hear of it when they ask."""
        self.version += 1
        self.policy = LivePolicy(self.version, policy_of(every, large, of_key, rate, concurrency), "test")
        self.do(self.redis.execute_command("HSET", keys.books(UPSTREAM), "version", self.version))
        for bucket in self.model.buckets.values():  # at once: it has been touched under the old rate until now
            bucket.limit = next(limit for limit in self.policy.policy.limits if limit.name == bucket.limit.name)
        self.own_limit, key = own, keys.batch_budget(UPSTREAM, BATCH)
        self.do(self.redis.execute_command("HSET", key, "limit", own))
        self.do(self.redis.expire(key, 86_400))
        if key in self.model.windows:
            window = self.model.windows[key]
            window.limit, window.ceiling = own, max(own, window.promised)

    @rule(
        owner=st.sampled_from(OWNERS),
        model=st.sampled_from(MODELS),
        capped=st.booleans(),
        keyed=st.booleans(),
        lines=LINES,
        passed=PASSED,
        times=st.integers(1, 2),
        fresh=st.booleans(),
    )
    def admit(
        self,
        owner: str,
        model: str,
        capped: bool,
        keyed: bool,
        lines: list[tuple[int, int]],
        passed: int,
        times: int,
        fresh: bool,
    ) -> None:
        """Ask for lines, maybe under rules that are old, maybe with an answer that is lost at first."""
        self.do(self.clock.forward(passed))
        worker = self.workers[owner]
        if fresh and worker.book.policy.version != self.version:
            worker.book.learn(self.policy)
        rules = worker.rules(model, capped=BATCH if capped else None, key=KEY if keyed else None)
        ask = worker.ask(lines, rules)
        (reply,) = self.do(worker.send(ask))
        self.calls.append((worker, worker.calls, ask))
        if reply.why is Why.POLICY:
            assert rules.version < self.version
            worker.book.learn(self.policy)
            return
        assert rules.version == self.version
        assert (reply.why is Why.WINDOW) == any(b.ends is not None and b.ends <= self.clock.now for b in rules.budgets)
        if reply.why is Why.WINDOW:
            worker.book.turn()
            return
        self.model.learn(rules, self.own_limit)
        self.judge(worker, ask, reply)
        for _ in range(times - 1):
            assert self.do(worker.repeat(ask)) == [reply]

    def judge(self, worker: Worker, ask: Ask, reply: Reply) -> None:
        """Go over the lines as the gate must have."""
        now, skipped = self.clock.now, []
        for place, line in enumerate(ask.candidates):
            if line.bound > self.model.room(ask.rules):
                skipped.append(place)
                assert place < reply.looked
                continue
            must, may = self.model.stopped(ask.rules, line.tokens, now)
            if place == reply.looked:
                assert may
                assert reply.why is Why.LIMIT
                assert reply.wait != 0
                break
            assert not must
            self.model.admit(Held(line.hold, line.bound, line.tokens, ask.rules), worker.name, now)
            self.model.leases[worker.name] = now + LEASE_MS
        else:
            assert reply.looked == len(ask.candidates)
            assert reply.why is (Why.BUDGET if skipped else Why.NOTHING)
        assert list(reply.skipped) == skipped

    @precondition(lambda self: any(worker.held for worker in self.workers.values()))
    @rule(data=st.data(), passed=PASSED)
    def settle(self, data: st.DataObject, passed: int) -> None:
        """Calls end; their worker may have been given up meanwhile."""
        self.do(self.clock.forward(passed))
        self.finish(data, data.draw(st.sampled_from([one for one in self.workers.values() if one.held])))

    def finish(self, data: st.DataObject, worker: Worker) -> None:
        first = data.draw(st.sampled_from(list(worker.held.values())))
        same = [held for held in worker.held.values() if held.rules.number == first.rules.number]
        known, ends = data.draw(st.sampled_from([True, True, False])), []
        for held in same[: data.draw(st.integers(1, 3))]:
            cost = data.draw(st.one_of(COSTS, st.integers(0, held.bound))) if known else None
            used = data.draw(st.one_of(st.integers(0, held.tokens), st.none()))
            ends.append(Settlement(held.hold, held.bound, cost, used, Outcome.ANSWERED))
            del worker.held[held.hold]
            self.model.settle(self.model.holds[held.hold], cost, used)
        settling = worker.settling(*ends, rules=first.rules)
        self.settlings.append((worker, settling))
        for time in range(data.draw(st.integers(1, 2))):
            (booked,) = self.do(settle(self.redis, worker.caller, [settling]))
            assert booked.new == (time == 0)

    def copies_arrive(self, data: st.DataObject) -> None:
        """Copies of calls of long ago arrive at last: they do nothing."""
        worker, call, ask = data.draw(st.sampled_from(self.calls))
        newest, worker.calls = worker.calls, call
        self.do(worker.repeat(ask))
        worker.calls = newest
        if self.settlings:
            worker, settling = data.draw(st.sampled_from(self.settlings))
            assert not self.do(settle(self.redis, worker.caller, [settling]))[0].new

    def die(self, owner: str) -> None:
        """A worker is killed, and another takes its place: what it held is nobody's until its lease is over."""
        self.generation += 1
        self.workers[owner] = Worker(self.redis, self.clock, f"{owner}{self.generation}")

    def fall_silent(self, data: st.DataObject, owner: str) -> None:
        """A worker stalls for longer than its lease, and is given up; it may come back and tell how calls ended."""
        worker = self.workers[owner]
        self.do(self.redis.zadd(keys.owners(UPSTREAM), {worker.name: 0}, xx=True))
        if worker.name in self.model.leases:
            self.model.leases[worker.name] = 0
        self.sweep()
        if data.draw(st.booleans()) and self.model.at("suspect"):
            self.close(data, data.draw(CLOSED_WITH))
        self.the_books_are_right()
        if worker.held:
            self.finish(data, worker)

    def sweep(self) -> None:
        silent = {name for name, lease in self.model.leases.items() if lease <= self.clock.now}
        assert set(self.do(suspects.silent_owners(self.redis, UPSTREAM))) == silent
        for name in silent:
            assert self.do(suspects.abandon(self.redis, UPSTREAM, name)) == self.model.abandon(name)
        for name in self.model.leases:
            assert self.do(suspects.abandon(self.redis, UPSTREAM, name)) == 0

    @precondition(lambda self: self.model.at("suspect"))
    @rule(data=st.data(), cost=CLOSED_WITH)
    def close(self, data: st.DataObject, cost: int) -> None:
        """An operator releases a suspect, or the upstream's books tell what it cost."""
        hold = data.draw(st.sampled_from(sorted(self.model.at("suspect"))))
        suspect = self.do(all_suspects(self.redis))[hold]
        if cost:
            assert self.do(suspects.close(self.redis, UPSTREAM, suspect, cost))
        else:
            assert self.do(suspects.release(self.redis, UPSTREAM, [hold], "me")) == [hold]
        self.model.close(suspect, cost)
        assert not self.do(suspects.close(self.redis, UPSTREAM, suspect, cost))

    @invariant()
    def the_books_are_right(self) -> None:
        """Promises 1 (money), 2 (a hold is in one place) and 5 (rates)."""
        owners = {worker.name for worker in self.workers.values()}
        self.do(check_books(self.redis, self.model, owners, MODELS, self.clock.now))

    def teardown(self) -> None:
        try:
            self.do(self.clock.forward(LEASE_MS))
            self.sweep()
            self.the_books_are_right()
            assert not self.model.at("held")
            self.do(self.redis.delete(CLOCK))
            self.do(check_leaks(self.redis))
        finally:
            self.do(self.redis.aclose())
            self.loop.close()


def run(open_redis: Callable[[], Redis], examples: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        control_time(patch)
        run_state_machine_as_test(
            lambda: Gate(open_redis),  # type: ignore[arg-type]  # any factory will do, hypothesis' documentation says
            settings=settings(
                max_examples=examples,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                phases=[Phase.generate],  # shrinking such long stories takes minutes
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_the_gate_holds_on_fakeredis() -> None:
    run(fakeredis.FakeAsyncRedis, 25)


def test_the_gate_holds_on_a_real_server(server: EmbeddedServer) -> None:
    run(lambda: connect(server.url), 120)
