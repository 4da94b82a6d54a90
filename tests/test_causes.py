"""Why lines failed: each result is read once by a gateway, however often somebody asks."""

import asyncio

import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.service.compat import causes
from batchmill.service.compat.causes import causes_of_batch
from batchmill.store import batches, records
from batchmill.store.model import LineState, Result
from batchmill.store.records import Recording, record

from .service_helpers import service_of
from .store_helpers import named_batch

RETENTION = 3600


def failure(index: int, code: str = "context_length_exceeded") -> Result:
    return Result(index, f"line-{index}", "m", LineState.FAILED, error_code=code, error_message="Too long.")


def success(index: int) -> Result:
    return Result(index, f"line-{index}", "m", LineState.SUCCEEDED, 200, b"{}")


async def put(redis: Redis, batch_id: str, *results: Result) -> None:
    await record(redis, [Recording(batch_id, results)], "w", RETENTION)


async def test_results_are_read_once_however_many_ask(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = await named_batch(redis, 40, name="b")
    service, seen, follow = service_of(redis, settings), [], records.follow

    def counted(redis: Redis, batch_id: str, cursor: str, *, wait: bool) -> object:
        async def entries() -> object:
            async for entry in follow(redis, batch_id, cursor, wait=wait):
                seen.append(entry.cursor)
                yield entry

        return entries()

    monkeypatch.setattr(records, "follow", counted)

    async def look() -> causes.Causes:
        return await causes_of_batch(service, await batches.status(redis, batch_id))

    assert (await look()).failed == 0
    await put(redis, batch_id, *(success(index) for index in range(10)))
    assert ((await look()).failed, seen) == (0, [])  # none failed: there is nothing to read
    await put(redis, batch_id, failure(10), failure(11), failure(12, "other"))
    told = await asyncio.gather(look(), look(), look())
    assert {each.failed for each in told} == {3}
    assert [(cause.code, cause.count) for cause in told[0].data] == [("context_length_exceeded", 2), ("other", 1)]
    service.moments.forget()
    await put(redis, batch_id, success(13), failure(14))
    assert (await look()).failed == 4
    await put(redis, batch_id, *(success(index) for index in range(15, 40)))
    assert (await look()).data[0].custom_ids == ("line-10", "line-11", "line-14")
    assert len(seen) == len(set(seen)) == 15  # each once; nothing after the last that failed


async def test_only_so_many_batches_are_remembered(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causes, "_MOST_READERS", 2)
    service = service_of(redis, settings)
    made = [await named_batch(redis, 2, name=name) for name in "abc"]
    for batch_id in [*made, *made]:
        await put(redis, batch_id, failure(0))
        assert (await causes_of_batch(service, await batches.status(redis, batch_id))).failed == 1
