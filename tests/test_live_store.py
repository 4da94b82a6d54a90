"""Live tokens in Redis: what is said, how long it stays, and how a result is found after its end."""

import pytest
from redis.asyncio import Redis

from batchmill.openrouter.outcomes import Usage
from batchmill.store import batches, keys, live
from batchmill.store.live import Chunks, End, Heard, Post, Start
from batchmill.store.model import Line
from batchmill.store.records import START
from batchmill.store.staging import Staging

from .store_helpers import DAYS, MODEL, RETENTION, UPSTREAM, batch_of, facts, put, result

LIFE, KEEP = 500, 50
FIRST = Start("hold-1", 1, MODEL)
SECOND = Start("hold-2", 2, MODEL)


async def post(redis: Redis, batch_id: str, *said: live.Said, index: int = 0) -> None:
    await live.post(redis, [Post(batch_id, index, said)], life=LIFE, keep=KEEP)


async def hear(redis: Redis, batch_id: str, cursor: str = START, **how: str) -> Heard:
    return await live.listen(redis, batch_id, 0, cursor, **how)


async def batch_with_live_lines(redis: Redis, *live_indexes: int, total: int = 4) -> Staging:
    staging = Staging(redis, UPSTREAM, retention_days=DAYS)
    for first in range(0, total, 2):
        await staging.add(
            MODEL, [Line(n, f"line-{n}", b"{}", live=n in live_indexes) for n in range(first, min(first + 2, total))]
        )
    return staging


async def test_what_is_said_is_heard_in_order_and_a_new_call_drops_it(redis: Redis) -> None:
    end = End("hold-1", 3, "timeout", Usage(1, 2), 40)
    await post(redis, "batch_1", FIRST, Chunks("hold-1", 0, (b"{}", b'{"a":1}')))
    await post(redis, "batch_1", Chunks("hold-1", 2, (b"[]",)), end)
    heard = await hear(redis, "batch_1")
    assert heard.said == (
        FIRST,
        Chunks("hold-1", 0, (b"{}", b'{"a":1}')),
        Chunks("hold-1", 2, (b"[]",)),
        end,
    )
    await post(redis, "batch_1", SECOND)
    assert (await hear(redis, "batch_1", heard.cursor)).said == (SECOND,)
    assert (await hear(redis, "batch_1")).said == (SECOND,)


async def test_tokens_stay_for_their_life_and_for_a_while_after_the_end(redis: Redis) -> None:
    name = keys.live_tokens("batch_1", 0)
    await post(redis, "batch_1", FIRST, Chunks("hold-1", 0, (b"{}",)))
    assert KEEP < await redis.ttl(name) <= LIFE
    await post(redis, "batch_1", End("hold-1", 1, "ok"))
    assert 0 < await redis.ttl(name) <= KEEP
    await post(redis, "batch_1", SECOND)
    assert KEEP < await redis.ttl(name) <= LIFE


async def test_nothing_is_said_of_a_stream_that_is_gone(redis: Redis) -> None:
    await post(redis, "batch_1", Chunks("hold-1", 0, (b"{}",)), End("hold-1", 1, "ok"))
    assert not await redis.exists(keys.live_tokens("batch_1", 0))


async def test_many_lines_are_said_at_once(redis: Redis) -> None:
    posts = [Post(f"batch_{n}", n, (Start(f"hold-{n}", 1, MODEL),)) for n in range(5)]
    await live.post(redis, posts, life=LIFE, keep=KEEP)
    for number in range(5):
        assert (await live.listen(redis, f"batch_{number}", number, START)).said == (Start(f"hold-{number}", 1, MODEL),)


async def test_a_result_is_heard_after_the_end_only(redis: Redis) -> None:
    batch_id = await batch_of(redis, 3)
    await put(redis, batch_id, result(1), result(2))
    await post(redis, batch_id, FIRST, End("hold-1", 0, "ok"))
    heard = await hear(redis, batch_id)
    assert heard.result is None
    await put(redis, batch_id, result(0))
    after = await hear(redis, batch_id, heard.cursor, ended=heard.cursor)
    assert after.result == result(0)
    assert await live.result_of(redis, batch_id, 0) == result(0)


async def test_a_result_is_found_behind_pages_of_others(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_PAGE", 2)
    batch_id = await batch_of(redis, 8)
    assert await live.result_of(redis, batch_id, 0) is None
    await post(redis, batch_id, FIRST, End("hold-1", 0, "ok"))
    cursor = (await hear(redis, batch_id)).cursor
    await put(redis, batch_id, *(result(index) for index in range(7, -1, -1)))
    assert (await hear(redis, batch_id, cursor, ended=cursor)).result == result(0)
    assert await live.result_of(redis, batch_id, 0) == result(0)


async def test_live_lines_are_known_by_their_custom_ids(redis: Redis) -> None:
    staging = await batch_with_live_lines(redis, 3, 0)
    batch_id = await staging.release(facts(4))
    assert await live.lines(redis, batch_id) == ["line-0", "line-3"]
    assert await live.index_of(redis, batch_id, "line-3") == 3
    assert await live.index_of(redis, batch_id, "line-1") is None
    assert RETENTION - 60 < await redis.ttl(keys.live_lines(batch_id)) <= RETENTION


async def test_live_lines_last_as_long_as_their_batch_and_go_with_what_is_discarded(redis: Redis) -> None:
    staging = await batch_with_live_lines(redis, 1)
    batch_id = await staging.release(facts(4))
    await redis.expire(keys.live_lines(batch_id), 5)
    await redis.expire(keys.batch(batch_id), 5)
    await batches.keep(redis, batch_id, DAYS)
    assert await redis.ttl(keys.live_lines(batch_id)) > RETENTION // 2
    dropped = await batch_with_live_lines(redis, 1)
    assert await dropped.release(facts(4)) == batch_id
    assert await live.lines(redis, dropped.batch_id) == []


async def test_a_batch_without_live_lines_has_no_key_for_them(redis: Redis) -> None:
    batch_id = await batch_of(redis, 3)
    assert not await redis.exists(keys.live_lines(batch_id))
