"""The index of batches: by project, newest first, and stable under whatever comes or goes between two pages."""

from redis.asyncio import Redis

from batchmill.store import batch_index, keys, purge, service_keys
from batchmill.store.staging import Staging, batch_id_at, new_batch_id

from .store_helpers import DAYS, MODEL, UPSTREAM, claim, complete, facts, line


async def born(redis: Redis, number: int, project: str = "default", *, listed: bool = True) -> str:
    """Let a batch be, the younger the higher its number."""
    staging = Staging(redis, UPSTREAM, retention_days=DAYS, batch_id=f"batch_{number:012x}aa")
    await staging.add(MODEL, [line(0)])
    return await staging.release(facts(1, f"content-{number}", project=project, listed=listed))


async def enlist(redis: Redis, batch_id: str, project: str) -> None:
    """Put an intake into the index, as its creation does."""
    await redis.zadd(service_keys.index(None), {service_keys.in_index(batch_id, project): 0})
    await redis.zadd(service_keys.index(project), {batch_id: 0})


async def test_pages_are_newest_first_and_know_whether_there_is_more(redis: Redis) -> None:
    ids = [await born(redis, number) for number in range(5)]
    first = await batch_index.page(redis, None, None, 2)
    assert (list(first.ids), first.has_more) == ([ids[4], ids[3]], True)
    last = await batch_index.page(redis, None, ids[2], 2)
    assert (list(last.ids), last.has_more) == ([ids[1], ids[0]], False)
    assert (await batch_index.page(redis, None, ids[0], 2)).ids == ()
    assert [status.id for status in await batch_index.newest(redis, 3)] == [ids[4], ids[3], ids[2]]


async def test_a_project_sees_its_own(redis: Redis) -> None:
    mine = [await born(redis, number, "mine") for number in (1, 3)]
    other = await born(redis, 2, "other")
    assert (await batch_index.page(redis, "mine", None, 10)).ids == (mine[1], mine[0])
    assert (await batch_index.page(redis, "other", None, 10)).ids == (other,)
    assert (await batch_index.page(redis, "nobody", None, 10)).ids == ()
    assert (await batch_index.page(redis, None, None, 10)).ids == (mine[1], other, mine[0])
    assert (await batch_index.page(redis, "mine", other, 10)).ids == (mine[0],), (
        "another's id says no more than its time"
    )


async def test_what_comes_or_goes_between_two_pages_changes_no_other(redis: Redis) -> None:
    ids = [await born(redis, number) for number in range(4)]
    page = await batch_index.page(redis, None, None, 2)
    await born(redis, 9)
    await complete(redis, await claim(redis))
    assert await purge.remove(redis, page.ids[-1])
    assert (await batch_index.page(redis, None, page.ids[-1], 2)).ids == (ids[1], ids[0])


async def test_an_intake_is_in_it_and_a_line_of_a_chat_is_not(redis: Redis) -> None:
    await born(redis, 1, listed=False)
    await enlist(redis, "batch_000000000002aa", "mine")
    for project in (None, "mine"):
        assert (await batch_index.page(redis, project, None, 10)).ids == ("batch_000000000002aa",)
    assert (await batch_index.page(redis, "default", None, 10)).ids == ()
    assert await batch_index.newest(redis, 10) == []


async def test_what_has_expired_leaves_it_but_not_what_still_is(redis: Redis) -> None:
    gone, kept = await born(redis, 1, "mine"), await born(redis, 2, "mine")
    new = new_batch_id()
    for batch_id in (new, "batch_000000000003aa"):
        await enlist(redis, batch_id, "mine")
    await redis.execute_command("HSET", service_keys.intake("batch_000000000003aa"), "state", "failed")
    await redis.expire(service_keys.intake("batch_000000000003aa"), 60)
    await redis.delete(keys.batch(gone))
    await batch_index.drop_expired(redis, DAYS)
    for project in (None, "mine"):
        assert (await batch_index.page(redis, project, None, 10)).ids == (new, "batch_000000000003aa", kept)


def test_ids_sort_by_time_of_birth() -> None:
    assert batch_id_at(1_700_000_000.0) < batch_id_at(1_700_000_000.002) < batch_id_at(1_700_000_001)
    assert new_batch_id() < batch_id_at(5_000_000_000)
