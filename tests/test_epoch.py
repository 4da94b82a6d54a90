"""Books that were restored from an older snapshot, or emptied, are noticed, and stop the fleet."""

import pytest
from redis.asyncio import Redis

from batchmill.store import audit, epoch, gate, keys
from batchmill.store.epoch import Seen, Sign

from .gate_helpers import LEASE_MS, Clock, Worker, fields
from .store_helpers import UPSTREAM

BOOKS = keys.books(UPSTREAM)
OWNERS = keys.owners(UPSTREAM)
TICK_MS = 5_000


async def tend(redis: Redis, seen: Seen, owner: str = "one") -> Sign:
    return await epoch.tend(redis, gate.Caller(UPSTREAM, owner, LEASE_MS / 1000), seen)


async def grown(redis: Redis, clock: Clock, ticks: int, seen: Seen | None = None) -> Seen:
    """Tend the books for so many ticks."""
    seen = seen or Seen()
    for _ in range(ticks):
        seen = (await tend(redis, seen)).seen
        await clock.forward(TICK_MS)
    return seen


async def refused(redis: Redis, clock: Clock, seen: Seen) -> bool:
    worker = Worker(redis, clock, "asks")
    worker.caller = gate.Caller(UPSTREAM, "asks", 1, epoch=seen.epoch)
    return (await worker.admit((0, 0))).why is gate.Why.ALARM


async def test_the_epoch_grows_while_anybody_works(redis: Redis, clock: Clock) -> None:
    seen = (await tend(redis, Seen())).seen
    assert seen == Seen((await fields(redis, BOOKS))["id"], 0)  # the newest may be lost with the server's last second
    assert (await tend(redis, seen)).seen == seen
    await clock.forward(TICK_MS - 1)
    assert (await tend(redis, Seen(), "two")).seen == seen
    await clock.forward(1)
    assert (await tend(redis, seen)).seen == Seen(seen.books, 1)
    await clock.forward(-3 * TICK_MS)  # a clock that went back
    assert (await tend(redis, seen)).seen == Seen(seen.books, 2)


async def test_a_sign_of_life_renews_the_lease_of_who_holds_something(redis: Redis, clock: Clock) -> None:
    await tend(redis, Seen())
    assert await redis.execute_command("ZCARD", OWNERS) == 0
    await Worker(redis, clock).take()
    await clock.forward(100)
    await tend(redis, Seen())
    assert float(await redis.execute_command("ZSCORE", OWNERS, "one")) == clock.now + LEASE_MS


async def test_an_older_snapshot_raises_the_alarm(redis: Redis, clock: Clock) -> None:
    await grown(redis, clock, 3)
    snapshot = await fields(redis, BOOKS)
    seen = await grown(redis, clock, 4, Seen(snapshot["id"], 2))
    await redis.execute_command("HSET", BOOKS, *(part for pair in snapshot.items() for part in pair))
    assert await refused(redis, clock, seen)  # by itself, before anybody has raised it
    sign = await tend(redis, seen)
    assert sign.alarm
    assert sign.seen == seen
    assert await epoch.alarm(redis, UPSTREAM) == epoch.Alarm(snapshot["id"], 6, 3, "one", clock.now)
    assert await refused(redis, clock, Seen())  # the whole fleet stands
    assert (await tend(redis, Seen(), "two")).alarm == sign.alarm
    assert (await fields(redis, BOOKS))["epoch"] == "3"


async def test_a_loss_of_the_last_seconds_is_none(redis: Redis, clock: Clock) -> None:
    seen = await grown(redis, clock, 4)
    await redis.execute_command("HINCRBY", BOOKS, "epoch", -1)
    assert not (await tend(redis, seen)).alarm
    assert not await refused(redis, clock, seen)


async def test_emptied_books_raise_the_alarm(redis: Redis, clock: Clock) -> None:
    seen = await grown(redis, clock, 4)
    await redis.delete(BOOKS)
    assert await refused(redis, clock, seen)
    newcomer = await tend(redis, Seen(), "new")
    assert not newcomer.alarm
    assert (await tend(redis, seen)).alarm
    assert (await tend(redis, newcomer.seen, "new")).alarm


@pytest.mark.parametrize("emptied", [True, False])
async def test_an_operator_accepts(redis: Redis, clock: Clock, emptied: bool) -> None:
    seen = await grown(redis, clock, 5)
    if emptied:
        await redis.delete(BOOKS)
    else:
        await redis.execute_command("HSET", BOOKS, "epoch", 1)
    other = Seen(seen.books, seen.epoch + 1)  # had seen a little more than the one that raised it
    assert (await tend(redis, seen)).alarm
    assert await epoch.accept(redis, UPSTREAM, "me")
    assert not await epoch.accept(redis, UPSTREAM, "me")
    assert await epoch.alarm(redis, UPSTREAM) is None
    for owner, known in (("one", seen), ("two", other), ("new", Seen())):
        assert not await refused(redis, clock, known)
        sign = await tend(redis, known, owner)
        assert not sign.alarm
        assert sign.seen.epoch >= known.epoch
        assert (sign.seen.books == seen.books) is not emptied
    (entry,) = await audit.entries(redis, UPSTREAM, 9)
    assert (entry.who, entry.what, entry.at) == ("me", "accept_restored", clock.now)
    assert entry.detail == {"seen": seen.epoch, "found": 0 if emptied else 1}


async def test_what_was_accepted_once_is_not_accepted_for_ever(redis: Redis, clock: Clock) -> None:
    seen = await grown(redis, clock, 5)
    await redis.delete(BOOKS)
    await tend(redis, seen)
    await epoch.accept(redis, UPSTREAM, "me")
    seen = (await tend(redis, seen)).seen
    await redis.delete(BOOKS)
    assert (await tend(redis, seen)).alarm
