"""Output and error files: they grow while the batch runs, and are written once it is over, whoever dies meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.producer.render import openai_line
from batchmill.service.compat import contents
from batchmill.service.compat.files import file_for, sweep
from batchmill.service.compat.growing import CutError, Growing
from batchmill.service.compat.ids import error_file_id, output_file_id
from batchmill.service.compat.outputs import write_outputs
from batchmill.service.context import Service
from batchmill.service.identity import OPERATOR
from batchmill.service.problems import ApiError
from batchmill.storage.blobs import StorageError
from batchmill.store import batches, files, keys, outputs, purge, service_keys
from batchmill.store.clock import now_ms
from batchmill.store.handed import Handed
from batchmill.store.model import LineState, Result
from batchmill.store.staging import Staging, new_batch_id

from .service_helpers import in_process, service_of
from .store_helpers import DAYS, MODEL, UPSTREAM, facts, line, put, result

DAY = 86_400


def answered(index: int) -> Result:
    return result(index, status_code=200, response=b'{"choices":[],"n":%d}' % index, cost=7)


def rejected(index: int) -> Result:
    body = b'{"error":{"message":"no","code":"bad"}}'
    return result(index, LineState.FAILED, status_code=400, response=body, request=b"{}")


class Running:
    """A batch whose lines get their results when a test says so."""

    def __init__(self, redis: Redis, batch_id: str) -> None:
        self.redis = redis
        self.id = batch_id
        self.output: list[bytes] = []
        self.errors: list[bytes] = []

    async def finish(self, *results: Result) -> None:
        await put(self.redis, self.id, *results)
        for each in results:
            (self.output if each.succeeded else self.errors).append(openai_line(self.id, each))

    def path(self, *, errors: bool = False) -> str:
        return f"/v1/files/{error_file_id(self.id) if errors else output_file_id(self.id)}"


async def running(redis: Redis, count: int, *, over_http: bool = True, **handed: Any) -> Running:
    staging = Staging(redis, UPSTREAM, retention_days=DAYS, batch_id=new_batch_id())
    await staging.add(MODEL, [line(index) for index in range(count)])
    said = Handed(created_at=await now_ms(redis) // 1000, **handed) if over_http else None
    return Running(redis, await staging.release(facts(count, content=staging.batch_id, handed=said)))


@pytest.fixture
async def service(redis: Redis, settings: Settings) -> Service:
    return service_of(redis, settings)


@pytest.fixture
async def client(redis: Redis, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(redis, settings, tasks=False) as client:
        yield client


def shown(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    return answer.status_code, answer.headers.get("x-incomplete"), answer.headers.get("x-last-line")


async def test_a_file_is_readable_from_the_first_result_on(redis: Redis, client: httpx.AsyncClient) -> None:
    batch = await running(redis, 4)
    assert (await client.get(batch.path())).status_code == 404
    await batch.finish(answered(2), rejected(0))
    for errors, lines in ((False, batch.output), (True, batch.errors)):
        answer = await client.get(batch.path(errors=errors) + "/content")
        assert answer.content == b"".join(lines)
        assert shown(answer) == (200, "true", "1")
        told = (await client.get(batch.path(errors=errors))).json()
        assert told["bytes"] == len(b"".join(lines))
        assert (told["purpose"], told["status"], told["expires_at"]) == ("batch_output", "uploaded", None)
        assert told["filename"] == f"{batch.id}_{'error' if errors else 'output'}.jsonl"
    assert (await client.get("/v1/files")).json()["data"] == []


async def test_a_reader_goes_on_where_it_stopped(redis: Redis, client: httpx.AsyncClient) -> None:
    batch = await running(redis, 1500)
    path = batch.path() + "/content"
    read = b""
    for start in range(0, 1500, 300):
        await batch.finish(*(rejected(n) if n % 3 == 0 else answered(n) for n in range(start, start + 300)))
        answer = await client.get(path, headers={"range": f"bytes={len(read)}-"})
        assert shown(answer)[0] == 206
        total = len(read) + len(answer.content)
        whole = "*" if start < 1200 else str(total)
        assert answer.headers["content-range"] == f"bytes {len(read)}-{total - 1}/{whole}"
        read += answer.content
    assert read == b"".join(batch.output)
    for first in (0, 1, 199, 200, 201, 777, 999):
        answer = await client.get(path, params={"after_line": first})
        assert answer.content == b"".join(batch.output[first:])
        assert shown(answer) == (200, None, "1000")
    middle = len(b"".join(batch.output[:450])) + 3
    answer = await client.get(path, headers={"range": f"bytes={middle}-{middle + 999}"})
    assert answer.content == read[middle : middle + 1000]
    assert (await client.get(path, headers={"range": f"bytes={len(read)}-"})).status_code == 416
    errors = await client.get(batch.path(errors=True) + "/content", params={"after_line": 499})
    assert errors.content == batch.errors[-1]


async def test_a_batch_that_is_validating_has_files_without_lines(client: httpx.AsyncClient) -> None:
    asked = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = (await client.post("/v1/batches", json=asked)).json()
    assert made["status"] == "validating"
    path = f"/v1/files/{made['x_output_file_id']}"
    assert (await client.get(path)).status_code == 404
    content = await client.get(f"{path}/content")
    assert (content.content, shown(content)) == (b"", (200, "true", "0"))
    beyond = await client.get(f"{path}/content", headers={"range": "bytes=0-"})
    assert shown(beyond) == (416, "true", "0")
    await client.post(f"/v1/batches/{made['id']}/cancel")
    assert (await client.get(f"{path}/content")).status_code == 404


async def test_a_reader_may_wait_for_more(
    redis: Redis, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await running(redis, 3)
    path = batch.path() + "/content"
    waiting = asyncio.create_task(client.get(path, params={"after_line": 0, "wait": 1}))
    await batch.finish(answered(0))
    assert (await waiting).content == batch.output[0]
    waiting = asyncio.create_task(
        client.get(path, headers={"range": f"bytes={len(batch.output[0])}-"}, params={"wait": 1})
    )
    await batch.finish(answered(1))
    assert (await waiting).content == batch.output[1]
    monkeypatch.setattr(contents, "_WAIT", 0.3)
    in_vain = await client.get(path, params={"after_line": 2, "wait": 1})
    assert (in_vain.content, shown(in_vain)) == (b"", (200, "true", "2"))


async def test_once_over_both_files_are_like_any(redis: Redis, client: httpx.AsyncClient, service: Service) -> None:
    batch = await running(redis, 3, output_seconds=3600)
    await batch.finish(answered(0), rejected(1))
    await write_outputs(service)
    assert (await batches.status(redis, batch.id)).files_at is None
    await batch.finish(answered(2))
    still = await client.get(batch.path() + "/content")
    assert shown(still) == (200, None, "2")
    refused = await client.delete(batch.path())
    assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
    await write_outputs(service)
    status = await batches.status(redis, batch.id)
    assert (status.files_at is not None, status.output_file, status.error_file) == (True, True, True)
    assert await redis.zcard(service_keys.to_finalize()) == 0
    listed = (await client.get("/v1/files", params={"purpose": "batch_output"})).json()["data"]
    assert [each["id"] for each in listed] == [error_file_id(batch.id), output_file_id(batch.id)]
    for errors, lines in ((False, batch.output), (True, batch.errors)):
        told = (await client.get(batch.path(errors=errors))).json()
        assert (told["status"], told["bytes"]) == ("processed", len(b"".join(lines)))
        assert told["expires_at"] == told["created_at"] + 3600
        answer = await client.get(batch.path(errors=errors) + "/content")
        assert answer.content == b"".join(lines)
        assert "x-incomplete" not in answer.headers
    part = await client.get(batch.path() + "/content", headers={"range": f"bytes={len(batch.output[0])}-"})
    assert part.content == batch.output[1]
    after = await client.get(batch.path() + "/content", params={"after_line": 1, "wait": 1})
    assert after.content == batch.output[1]


async def test_a_file_that_the_storage_lost_is_rendered_from_its_results(
    redis: Redis, client: httpx.AsyncClient, service: Service
) -> None:
    batch = await running(redis, 3)
    await batch.finish(answered(0), rejected(1), answered(2))
    await write_outputs(service)
    for errors, lines in ((False, batch.output), (True, batch.errors)):
        path = batch.path(errors=errors)
        await service.blobs.delete((await file_for(service, OPERATOR, path.rpartition("/")[2])).blob)
        answer = await client.get(path + "/content")
        assert (shown(answer), answer.content) == ((200, None, str(len(lines))), b"".join(lines))
    part = await client.get(batch.path() + "/content", headers={"range": f"bytes={len(batch.output[0])}-"})
    assert (part.status_code, part.content) == (206, batch.output[1])
    assert await purge.remove(redis, batch.id)
    assert (await client.get(batch.path() + "/content")).status_code == 404


async def test_an_empty_file_does_not_exist_and_a_deleted_one_does_not_come_back(
    redis: Redis, client: httpx.AsyncClient, service: Service
) -> None:
    batch = await running(redis, 1)
    await batch.finish(answered(0))
    await write_outputs(service)
    status = await batches.status(redis, batch.id)
    assert (status.output_file, status.error_file) == (True, False)
    for path in (batch.path(errors=True), batch.path(errors=True) + "/content"):
        assert (await client.get(path)).status_code == 404
    kept = await files.get(redis, output_file_id(batch.id))
    assert kept is not None
    assert kept.expires_at == kept.created_at + 30 * DAY
    assert (await client.delete(batch.path())).json()["deleted"] is True
    await write_outputs(service)
    for path in (batch.path(), batch.path() + "/content"):
        assert (await client.get(path)).status_code == 404
    assert await service.blobs.names(kept.blob.partition("/")[0]) == []


async def test_a_batch_of_the_command_line_has_files_but_none_in_storage(
    redis: Redis, client: httpx.AsyncClient, service: Service
) -> None:
    batch = await running(redis, 1, over_http=False)
    await batch.finish(answered(0))
    await write_outputs(service)
    assert (await batches.status(redis, batch.id)).files_at is None
    answer = await client.get(batch.path() + "/content")
    assert (answer.content, shown(answer)) == (batch.output[0], (200, None, "1"))


async def test_who_dies_while_writing_is_followed_by_another(
    redis: Redis, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await running(redis, 2)
    await batch.finish(answered(0), rejected(1))
    put_file, told = files.put, []

    async def dies(*arguments: Any) -> Any:
        told.append(arguments)
        if len(told) == 2:
            raise asyncio.CancelledError
        return await put_file(*arguments)

    monkeypatch.setattr(files, "put", dies)
    with pytest.raises(asyncio.CancelledError):
        await write_outputs(service)
    monkeypatch.undo()
    assert await files.get(redis, output_file_id(batch.id)) is not None
    await write_outputs(service)  # the dead one's lease stands
    assert (await batches.status(redis, batch.id)).files_at is None
    await redis.delete(service_keys.finalizing(batch.id))  # as its end does
    await asyncio.gather(write_outputs(service), write_outputs(service))
    status = await batches.status(redis, batch.id)
    assert (status.output_file, status.error_file) == (True, True)
    found = await files.page(redis, None, limit=9)
    assert found is not None
    assert len(found[0]) == 2


async def test_who_is_too_slow_brings_no_deleted_file_back(
    redis: Redis, client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await running(redis, 1)
    await batch.finish(answered(0))
    put_blob, slow = service.blobs.put, [True]

    async def overtaken(name: str, parts: AsyncIterator[bytes]) -> int:
        if slow:
            slow.clear()
            await redis.delete(service_keys.finalizing(batch.id))  # its lease is over
            await write_outputs(service)
            await client.delete(batch.path())
        return await put_blob(name, parts)

    monkeypatch.setattr(service.blobs, "put", overtaken)
    await write_outputs(service)
    assert (await client.get(batch.path())).status_code == 404
    await sweep(redis, service.blobs)
    assert await service.blobs.names("output") == []


async def test_storage_that_fails_for_one_batch_keeps_nobody_else_waiting(
    redis: Redis, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await running(redis, 1), await running(redis, 1)
    await first.finish(answered(0))
    await second.finish(answered(0))
    put_blob = service.blobs.put

    async def full(name: str, parts: AsyncIterator[bytes]) -> int:
        if first.id in name:
            raise StorageError("the disk is full")
        return await put_blob(name, parts)

    monkeypatch.setattr(service.blobs, "put", full)
    await write_outputs(service)
    assert await outputs.waiting(redis) == [first.id]
    assert (await batches.status(redis, second.id)).output_file
    stuck = await batches.status(redis, first.id)
    assert (stuck.blocked_by, "storage of files" in (stuck.blocked_on or "")) == (("storage",), True)
    assert 0 < await redis.pttl(service_keys.finalizing(first.id)) <= 5000  # then somebody tries again
    monkeypatch.undo()
    await redis.delete(service_keys.finalizing(first.id))
    await write_outputs(service)
    assert (await batches.status(redis, first.id)).blocked_on is None


async def test_a_batch_that_is_gone_waits_no_more(redis: Redis, service: Service) -> None:
    batch = await running(redis, 1)
    await batch.finish(answered(0))
    await redis.delete(keys.batch(batch.id))
    await write_outputs(service)
    assert await outputs.waiting(redis) == []


async def test_results_that_vanish_break_the_answer_off(redis: Redis) -> None:
    batch = await running(redis, 2)
    await batch.finish(answered(0))
    growing = Growing(redis, batch.id, errors=False)
    assert [part async for part in growing.from_line(0, 1)] == batch.output
    with pytest.raises(CutError):
        [part async for part in growing.from_line(0, 2)]


async def test_what_no_batch_has_is_no_file(service: Service) -> None:
    for file_id in ("file-out-00", "file-err-00", "file-00", "output/x"):
        with pytest.raises(ApiError, match="No such File object"):
            await file_for(service, OPERATOR, file_id)


async def test_what_is_purged_while_its_files_are_written_does_not_come_back(
    redis: Redis, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await running(redis, 2)
    await batch.finish(answered(0), rejected(1))
    write = outputs.mark_written

    async def purged_before(*arguments: Any, **more: Any) -> bool:
        assert await purge.remove(redis, batch.id)
        return await write(*arguments, **more)

    monkeypatch.setattr(outputs, "mark_written", purged_before)
    await write_outputs(service)
    for file_id in (output_file_id(batch.id), error_file_id(batch.id)):
        assert await files.get(redis, file_id) is None
    await sweep(redis, service.blobs)
    assert await service.blobs.names("output/") == await service.blobs.names("errors/") == []
