"""`/v1/files`: looked at, listed by page, read by range, deleted, expired; and others' files, which do not exist."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.service.compat.files import local_copy, sweep
from batchmill.service.identity import EVERY_SCOPE, Identity
from batchmill.storage.blobs import MissingBlobError
from batchmill.store import files, service_keys
from batchmill.store.clock import now_ms

from .file_helpers import DAY, LINES, client, error_of, stored, uploaded
from .service_helpers import in_process, service_of

__all__ = ["client"]


async def test_a_file_is_uploaded_looked_at_read_and_deleted(client: httpx.AsyncClient) -> None:
    made = await uploaded(client)
    assert made["id"].startswith("file-")
    assert made == {
        "id": made["id"],
        "object": "file",
        "bytes": len(LINES),
        "created_at": made["created_at"],
        "expires_at": made["created_at"] + 30 * DAY,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    path = f"/v1/files/{made['id']}"
    assert (await client.get(path)).json() == made
    content = await client.get(f"{path}/content")
    assert content.content == LINES
    assert content.headers["content-length"] == str(len(LINES))
    assert "x-incomplete" not in content.headers
    assert (await client.delete(path)).json() == {"id": made["id"], "object": "file", "deleted": True}
    for gone in (await client.get(path), await client.delete(path), await client.get(f"{path}/content")):
        assert error_of(gone) == (404, None, "id", f"No such File object: {made['id']}")


async def test_files_are_listed_by_page_whatever_comes_and_goes(client: httpx.AsyncClient) -> None:
    made = [(await uploaded(client, name=f"{number}.jsonl"))["id"] for number in range(5)]
    everything = (await client.get("/v1/files")).json()
    assert [each["id"] for each in everything["data"]] == made[::-1]
    assert (everything["object"], everything["has_more"]) == ("list", False)
    assert (everything["first_id"], everything["last_id"]) == (made[4], made[0])
    page = (await client.get("/v1/files", params={"limit": 2})).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([made[4], made[3]], True)
    await uploaded(client)
    await client.delete(f"/v1/files/{made[3]}")  # the cursor itself, as a client does that deletes what it lists
    page = (await client.get("/v1/files", params={"limit": 2, "after": made[3]})).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([made[2], made[1]], True)
    page = (await client.get("/v1/files", params={"limit": 1, "after": made[1]})).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([made[0]], False)
    forwards = (await client.get("/v1/files", params={"order": "asc", "after": made[0], "limit": 2})).json()
    assert ([each["id"] for each in forwards["data"]], forwards["has_more"]) == ([made[1], made[2]], True)
    empty = (await client.get("/v1/files", params={"purpose": "batch_output"})).json()
    assert empty == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 10_001}, {"limit": "x"}, {"order": "up"}, {"after": "?"}])
async def test_a_list_that_can_t_be_meant(client: httpx.AsyncClient, query: dict[str, Any]) -> None:
    status, _, param, _ = error_of(await client.get("/v1/files", params=query))
    assert (status, param) == (400, next(iter(query)))


async def test_a_project_s_files_do_not_exist_for_others(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def by_header(_: object, request: Any) -> Identity:
        return Identity(project=request.headers.get("x-project"), scopes=EVERY_SCOPE)

    monkeypatch.setattr("batchmill.service.endpoints.identify", by_header)
    async with in_process(redis, settings, tasks=False) as client:
        made = await uploaded(client, headers={"x-project": "one"})
        other = {"x-project": "two"}
        path = f"/v1/files/{made['id']}"
        for call in (client.get(path, headers=other), client.delete(path, headers=other)):
            assert error_of(await call) == (404, None, "id", f"No such File object: {made['id']}")
        assert (await client.get(f"{path}/content", headers=other)).status_code == 404
        assert (await client.get("/v1/files", headers=other)).json()["data"] == []
        assert (await client.get("/v1/files", headers={"x-project": "one"})).json()["data"] == [made]
        assert (await client.get("/v1/files")).json()["data"] == [made]
        assert (await client.get(f"{path}/content")).content == LINES


@pytest.mark.parametrize(
    ("asked", "status", "answer"),
    [
        ("bytes=0-3", 206, LINES[:4]),
        ("bytes=10-", 206, LINES[10:]),
        ("bytes=-5", 206, LINES[-5:]),
        ("bytes=-999", 206, LINES),
        ("bytes=3-999", 206, LINES[3:]),
        ("bytes=0-0", 206, LINES[:1]),
        ("bytes=0-1,4-5", 200, LINES),
        ("bytes=5-3", 200, LINES),
        ("lines=1-2", 200, LINES),
        (f"bytes={len(LINES)}-", 416, b""),
        ("bytes=-0", 416, b""),
    ],
)
async def test_ranges(client: httpx.AsyncClient, asked: str, status: int, answer: bytes) -> None:
    made = await uploaded(client)
    got = await client.get(f"/v1/files/{made['id']}/content", headers={"range": asked})
    assert got.status_code == status
    if status == 416:
        assert got.headers["content-range"] == f"bytes */{len(LINES)}"
        assert got.json()["error"]["code"] == "invalid_range"
        return
    assert got.content == answer
    if status == 206:
        begin = LINES.index(answer) if answer != LINES[:1] else 0
        assert got.headers["content-range"] == f"bytes {begin}-{begin + len(answer) - 1}/{len(LINES)}"


async def test_what_did_not_change_is_not_sent_again(client: httpx.AsyncClient) -> None:
    path = f"/v1/files/{(await uploaded(client))['id']}/content"
    tag = (await client.get(path)).headers["etag"]
    again = await client.get(path, headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    part = {"range": "bytes=0-0"}
    assert (await client.get(path, headers=part | {"if-range": tag})).status_code == 206
    assert (await client.get(path, headers=part | {"if-range": '"another"'})).content == LINES
    assert (await client.get(path, params={"after_line": 1})).content == LINES.splitlines(keepends=True)[1]
    assert (await client.get(path, params={"after_line": 9})).content == b""
    assert error_of(await client.get(path, params={"after_line": -1}))[0] == 400


async def test_bytes_go_when_their_file_has_expired(redis: Redis, settings: Settings) -> None:
    service = service_of(redis, settings)
    async with in_process(redis, settings, tasks=False) as client:
        made, other = await uploaded(client), await uploaded(client)
        await sweep(redis, service.blobs)
        assert len(stored(settings)) == 2
        await redis.delete(service_keys.file(made["id"]))  # as its end does
        await redis.zadd(service_keys.file_ends(), {f"{made['id']} default": 1})
        await sweep(redis, service.blobs)
        assert [path.name for path in stored(settings)] == [other["id"]]
        assert [each["id"] for each in (await client.get("/v1/files")).json()["data"]] == [other["id"]]
        page = await client.get("/v1/files", params={"after": made["id"]})
        assert page.json()["data"] == []
        assert await redis.zcard(service_keys.file_ends()) == 1


async def test_bytes_whose_file_never_came_to_be_go_after_a_day(redis: Redis, settings: Settings) -> None:
    service = service_of(redis, settings)

    async def parts() -> AsyncIterator[bytes]:
        yield LINES

    await files.announce(redis, "file-lost", "default")
    await service.blobs.put("files/file-lost", parts())  # and here the gateway died
    await sweep(redis, service.blobs)
    assert len(stored(settings)) == 1
    ((member, end),) = await redis.zrange(service_keys.file_ends(), 0, -1, withscores=True)
    assert end == pytest.approx(await now_ms(redis) / 1000 + DAY, abs=5)
    await redis.zadd(service_keys.file_ends(), {member: 1})
    await sweep(redis, service.blobs)
    assert stored(settings) == []
    assert not await redis.exists(service_keys.file_ends())


async def test_a_local_copy_lasts_as_long_as_it_is_used(redis: Redis, settings: Settings) -> None:
    service = service_of(redis, settings)
    async with in_process(redis, settings, tasks=False) as client:
        made = await uploaded(client)
        record = await files.get(redis, made["id"])
        assert record is not None
        async with local_copy(service, record) as path:
            assert path.read_bytes() == LINES
        assert not path.exists()
        await service.blobs.delete(record.blob)
        with pytest.raises(MissingBlobError):
            async with local_copy(service, record):
                pass
        gone = await client.get(f"/v1/files/{made['id']}/content")
        assert error_of(gone)[0] == 404


async def test_a_purge_removes_a_project_s_files_and_their_bytes(redis: Redis, settings: Settings) -> None:
    async with in_process(redis, settings, tasks=False) as client:
        for _ in range(3):
            await uploaded(client)
        assert await files.purge(redis, "other") == 0
        assert await files.purge(redis, "default") == 3
        assert (await client.get("/v1/files")).json()["data"] == []
        await sweep(redis, service_of(redis, settings).blobs)
        assert stored(settings) == []
