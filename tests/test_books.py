"""The books of the queue against a plain model, whatever order things happen in: promises 2 and 3 as a property.

The machine below enqueues, claims, records, repeats itself, dies, wakes up late, cancels and tidies up at random. After
each step Redis must say what the model says; at the end everything is driven to completion.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import fakeredis
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

from batchmill.store import batches, endings, keys, lanes, service_keys
from batchmill.store.connection import connect
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.lanes import Claim, Ending
from batchmill.store.model import BatchState, LineState
from batchmill.store.records import Recording, record
from batchmill.store.staging import requeue_lost

from .conftest import check_leaks
from .store_helpers import (
    DAYS,
    LEASE,
    MODEL,
    RETENTION,
    UPSTREAM,
    all_results,
    claim,
    end_leases,
    facts,
    leased,
    queued,
    result,
    set_pulse,
    staged,
)

T = TypeVar("T")

WORKERS = ("one", "two")
OUTCOMES = (LineState.SUCCEEDED, LineState.FAILED)


@dataclass
class ShardModel:
    """Where a shard is (lane, lease, lost or gone), and whose it is: a run may own what was taken back from it."""

    indexes: range
    place: str = "lane"
    run: str | None = None
    overdue: bool = False


@dataclass
class BatchModel:
    total: int
    shards: dict[str, ShardModel]
    results: dict[int, LineState] = field(default_factory=dict)
    cancelled: bool = False
    late: bool = False  # somebody saw that its time was over

    @property
    def state(self) -> BatchState:
        if len(self.results) < self.total:
            going_on = BatchState.EXPIRING if self.late else BatchState.IN_PROGRESS
            return BatchState.CANCELLING if self.cancelled else going_on
        if self.cancelled:
            return BatchState.CANCELLED
        expired = self.late and LineState.EXPIRED in self.results.values()
        return BatchState.EXPIRED if expired else BatchState.COMPLETED

    def first_wins(self, index: int, state: LineState) -> None:
        self.results.setdefault(index, state)


class Books(RuleBasedStateMachine):
    """One upstream, one lane, two workers, any number of batches."""

    def __init__(self, open_redis: Callable[[], Redis]) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.redis = self.do(self.opened(open_redis))
        self.batches: dict[str, BatchModel] = {}
        self.claims: dict[str, list[Claim]] = {worker: [] for worker in WORKERS}  # as the worker sees it
        self.stale: list[Claim] = []  # of runs that died or lost their shard: they may still speak up
        self.recorded: list[Recording] = []
        self.runs = 0

    async def opened(self, open_redis: Callable[[], Redis]) -> Redis:
        redis = open_redis()
        await redis.flushall()
        return redis

    def do(self, step: Awaitable[T]) -> T:
        async def main() -> T:
            return await step

        return self.loop.run_until_complete(main())

    def shards(self) -> Iterator[tuple[str, ShardModel]]:
        for model in self.batches.values():
            yield from model.shards.items()

    def shard(self, held: Claim) -> ShardModel:
        return self.batches[held.batch_id].shards[held.reference]

    def everything_claimed(self) -> list[Claim]:
        return [held for claims in self.claims.values() for held in claims] + self.stale

    @initialize(sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4))
    def begin(self, sizes: list[int]) -> None:
        """Enqueue one batch and claim some of it, so that there is something to go wrong."""
        self.do(self._enqueue(sizes, 0, survives=True))
        self.claim("one", 4, False)

    @rule(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), refused=st.integers(0, 2), survives=st.booleans())
    def enqueue(self, sizes: list[int], refused: int, survives: bool) -> None:
        """Hand over a batch; a producer that does not survive dies between the release and the queueing."""
        self.do(self._enqueue(sizes, refused, survives=survives))

    async def _enqueue(self, sizes: list[int], refused: int, *, survives: bool) -> None:
        handover = await staged(self.redis, *sizes)
        good = sum(sizes)
        told = facts(good + refused, content=handover.batch_id, expires_at=1)  # as soon as somebody looks
        bad = [result(index, LineState.FAILED) for index in range(good, good + refused)]
        if survives:
            await handover.release(told, bad)
        else:
            await handover._flush()
            await handover._stage_refused(told.total, bad)
            await handover._let_go(told, refused)
            await handover.discard()  # what the dying one tries must not matter
        model = BatchModel(good + refused, {}, dict.fromkeys(range(good, good + refused), LineState.FAILED))
        first = 0
        for number, size in enumerate(sizes):
            reference = keys.reference(handover.batch_id, number, size)
            model.shards[reference] = ShardModel(range(first, first + size), "lane" if survives else "lost")
            first += size
        self.batches[handover.batch_id] = model

    @rule(worker=st.sampled_from(WORKERS), room=st.integers(1, 8), reply_lost=st.booleans())
    def claim(self, worker: str, room: int, reply_lost: bool) -> None:
        self.runs += 1
        claims = self.do(claim(self.redis, f"{worker}.{self.runs}", room=room))
        expected = min(1, sum(shard.place == "lane" for _, shard in self.shards()))
        assert len(claims) >= expected
        for held in claims:
            shard = self.shard(held)
            assert shard.place == "lane"
            shard.place, shard.run, shard.overdue = "lease", held.run, reply_lost
        if reply_lost:
            self.do(end_leases(self.redis, *(held.reference for held in claims)))
        else:
            self.claims[worker] += claims

    @precondition(lambda self: self.everything_claimed())
    @rule(data=st.data(), twice=st.booleans())
    def record(self, data: st.DataObject, twice: bool) -> None:
        """Record some lines of a shard, maybe late, maybe twice as after a lost reply."""
        held = data.draw(st.sampled_from(self.everything_claimed()))
        shard, model = self.shard(held), self.batches[held.batch_id]
        indexes = data.draw(st.sets(st.sampled_from(shard.indexes), min_size=1))
        results = [result(index, data.draw(st.sampled_from(OUTCOMES))) for index in sorted(indexes)]
        recording = Recording(held.batch_id, tuple(results), data.draw(st.integers(0, 3)))
        for _ in range(2 if twice else 1):
            new = sum(index not in model.results for index in indexes)
            assert self.do(record(self.redis, [recording], held.run.split(".")[0], RETENTION)) == [new]
            for given in results:
                model.first_wins(given.index, given.state)
        self.recorded.append(recording)

    @precondition(lambda self: self.recorded)
    @rule(data=st.data())
    def record_again(self, data: st.DataObject) -> None:
        """A flush of long ago arrives once more."""
        recording = data.draw(st.sampled_from(self.recorded))
        assert self.do(record(self.redis, [recording], "one", RETENTION)) == [0]

    @rule(worker=st.sampled_from(WORKERS))
    def die(self, worker: str) -> None:
        """The worker is killed; nobody renews its leases any more."""
        self.stale += self.claims[worker]
        self.sleep(worker)
        self.claims[worker] = []

    @rule(worker=st.sampled_from(WORKERS))
    def sleep(self, worker: str) -> None:
        """The worker stalls for longer than its leases."""
        for held in self.claims[worker]:
            if self.shard(held).run == held.run and self.shard(held).place == "lease":
                self.do(end_leases(self.redis, held.reference))
                self.shard(held).overdue = True

    @rule(worker=st.sampled_from(WORKERS))
    def beat(self, worker: str) -> None:
        """A heartbeat: renew, hear of losses, take back from the silent."""
        held = self.claims[worker]
        self.do(set_pulse(self.redis))
        renewal = self.do(lanes.renew(self.redis, UPSTREAM, {MODEL: held}, lease=LEASE))[MODEL]
        ours = [one for one in held if self.shard(one).run == one.run]
        for one in ours:
            self.shard(one).place, self.shard(one).overdue = "lease", False
        back = {reference for reference, shard in self.shards() if shard.place == "lease" and shard.overdue}
        for reference, shard in self.shards():
            if reference in back:
                shard.place, shard.overdue = "lane", False
        assert set(renewal.recovered) == back
        assert set(renewal.lost) == {one.reference for one in held if one not in ours}
        self.stale += [one for one in held if one not in ours]
        self.claims[worker] = ours

    @rule(worker=st.sampled_from(WORKERS), claims=st.booleans())
    def overtake(self, worker: str, claims: bool) -> None:
        """The worker stalls, and the other one takes what it had; the likeliest way to two runs of one shard."""
        (other,) = set(WORKERS) - {worker}
        self.sleep(worker)
        self.beat(other)
        if claims:
            self.claim(other, 8, False)

    @precondition(lambda self: self.everything_claimed())
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A run ends, or one that died or lost its shard believes that it does."""
        held = data.draw(st.sampled_from(self.everything_claimed()))
        shard, results = self.shard(held), self.batches[held.batch_id].results
        over = all(index in results for index in shard.indexes)
        ending = Ending.DONE if over else data.draw(st.sampled_from([Ending.GIVE_BACK, Ending.LET_GO]))
        ended = self.do(lanes.finish(self.redis, held, ending))
        assert ended == (shard.run == held.run)
        if ended:
            shard.place = {Ending.DONE: "gone", Ending.GIVE_BACK: "lane", Ending.LET_GO: "lost"}[ending]
            shard.run, shard.overdue = None, False
        for claims in (*self.claims.values(), self.stale):
            if held in claims:
                claims.remove(held)

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), wanted=st.sampled_from((BatchState.CANCELLING, BatchState.EXPIRING)), dies=st.booleans())
    def stop(self, data: st.DataObject, wanted: BatchState, dies: bool) -> None:
        """Cancel a batch, or see that its time is over; who dies early has only marked it."""
        batch_id = data.draw(st.sampled_from(sorted(self.batches)))
        model = self.batches[batch_id]
        terminal = model.state.terminal
        if dies:
            self.do(batches.mark_stopping(self.redis, batch_id, wanted))
        else:
            self.do(endings._stop(self.redis, batch_id, wanted, DAYS))
        if terminal:
            return
        model.cancelled = model.cancelled or wanted is BatchState.CANCELLING
        model.late = model.late or wanted is BatchState.EXPIRING
        unsent = model.state.unsent
        assert unsent is not None
        for shard in model.shards.values():
            lapsed = shard.place == "lease" and shard.overdue
            if not dies and (lapsed or shard.place in ("lane", "lost")):
                shard.place, shard.run = "gone", None
                for index in shard.indexes:
                    model.first_wins(index, unsent)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        """Maintenance looks after a batch."""
        self.do(self._requeue(data.draw(st.sampled_from(sorted(self.batches)))))

    async def _requeue(self, batch_id: str) -> None:
        shards = self.batches[batch_id].shards
        lost = {reference for reference, shard in shards.items() if shard.place == "lost"}
        assert set(await requeue_lost(self.redis, UPSTREAM, batch_id, retention_days=DAYS)) == lost
        for reference in lost:
            shards[reference].place = "lane"

    @rule()
    def server_forgets_scripts(self) -> None:
        self.do(self.redis.script_flush())

    @invariant()
    def every_shard_is_in_one_place(self) -> None:
        places: dict[str, list[str]] = {"lane": [], "lease": [], "lost": [], "gone": []}
        for reference, shard in self.shards():
            places[shard.place].append(reference)
        assert sorted(self.do(queued(self.redis))) == sorted(places["lane"])
        assert sorted(self.do(leased(self.redis))) == sorted(places["lease"])
        for batch_id, model in self.batches.items():
            unfinished = {shard.reference for shard in self.do(batches.open_shards(self.redis, batch_id))}
            assert unfinished == {reference for reference, shard in model.shards.items() if shard.place != "gone"}

    @invariant()
    def every_line_is_counted_once(self) -> None:
        for batch_id, model in self.batches.items():
            status = self.do(batches.status(self.redis, batch_id))
            states = list(model.results.values())
            assert (status.total, status.state) == (model.total, model.state)
            assert {state: getattr(status, state.value) for state in LineState} == {
                state: states.count(state) for state in LineState
            }
            assert status.pending >= 0
            assert status.running >= 0
            assert status.pending + status.running + status.done == status.total

    @invariant()
    def every_result_is_there_for_ever(self) -> None:
        for batch_id, model in self.batches.items():
            found = self.do(all_results(self.redis, batch_id))
            assert len(found) == len(model.results)
            assert {one.index: one.state for one in found} == model.results

    def teardown(self) -> None:
        try:
            self.do(self._complete())
            self.every_line_is_counted_once()
            self.every_result_is_there_for_ever()
            assert all(model.state.terminal for model in self.batches.values())
            self.do(self._nothing_is_left())
        finally:
            self.do(self.redis.aclose())
            self.loop.close()

    async def _complete(self) -> None:
        """All workers are gone; new ones see every line through."""
        for batch_id in self.batches:
            await self._requeue(batch_id)
        await end_leases(self.redis, *await leased(self.redis))
        await set_pulse(self.redis)
        await lanes.renew(self.redis, UPSTREAM, {MODEL: []}, lease=LEASE)
        for held in await claim(self.redis, "last", room=10_000):
            shard, model = self.shard(held), self.batches[held.batch_id]
            work = await batches.load(self.redis, held.reference, shard.indexes[0], shard.indexes[-1])
            assert work is not None
            assert [line.index for line in work.lines] == [i for i in shard.indexes if i not in model.results]
            state = work.unsent or LineState.SUCCEEDED
            lines = tuple(result(line.index, state) for line in work.lines)
            await record(self.redis, [Recording(held.batch_id, lines)], "last", RETENTION)
            for line in lines:
                model.first_wins(line.index, state)
            assert await lanes.finish(self.redis, held, Ending.DONE)

    async def _nothing_is_left(self) -> None:
        kept = {keys.batches(), keys.lanes(UPSTREAM), keys.pulse(UPSTREAM)}
        kept |= {service_keys.index(None), service_keys.index("default")}
        for batch_id in self.batches:
            kept |= {make(batch_id) for make in (keys.batch, keys.done, keys.results, keys.air, keys.content)}
        assert {name.decode() for name in await self.redis.keys("*")} <= kept
        await check_leaks(self.redis)


def run(open_redis: Callable[[], Redis], examples: int) -> None:
    run_state_machine_as_test(
        lambda: Books(open_redis),  # type: ignore[arg-type]  # any factory will do, hypothesis' documentation says
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            phases=[Phase.reuse, Phase.generate],  # shrinking such long stories takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_books_hold_on_fakeredis() -> None:
    run(fakeredis.FakeAsyncRedis, 80)


def test_the_books_hold_on_a_real_server(server: EmbeddedServer) -> None:
    run(lambda: connect(server.url), 30)
