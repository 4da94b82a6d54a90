"""The ledger: records, roll-ups and budgets always tell the same sum, whatever happened in between."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence

import fakeredis
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from batchmill.config.windows import WindowKind
from batchmill.spend.ledger import Group, Rollup, Source, UsageRecord
from batchmill.store import keys, ledger, settlement, suspects
from batchmill.store.model import Line, Terms
from batchmill.store.rules import Rules
from batchmill.store.settlement import Outcome, Settlement, Settling
from batchmill.store.staging import Shard, ShardPayload

from .gate_helpers import (
    DAY,
    NOON,
    Clock,
    Held,
    Sums,
    Worker,
    all_suspects,
    budget,
    control_time,
    end_lease,
    policy_of,
    sums,
)  # fmt: skip
from .store_helpers import MODEL, UPSTREAM
from .usage_helpers import used

ALL = policy_of(budget("all", 10**12, window=WindowKind.TOTAL))
TODAY, TOMORROW = "2100-01-01", "2100-01-02"


def record_of(held: Held, cost: int | None, *, answered: bool = True, project: str = "p") -> UsageRecord:
    source = Source.SUSPECT if cost is None else Source.TOLD
    told = UsageRecord(
        at=0, hold=held.hold, project=project, batch="batch_1", index=1, custom_id="é", model=held.rules.model,
        provider="X" if answered else None, outcome="ok" if answered else "timeout", source=source,
        cost=held.bound if cost is None else cost,
    )  # fmt: skip
    return msgspec.structs.replace(told, prompt_tokens=10, completion_tokens=3) if answered else told


def settlement_of(held: Held, cost: int | None, **more: str) -> Settlement:
    outcome = Outcome.NOTHING if cost is None else Outcome.ANSWERED
    record = record_of(held, cost, answered=cost is not None, **more)
    return Settlement(held.hold, held.bound, cost, None, outcome, record=record)


async def all_records(redis: Redis) -> list[UsageRecord]:
    return [record async for record in ledger.records(redis, UPSTREAM)]


async def all_rollups(redis: Redis) -> list[Rollup]:
    return await ledger.rollups(redis, UPSTREAM, "2099-12-31", "2100-02-01")


async def by_batch(redis: Redis) -> list[tuple[str, Group, tuple[int, ...]]]:
    days = ledger.days(redis, UPSTREAM, "2099-12-31", "2100-02-01", by_batch=True)
    return [(day.name, *one) async for day in days for one in day.sums]


def as_reconciled(records: Iterable[UsageRecord]) -> list[UsageRecord]:
    """Return the last word about each call."""
    return list({record.hold: record for record in records}.values())


async def check(redis: Redis, rules: Rules) -> None:
    """Records, roll-ups and the budget over all tell the same."""
    last = as_reconciled(await all_records(redis))
    rollups = await all_rollups(redis)
    spent: Sums = await sums(redis, rules.budgets[0].key)
    known = sum(record.cost for record in last if record.source is not Source.SUSPECT)
    unknown = sum(record.cost for record in last if record.source is Source.SUSPECT)
    assert known == sum(rollup.cost for rollup in rollups) == spent.spent + spent.debt
    assert unknown == sum(rollup.suspect for rollup in rollups) == spent.suspect
    assert len(last) == sum(rollup.requests for rollup in rollups)
    assert sum(record.outcome == "ok" for record in last) == sum(rollup.answered for rollup in rollups)
    for field in ("prompt_tokens", "completion_tokens"):
        assert sum(getattr(one, field) for one in last) == sum(getattr(one, field) for one in rollups)
    await check_batches(redis, last, rollups)


async def check_batches(redis: Redis, last: Sequence[UsageRecord], rollups: Sequence[Rollup]) -> None:
    """The roll-ups by batch tell what the others do, day by day, and the records batch by batch."""
    per_day: Counter[tuple[str, int]] = Counter()
    for one in rollups:
        per_day.update({(one.day, place): count for place, count in enumerate(msgspec.structs.astuple(one)[5:])})
    per_batch: Counter[Group] = Counter()
    for record in last:
        per_batch[Group(record.project, batch=record.batch)] += record.cost
    for day, group, counts in await by_batch(redis):
        per_day.subtract({(day, place): count for place, count in enumerate(counts)})
        per_batch[group] -= counts[-2] + counts[-1]
    assert not any(per_day.values())
    assert not any(per_batch.values())


async def settle(worker: Worker, *ends: Settlement, rules: Rules) -> None:
    for end in ends:
        worker.held.pop(end.hold, None)
    await settlement.settle(worker.redis, worker.caller, [worker.settling(*ends, rules=rules)])


@pytest.fixture
def worker(redis: Redis, clock: Clock) -> Worker:
    return Worker(redis, clock, "one", ALL)


async def test_calls_settled_together_are_one_entry_and_few_counters(redis: Redis, worker: Worker) -> None:
    held = [await worker.take(10, 20) for _ in range(3)]
    await settle(worker, *(settlement_of(one, 4) for one in held), rules=held[0].rules)
    entries = [found async for _, found in ledger.entries(redis, UPSTREAM)]
    assert [[record.hold for record in found] for found in entries] == [[one.hold for one in held]]
    assert entries[0][0] == msgspec.structs.replace(record_of(held[0], 4), at=NOON)
    assert await all_rollups(redis) == [
        Rollup(
            day=TODAY,
            project="p",
            model=MODEL,
            provider="X",
            requests=3,
            answered=3,
            prompt_tokens=30,
            completion_tokens=9,
            cost=12,
        )
    ]
    assert await by_batch(redis) == [(TODAY, Group("p", batch="batch_1"), (3, 3, 30, 0, 9, 0, 12, 0))]


async def test_a_repeated_settling_tells_nothing_twice(redis: Redis, worker: Worker) -> None:
    held = await worker.take(10)
    call = worker.settling(settlement_of(held, 4), rules=held.rules)
    for _ in range(2):
        await settlement.settle(redis, worker.caller, [call])
    assert len(await all_records(redis)) == 1
    await check(redis, held.rules)


async def test_an_unknown_cost_is_suspect_and_a_lookup_corrects_it_in_its_own_day(
    redis: Redis, clock: Clock, worker: Worker
) -> None:
    known, held = await worker.take(10), await worker.take(10)
    await settle(worker, settlement_of(known, 4), settlement_of(held, None), rules=held.rules)
    assert [(one.cost, one.suspect) for one in await all_rollups(redis)] == [(0, 10), (4, 0)]
    await clock.forward(DAY)
    assert await suspects.close(redis, UPSTREAM, (await all_suspects(redis))[held.hold], 13)
    last = (await all_records(redis))[-1]
    assert (last.hold, last.cost, last.source, last.at) == (held.hold, 13, Source.RECONCILED, NOON + DAY)
    assert [(one.day, one.cost, one.suspect) for one in await all_rollups(redis)] == [(TODAY, 13, 0), (TODAY, 4, 0)]
    await check(redis, held.rules)


async def put_shard(redis: Redis, lane: str, named: dict[int, str]) -> None:
    """Write an unfinished shard of batch_1, of these lines."""
    reference, first, last = f"batch_1.{min(named)}.{len(named)}", min(named), max(named)
    lines = tuple(Line(index, name, b"{}") for index, name in named.items())
    entry = msgspec.msgpack.encode(Shard(reference, lane, first, last))
    payload = msgspec.msgpack.encode(ShardPayload(Terms(), lines))
    await redis.execute_command("HSET", keys.open_shards("batch_1"), reference, entry)
    await redis.execute_command("EXPIRE", keys.open_shards("batch_1"), 60)
    await redis.execute_command("SET", keys.shard(reference), payload, "EX", 60)


async def test_a_call_that_nobody_tells_of_has_the_name_of_its_line_while_its_shard_is_there(
    redis: Redis, worker: Worker
) -> None:
    held = [await worker.take(10) for _ in range(4)]
    places = [int(one.hold.split(".")[1]) for one in held]
    await put_shard(redis, "lane", {places[0]: "zero", places[3]: "three"})
    await put_shard(redis, "other", {places[1]: "one"})  # between; that of the third was finished by others
    await end_lease(redis, worker.name)
    await suspects.abandon(redis, UPSTREAM, worker.name)
    told = {one.hold: (one.custom_id, one.asked) for one in await all_records(redis)}
    assert [told[one.hold] for one in held] == [("zero", "lane"), ("one", "other"), ("", ""), ("three", "lane")]


async def test_what_a_silent_owner_held_is_suspect_in_the_name_of_its_batch(redis: Redis, worker: Worker) -> None:
    await redis.execute_command("HSET", "bm:{batch_1}:batch", "project", "evals", "tags", b'["team=a"]')
    await redis.execute_command("EXPIRE", "bm:{batch_1}:batch", 60)
    held = await worker.take(10)
    await end_lease(redis, worker.name)
    assert await suspects.abandon(redis, UPSTREAM, worker.name) == 1
    (told,) = await all_records(redis)
    assert (told.project, told.tags, told.batch, told.cost) == ("evals", ("team=a",), "batch_1", 10)
    await settle(worker, settlement_of(held, 7, project="evals"), rules=held.rules)
    (rollup,) = await all_rollups(redis)
    assert (rollup.provider, rollup.requests, rollup.cost, rollup.suspect) == ("X", 1, 7, 0)
    await check(redis, held.rules)


@pytest.mark.parametrize("closed", [0, 3, 15])
async def test_a_late_bill_corrects_what_was_closed(redis: Redis, clock: Clock, worker: Worker, closed: int) -> None:
    held, other = await worker.take(10), await worker.take(10)
    await end_lease(redis, worker.name)
    await suspects.abandon(redis, UPSTREAM, worker.name)
    assert await suspects.close(redis, UPSTREAM, (await all_suspects(redis))[held.hold], closed)
    await check(redis, held.rules)
    await clock.forward(DAY)
    await settle(worker, settlement_of(held, 7), Settlement(other.hold, 10, 0, 0), rules=held.rules)
    assert {one.day for one in await all_rollups(redis)} == {TODAY}
    assert [one.cost for one in as_reconciled(await all_records(redis))] == [7, 0]
    await check(redis, held.rules)


async def test_records_are_read_by_time_and_project(redis: Redis, clock: Clock, worker: Worker) -> None:
    first = await worker.take(10)
    await settle(worker, settlement_of(first, 1, project="a"), rules=first.rules)
    await clock.forward(DAY)
    second = await worker.take(10)
    await settle(worker, settlement_of(second, 2, project="b"), rules=second.rules)

    async def costs(**wanted: int | str) -> list[int]:
        return [one.cost async for one in ledger.records(redis, UPSTREAM, **wanted)]  # type: ignore[arg-type]

    assert await costs() == [1, 2]
    assert await costs(since_ms=NOON + 1) == [2]
    assert await costs(until_ms=NOON + DAY) == [1]
    assert await costs(project="b") == [2]
    assert [one.day for one in await ledger.rollups(redis, UPSTREAM, TOMORROW, TOMORROW)] == [TOMORROW]


async def test_records_are_kept_by_count_and_age_and_rollups_longer(redis: Redis, clock: Clock, worker: Worker) -> None:
    for _ in range(4):
        held = [await worker.take(10) for _ in range(2)]
        await settle(worker, *(settlement_of(one, 1) for one in held), rules=held[0].rules)
        await clock.forward(DAY)
    assert await ledger.trim(redis, UPSTREAM, keep_records=8, keep_days=30) == 0
    assert await ledger.trim(redis, UPSTREAM, keep_records=5, keep_days=30) == 4
    assert len(await all_records(redis)) == 4
    assert await ledger.trim(redis, UPSTREAM, keep_records=5, keep_days=1) == 2
    assert {one.at for one in await all_records(redis)} == {NOON + 3 * DAY}
    assert sum(one.requests for one in await all_rollups(redis)) == 8
    await ledger.drop_rollups(redis, UPSTREAM, clock.now // ledger.DAY_MS, 2)
    assert [one.day for one in await all_rollups(redis)] == ["2100-01-03", "2100-01-04"]
    assert [day for day, _, _ in await by_batch(redis)] == ["2100-01-03", "2100-01-04"]


async def test_a_user_key_stays_what_it_was(redis: Redis) -> None:
    first = await ledger.user_key(redis, UPSTREAM)
    assert len(first) == 32
    assert await ledger.user_key(redis, UPSTREAM) == first


COST = st.none() | st.integers(0, 15)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 10)),
        st.tuples(st.just("settle"), st.lists(st.tuples(st.integers(0, 9), COST), min_size=1, max_size=4)),
        st.tuples(st.just("repeat"), st.just(0)),
        st.tuples(st.just("abandon"), st.just(0)),
        st.tuples(st.just("close"), st.integers(0, 15)),
        st.tuples(st.just("later"), st.just(0)),
    ),
    max_size=30,
)


class Books:
    """A worker that lives through random steps; a hold is settled once, be it late."""

    def __init__(self, worker: Worker, clock: Clock) -> None:
        self.worker, self.clock, self.redis = worker, clock, worker.redis
        self.open: list[Held] = []
        self.last: Settling | None = None

    async def step(self, what: str, told: object) -> None:
        match what, told:
            case "take", int(bound):
                self.open.append(await self.worker.take(bound))
            case "settle", list(ends):
                await self._settle(ends)
            case "repeat", _ if self.last is not None:
                await settlement.settle(self.redis, self.worker.caller, [self.last])
            case "abandon", _:
                await end_lease(self.redis, self.worker.name)
                await suspects.abandon(self.redis, UPSTREAM, self.worker.name)
            case "close", int(cost):
                for suspect in list((await all_suspects(self.redis)).values())[:1]:
                    await suspects.close(self.redis, UPSTREAM, suspect, cost)
            case "later", _:
                await self.clock.forward(DAY)

    async def _settle(self, ends: list[tuple[int, int | None]]) -> None:
        chosen = {place % len(self.open): cost for place, cost in ends} if self.open else {}
        if not chosen:
            return
        picked = [(self.open[place], cost) for place, cost in chosen.items()]
        self.open = [held for place, held in enumerate(self.open) if place not in chosen]
        parts = [settlement_of(held, cost) for held, cost in picked]
        self.last = self.worker.settling(*parts, rules=picked[0][0].rules)
        await settlement.settle(self.redis, self.worker.caller, [self.last])


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_records_rollups_and_budget_agree_after_anything(steps: list[tuple[str, object]]) -> None:
    async def live() -> None:
        redis = fakeredis.FakeAsyncRedis()
        with pytest.MonkeyPatch.context() as patch:
            control_time(patch)
            clock = Clock(redis)
            await clock.set(NOON)
            worker = Worker(redis, clock, "one", ALL)
            books, rules = Books(worker, clock), worker.rules()
            for what, told in steps:
                await books.step(what, told)
                await check(redis, rules)
        await redis.aclose()

    asyncio.run(live())


def test_chats_are_one_batch_of_their_project() -> None:
    """There may be millions a day, each with a batch of its own."""
    chats = [used(0, batch=f"batch_{number}", custom_id=f"batch_{number}", cost=5) for number in range(3)]
    rows = {field: sums for which, field, sums in ledger.changes([*chats, used(1, cost=7)]) if which == 2}
    assert sorted(rows.values()) == ["1 1 0 0 0 0 7 0", "3 3 0 0 0 0 15 0"]
