"""What a batch says of itself, what is left of a shard, and what cancelling does."""

from pathlib import Path

import pytest
from redis.asyncio import Redis

from batchmill.config.settings import load
from batchmill.openrouter.client import Upstream
from batchmill.store import batch_index, batches, keys, lanes, presence
from batchmill.store.endings import cancel
from batchmill.store.errors import UnknownBatchError
from batchmill.store.lanes import Ending
from batchmill.store.model import BatchState, LineState
from batchmill.store.staging import BatchFacts, requeue_lost
from batchmill.workers.maintenance import Maintenance

from .store_helpers import (
    DAYS,
    LEASE,
    MODEL,
    RETENTION,
    UPSTREAM,
    all_results,
    batch_of,
    claim,
    complete,
    end_leases,
    facts,
    leased,
    line,
    put,
    queued,
    result,
    set_pulse,
    staged,
)

NOBODY = f"no worker for {UPSTREAM}; `batchmill worker` starts one"


async def alive(redis: Redis, *workers: str, ago: float = 0) -> None:
    """Let workers have given a sign of life."""
    now, _ = await redis.execute_command("TIME")
    for worker in workers:
        await redis.zadd(keys.workers(UPSTREAM), {worker: int((now - ago) * 1000)})
    await redis.expire(keys.workers(UPSTREAM), 60)


async def test_an_unknown_batch_is_named(redis: Redis) -> None:
    with pytest.raises(UnknownBatchError, match="no batch 'batch_x'"):
        await batches.status(redis, "batch_x")
    with pytest.raises(UnknownBatchError, match="no batch 'batch_x'"):
        await cancel(redis, "batch_x", retention_days=DAYS)
    assert not await batches.exists(redis, "batch_x")
    assert await batches.open_shards(redis, "batch_x") == []


async def test_a_staged_batch_is_not_there_yet(redis: Redis) -> None:
    staging = await staged(redis, 1)
    await staging._stage_refused(2, [result(1, LineState.FAILED)])
    assert not await batches.exists(redis, staging.batch_id)
    with pytest.raises(UnknownBatchError):
        await batches.status(redis, staging.batch_id)


async def test_the_sums_hold_even_when_workers_boast(redis: Redis) -> None:
    """A worker may still say that it has lines in the air that another has recorded by now."""
    batch_id = await batch_of(redis, 3)
    await alive(redis, "one")
    await put(redis, batch_id, result(0), worker="one", in_air=3)
    status = await batches.status(redis, batch_id)
    assert (status.pending, status.running, status.done) == (0, 2, 1)


async def test_a_batch_that_nobody_works_on_says_so(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    assert (await batches.status(redis, batch_id)).blocked_on == NOBODY
    await alive(redis, "dead", ago=60)
    assert (await batches.status(redis, batch_id)).blocked_on == NOBODY
    assert await presence.workers_alive(redis, UPSTREAM) == 0

    await alive(redis, "one")
    assert await presence.workers_alive(redis, UPSTREAM) == 1
    waiting = (await batches.status(redis, batch_id)).blocked_on
    assert waiting == "no free place: the workers are busy with other lines"


async def test_an_alarm_is_said_even_of_lines_that_seem_to_be_in_the_air(redis: Redis) -> None:
    batch_id = await batch_of(redis, 3)
    await alive(redis, "one")
    # as a restored copy has it, of a worker that lives on
    await redis.execute_command("HSET", keys.air(batch_id), "one", 3)
    await redis.expire(keys.air(batch_id), 60)
    assert (await batches.status(redis, batch_id)).blocked_by == ()
    await redis.execute_command("HSET", keys.books(UPSTREAM), "alarm", b'{"seen":7}')
    status = await batches.status(redis, batch_id)
    assert (status.running, status.blocked_by) == (0, ("alarm",))
    assert "accept-restored" in (status.blocked_on or "")


async def test_a_batch_says_which_limit_it_waits_for(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    await alive(redis, "one")
    await batches.say_blocked(redis, UPSTREAM, MODEL, "pause", "limit of the model", seconds=60)
    await batches.say_blocked(redis, UPSTREAM, "other/model", "pause", "limit of another", seconds=60)
    await batches.say_blocked(redis, UPSTREAM, ":free", "pause", "limit of free ones", seconds=60)
    assert (await batches.status(redis, batch_id)).blocked_on == "limit of the model"
    await batches.say_blocked(redis, UPSTREAM, "account", "pause", "limit of the account", seconds=60)
    await batches.say_blocked(redis, UPSTREAM, "refused", "pause", "no credits", seconds=60)
    said = (await batches.status(redis, batch_id)).blocked_on or ""
    assert set(said.split("; ")) == {"limit of the model", "limit of the account", "no credits"}
    assert await batches.account_refusal(redis, UPSTREAM) == "no credits"
    await presence.forget_refusal(redis, UPSTREAM)
    assert await batches.account_refusal(redis, UPSTREAM) is None

    await put(redis, batch_id, worker="one", in_air=1)
    assert (await batches.status(redis, batch_id)).blocked_on is None, "something moves"


async def test_free_models_wait_for_their_common_limit(redis: Redis) -> None:
    staging = await staged(redis, 1, model="maker/model:free")
    batch_id = await staging.release(BatchFacts(total=1, models={"maker/model:free": 1}, content="free"))
    await alive(redis, "one")
    await batches.say_blocked(redis, UPSTREAM, ":free", "pause", "limit of free ones", seconds=60)
    assert (await batches.status(redis, batch_id)).blocked_on == "limit of free ones"


async def test_the_newest_come_first(redis: Redis) -> None:
    ids = [await batch_of(redis, 1, content=str(number)) for number in range(3)]
    for age, batch_id in enumerate(reversed(ids)):
        await redis.zadd(keys.batches(), {batch_id: 1_000_000 - age})
    await redis.delete(keys.batch(ids[1]))
    assert [status.id for status in await batch_index.newest(redis, 3)] == [ids[2], ids[0]]
    assert [status.id for status in await batch_index.newest(redis, 1)] == [ids[2]]


async def test_batches_that_expired_leave_the_list(redis: Redis) -> None:
    old, kept, new = [await batch_of(redis, 1, content=str(number)) for number in range(3)]
    for batch_id in (old, kept):
        await redis.zadd(keys.batches(), {batch_id: 1})
    for batch_id in (old, new):
        await redis.delete(keys.batch(batch_id))
    await batch_index.drop_expired(redis, DAYS)
    assert await redis.zrange(keys.batches(), 0, -1) == [kept.encode(), new.encode()]


async def test_an_unfinished_batch_outlives_its_retention(redis: Redis) -> None:
    """A batch that a limit of fifty requests a day makes wait for months must not vanish with its paid results."""
    batch_id = await batch_of(redis, 1, 1)
    await put(redis, batch_id, result(0), in_air=1)
    (held,) = await claim(redis, room=1)
    mine = [name for name in await redis.keys("*") if await redis.ttl(name) > 0]
    assert len(mine) == 10
    for name in mine:
        await redis.expire(name, RETENTION // 3)
    await batches.keep(redis, batch_id, DAYS)
    for name in mine:
        assert await redis.ttl(name) > RETENTION - 60, name

    await redis.expire(keys.job(held.reference), 1000)
    await batches.keep(redis, batch_id, DAYS)
    assert await redis.ttl(keys.job(held.reference)) <= 1000, "nothing to do before half of it is over"


@pytest.mark.parametrize(
    ("first", "last", "recorded"),
    [
        (0, 8, []),
        (0, 8, [0]),
        (0, 8, [7]),
        (0, 8, [8]),
        (0, 8, [0, 7, 8]),
        (0, 8, range(9)),
        (7, 9, [6, 8, 10]),
        (8, 16, [8, 15, 16]),
        (13, 30, [12, 14, 23, 24, 30, 31]),
    ],
)
async def test_lines_with_a_result_are_left_out(redis: Redis, first: int, last: int, recorded: list[int]) -> None:
    total = 40
    sizes = [size for size in (first, last - first + 1, total - last - 1) if size]
    batch_id = await batch_of(redis, *sizes)
    reference = f"{batch_id}.{1 if first else 0}.{last - first + 1}"
    await put(redis, batch_id, *(result(index) for index in recorded))
    work = await batches.load(redis, reference, first, last)
    assert work is not None
    assert work.unsent is None
    assert [left.index for left in work.lines] == [n for n in range(first, last + 1) if n not in recorded]


async def test_a_shard_with_gaps_knows_its_lines(redis: Redis) -> None:
    """Lines of two models lie in turn, so a shard's indexes have gaps."""
    staging = await staged(redis)
    await staging.add(MODEL, [line(index) for index in (0, 9, 18)])
    await staging.add("other", [line(index) for index in range(18) if index != 9 and index])
    batch_id = await staging.release(facts(19))
    await put(redis, batch_id, result(9), result(10))
    work = await batches.load(redis, f"{batch_id}.0.3", 0, 18)
    assert work is not None
    assert [left.index for left in work.lines] == [0, 18]
    assert [shard.first for shard in await batches.open_shards(redis, batch_id)] == [0, 1]


async def test_a_shard_that_is_finished_or_gone_has_no_work(redis: Redis) -> None:
    batch_id = await batch_of(redis, 1, 1)
    (held,) = await claim(redis, room=1)
    await complete(redis, [held])
    assert await batches.load(redis, held.reference, 0, 0) is None
    await redis.delete(keys.batch(batch_id))
    assert await batches.load(redis, f"{batch_id}.1.1", 1, 1) is None


async def test_cancelling_is_for_all_to_see(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    other = await batch_of(redis, 1, content="other")
    assert await batches.stopped_among(redis, [batch_id, other]) == {}
    assert await batches.stopped_among(redis, []) == {}
    async with redis.pubsub() as subscription:
        await subscription.subscribe(keys.wake(UPSTREAM))
        await subscription.get_message(timeout=5)
        assert await batches.mark_stopping(redis, batch_id, BatchState.CANCELLING) is BatchState.CANCELLING
        message = await subscription.get_message(timeout=5)
    assert message is not None
    assert message["data"] == f"!{batch_id}".encode()
    stopped = dict.fromkeys((batch_id, "batch_gone"), LineState.CANCELLED)
    assert await batches.stopped_among(redis, [batch_id, other, "batch_gone"]) == stopped
    work = await batches.load(redis, f"{batch_id}.0.2", 0, 1)
    assert work is not None
    assert work.unsent is LineState.CANCELLED
    first_asked = (await batches.status(redis, batch_id)).cancelling_at
    assert await batches.mark_stopping(redis, batch_id, BatchState.CANCELLING) is BatchState.CANCELLING
    assert (await batches.status(redis, batch_id)).cancelling_at == first_asked


async def test_a_cancelled_content_can_be_handed_in_again(redis: Redis) -> None:
    first = await batch_of(redis, 1, content="same")
    await batches.mark_stopping(redis, first, BatchState.CANCELLING)
    second = await batch_of(redis, 1, content="same")
    assert second != first
    await batches.mark_stopping(redis, first, BatchState.CANCELLING)
    assert await batches.by_content(redis, "same") == second, "it is the other's now"


async def test_a_finished_batch_can_not_be_cancelled(redis: Redis) -> None:
    batch_id = await batch_of(redis, 1)
    await complete(redis, await claim(redis))
    assert await batches.mark_stopping(redis, batch_id, BatchState.CANCELLING) is BatchState.COMPLETED
    assert (await batches.status(redis, batch_id)).state is BatchState.COMPLETED


async def test_cancelling_needs_no_worker(redis: Redis) -> None:
    """Not even for a shard that was lost between two steps, or that nobody queued yet."""
    batch_id = await batch_of(redis, 2, 2, 2)
    lost, unqueued = await claim(redis, room=4)
    await lanes.finish(redis, lost, Ending.LET_GO)
    await lanes.finish(redis, unqueued, Ending.LET_GO)
    assert await cancel(redis, batch_id, retention_days=DAYS) is BatchState.CANCELLED
    assert {found.state for found in await all_results(redis, batch_id)} == {LineState.CANCELLED}
    assert len(await all_results(redis, batch_id)) == 6
    assert (await queued(redis), await leased(redis)) == ([], [])


async def test_cancelling_leaves_a_worker_its_shard(redis: Redis) -> None:
    batch_id = await batch_of(redis, 1, 1)
    (held,) = await claim(redis, room=1)
    assert await cancel(redis, batch_id, retention_days=DAYS) is BatchState.CANCELLING
    await complete(redis, [held])
    status = await batches.status(redis, batch_id)
    assert (status.state, status.succeeded, status.cancelled) == (BatchState.CANCELLED, 1, 1)


async def test_one_taker_has_a_shard(redis: Redis) -> None:
    batch_id = await batch_of(redis, 1)
    reference = f"{batch_id}.0.1"

    async def take(run: str) -> bool:
        return await lanes.take(redis, UPSTREAM, MODEL, reference, run, lease=LEASE) is not None

    assert await take("one")
    assert (await queued(redis), await leased(redis)) == ([], [reference])
    assert await take("one"), "the reply was lost, the call is repeated"
    assert not await take("two")
    assert await requeue_lost(redis, UPSTREAM, batch_id, retention_days=DAYS) == []
    await set_pulse(redis)
    await end_leases(redis, reference)
    renewal = (await lanes.renew(redis, UPSTREAM, {MODEL: []}, lease=LEASE))[MODEL]
    assert renewal.recovered == (reference,), "a taker that died loses it as any other"
    await complete(redis, await claim(redis))
    assert not await take("one")


async def test_maintenance_keeps_live_batches_in_order(redis: Redis, tmp_path: Path) -> None:
    """Lost shards are queued, batches that are gone leave the lists, those of other upstreams are left alone."""
    settings = load(environ={"BATCHMILL_BASE_URL": UPSTREAM, "BATCHMILL_DATA_DIR": str(tmp_path)})
    mine = await batch_of(redis, 1, content="mine")
    gone = await batch_of(redis, 1, content="gone")
    (lost,) = [held for held in await claim(redis) if held.batch_id == mine]
    await lanes.finish(redis, lost, Ending.LET_GO)
    await redis.delete(keys.batch(gone))
    await redis.expire(keys.batch(mine), 1000)

    upstream = Upstream(settings.upstream, settings.api_key, max_connections=1)
    await Maintenance(redis, upstream, settings, "worker").sweep()
    await upstream.aclose()
    assert await queued(redis) == [lost.reference]
    assert await batches.live(redis) == [mine]
    assert await redis.zrange(keys.batches(), 0, -1) == [mine.encode()]
    assert await redis.ttl(keys.batch(mine)) > 1000
