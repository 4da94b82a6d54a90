"""A worker's sign of life, as far as the books go: holds that live as long as it does, and books that are older."""

import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.store import epoch, keys, metrics
from batchmill.store.epoch import Seen
from batchmill.store.gate import Ask, Caller, Candidate, Reply, Why, admit
from batchmill.store.rules import Rulebook
from batchmill.store.suspects import abandon, suspects
from batchmill.workers.epoch_file import EpochFile
from batchmill.workers.gatekeeper import Gatekeeper
from batchmill.workers.heartbeat import Heartbeat
from batchmill.workers.meter import Meter
from batchmill.workers.watch import LaneWatch

from .workers_helpers import Desk


class Worker:
    """The parts of a worker that a heartbeat needs."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.upstream = settings.upstream_name
        self.gatekeeper = Gatekeeper(redis, Caller(self.upstream, "worker-1", 15.0))
        dispatcher = Desk().dispatcher
        watch = LaneWatch(redis, dispatcher, self.gatekeeper, settings, "worker-1")  # type: ignore[arg-type]  # no arq
        self.parts = (redis, watch, dispatcher, self.gatekeeper, settings)
        self.heartbeat = Heartbeat(*self.parts)
        self.calls = 0

    def count_with(self, meter: Meter) -> None:
        self.heartbeat = Heartbeat(*self.parts, meter=meter)

    async def ask(self) -> Reply:
        self.calls += 1
        rules = Rulebook(self.upstream).rules("m", "default", None, 0)
        line = Candidate(f"batch_1.0.h{self.calls}", 5, 1)
        return (await admit(self.redis, self.gatekeeper.caller, self.calls, [Ask(rules, (line,))]))[0]


async def test_a_worker_knows_from_its_first_line_on_what_those_before_it_saw(redis: Redis, settings: Settings) -> None:
    """Before its first heartbeat: the books may have been restored while no worker ran."""
    EpochFile(settings).write(Seen("books-1", 50))
    worker = Worker(redis, settings)
    assert (await worker.ask()).why is Why.ALARM
    await worker.heartbeat.beat()
    standing = await epoch.alarm(redis, worker.upstream)
    assert standing is not None
    assert (standing.known, standing.seen, standing.found) == ("books-1", 50, 0)
    await epoch.accept(redis, worker.upstream, "operator")
    await worker.heartbeat.beat()
    assert (await worker.ask()).looked == 1


async def test_what_was_seen_is_kept_for_those_who_come_after(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch, "_TICK_MS", 0)
    worker = Worker(redis, settings)
    for _ in range(3):
        await worker.heartbeat.beat()
    kept = EpochFile(settings).read()
    assert (kept.epoch, worker.gatekeeper.caller.epoch) == (2, 2)
    assert kept.books


async def test_holds_never_expire_under_a_worker_that_lives(redis: Redis, settings: Settings) -> None:
    """Not a day after it was taken for dead, either: it holds again, and they are its own."""
    worker = Worker(redis, settings)
    await worker.ask()
    holds = keys.holds(worker.upstream, "worker-1")
    await redis.execute_command("ZADD", keys.owners(worker.upstream), 1, "worker-1")
    assert await abandon(redis, worker.upstream, "worker-1") == 1
    assert len(await suspects(redis, worker.upstream)) == 1
    assert 0 < await redis.ttl(holds) <= 86_400
    await worker.ask()
    await worker.heartbeat.beat()
    assert await redis.ttl(holds) == -1
    await worker.heartbeat.leave()


async def test_leaving_makes_suspects_of_what_is_still_held(redis: Redis, settings: Settings) -> None:
    worker = Worker(redis, settings)
    await worker.ask()
    await worker.heartbeat.leave()
    assert [suspect.hold for suspect in await suspects(redis, worker.upstream)] == ["batch_1.0.h1"]
    assert await redis.zcard(keys.owners(worker.upstream)) == 0


async def test_counts_that_redis_refuses_cost_neither_leases_nor_money(redis: Redis, settings: Settings) -> None:
    """A worker that leaves gives its holds away all the same, and what was counted is told once Redis takes it."""
    worker = Worker(redis, settings)
    meter = Meter(redis, worker.upstream)
    worker.count_with(meter)
    meter.booked("maker/model", 7)
    counters = keys.counted(worker.upstream)
    await redis.execute_command("SET", counters, "no hash", "EX", 60)
    await worker.heartbeat.beat()
    assert (await worker.ask()).looked == 1
    await worker.heartbeat.leave()
    assert [suspect.amount for suspect in await suspects(redis, worker.upstream)] == [5]
    await redis.execute_command("DEL", counters)
    await worker.heartbeat.beat()
    assert [series.value for series in await metrics.counted(redis, worker.upstream)] == [7]
