"""`/v1/files`: uploads in every form that clients send, lists by page, and what is refused, which leaves nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Budget, Policy
from batchmill.config.settings import Settings
from batchmill.config.windows import WindowKind
from batchmill.producer import Producer
from batchmill.producer.errors import PricesUnknownError
from batchmill.service.access import gate
from batchmill.service.compat.files import open_input, sweep
from batchmill.service.identity import EVERY_SCOPE, Identity
from batchmill.storage.blobs import MissingBlobError
from batchmill.store import files, service_keys
from batchmill.store.clock import now_ms

from .service_helpers import in_process, service_of, serving
from .waiting import wait_until

LINES = b'{"custom_id":"a"}\n{"custom_id":"b"}\n'
DAY = 86_400


async def upload(
    client: httpx.AsyncClient,
    content: bytes = LINES,
    *,
    name: str = "in.jsonl",
    headers: dict[str, str] | None = None,
    **fields: str,
) -> httpx.Response:
    data = {"purpose": "batch"} | fields
    return await client.post("/v1/files", files={"file": (name, content)}, data=data, headers=headers)


async def uploaded(client: httpx.AsyncClient, content: bytes = LINES, **wishes: Any) -> dict[str, Any]:
    answer = await upload(client, content, **wishes)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def stored(settings: Settings) -> list[Path]:
    return [path for path in (settings.data_dir / "files").rglob("*") if path.is_file()]


def with_limits(settings: Settings, **limits: Any) -> Settings:
    return msgspec.structs.replace(settings, service=msgspec.structs.replace(settings.service, **limits))


@pytest.fixture
async def client(redis: Redis, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(redis, settings, tasks=False) as client:
        yield client


def error_of(answer: httpx.Response) -> tuple[int, str | None, str | None, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"], error["message"]


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


async def test_parts_may_come_in_any_order(client: httpx.AsyncClient) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="\xc3\xa4 b.jsonl"\r\n'
        b"Content-Type: application/jsonl\r\n\r\n" + LINES + b"\r\n"
        b'--x\r\ncontent-disposition: form-data; name="expires_after[seconds]"\r\n\r\n3600\r\n'
        b'--x\r\ncontent-disposition: form-data; name="expires_after[anchor]"\r\n\r\ncreated_at\r\n'
        b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await client.post("/v1/files", content=body, headers=headers)
    made = answer.json()
    assert (made["filename"], made["bytes"]) == ("ä b.jsonl", len(LINES))
    assert made["expires_at"] == made["created_at"] + 3600

    async def byte_by_byte() -> AsyncIterator[bytes]:
        for at in range(len(body)):
            yield body[at : at + 1]

    slowly = (await client.post("/v1/files", content=byte_by_byte(), headers=headers)).json()
    content = await client.get(f"/v1/files/{slowly['id']}/content")
    assert content.content == LINES
    assert content.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A4%20b.jsonl"
    for cut in (40, 150, len(body) - 60):
        broken = await client.post("/v1/files", content=body[:cut], headers=headers)
        assert broken.status_code == 400
    assert len((await client.get("/v1/files")).json()["data"]) == 2


FORMAT = "Invalid file format for Batch API. Must be .jsonl"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.json", LINES),
        ("in", LINES),
        ("in.jsonl", b""),
        ("in.jsonl", b"\n \r\n"),
        ("in.jsonl", b"a,b\n1,2\n"),
        ("in.jsonl", b"\xff\xfe\n"),
        ("in.jsonl", b"{"),
    ],
)
async def test_what_is_no_file_of_lines_is_refused_in_openai_s_words(
    client: httpx.AsyncClient, settings: Settings, redis: Redis, name: str, content: bytes
) -> None:
    refused = await upload(client, content, name=name)
    assert error_of(refused) == (400, None, None, FORMAT)
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert stored(settings) == []
    assert await redis.keys("bm:{files}*") == []


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf{}\r\n", b"\n\n{}", b'{"a":\r1}\n', b"{}\nnot json\n"])
async def test_only_the_first_line_counts_at_once(client: httpx.AsyncClient, content: bytes) -> None:
    made = await uploaded(client, content, name="IN.JSONL")
    assert made["bytes"] == len(content)


@pytest.mark.parametrize(
    ("fields", "code", "param", "said"),
    [
        ({"purpose": "fine-tune"}, "invalid_value", "purpose", "'fine-tune'"),
        ({"purpose": ""}, "invalid_value", "purpose", "''"),
        ({"expires_after[seconds]": "3600"}, "missing_required_parameter", "expires_after[anchor]", "Missing"),
        ({"expires_after[anchor]": "created_at"}, "missing_required_parameter", "expires_after[seconds]", "Missing"),
        *(
            ({"expires_after[anchor]": anchor, "expires_after[seconds]": seconds}, "invalid_value", param, "Invalid")
            for anchor, seconds, param in (
                ("now", "3600", "expires_after[anchor]"),
                ("created_at", "3599", "expires_after[seconds]"),
                ("created_at", "2592001", "expires_after[seconds]"),
                ("created_at", "1e4", "expires_after[seconds]"),
            )
        ),
    ],
)
async def test_fields_that_can_t_be_meant_are_named(
    client: httpx.AsyncClient, settings: Settings, fields: dict[str, Any], code: str, param: str, said: str
) -> None:
    status, *told, message = error_of(await upload(client, **fields))
    assert (status, told) == (400, [code, param])
    assert said in message
    assert stored(settings) == []


async def test_a_form_needs_a_file_and_a_purpose(client: httpx.AsyncClient) -> None:
    without_purpose = await client.post("/v1/files", files={"file": ("in.jsonl", LINES)})
    assert error_of(without_purpose)[:3] == (400, "missing_required_parameter", "purpose")
    without_file = await client.post("/v1/files", files={"other": ("in.jsonl", LINES)}, data={"purpose": "batch"})
    assert error_of(without_file)[:3] == (400, "missing_required_parameter", "file")
    two: Any = [("file", ("a.jsonl", LINES)), ("file", ("b.jsonl", LINES))]
    assert error_of(await client.post("/v1/files", files=two, data={"purpose": "batch"}))[:3] == (
        400, "invalid_value", "file",
    )  # fmt: skip
    no_form = await client.post("/v1/files", json={"purpose": "batch"})
    assert error_of(no_form)[0] == 400
    crowd = {f"field-{number}": "x" for number in range(99)}
    assert error_of(await client.post("/v1/files", files={"file": ("a.jsonl", LINES)}, data=crowd))[0] == 400
    long = await upload(client, purpose="x" * 100_000)
    assert error_of(long)[0] == 400


async def test_a_file_over_the_limit_leaves_nothing(redis: Redis, settings: Settings) -> None:
    line = b'{"custom_id":"' + b"x" * 1000 + b'"}\n'
    async with serving(redis, with_limits(settings, max_upload_bytes=100_000)) as client:
        assert (await upload(client, (line * 100)[:100_000])).status_code == 200
        for size in (100, 10_000):  # little more than allowed, and far more: known by its length
            status, code, *_ = error_of(await upload(client, line * size))
            assert (status, code) == (413, "request_too_large")
        (kept,) = (await client.get("/v1/files")).json()["data"]
        assert [path.name for path in stored(settings)] == [kept["id"]]


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
    assert gate  # whose place the header takes
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


async def test_the_same_upload_sent_again_is_the_same_file(client: httpx.AsyncClient, settings: Settings) -> None:
    again = {"x-stainless-retry-count": "1"}
    made = await uploaded(client, headers={"x-stainless-retry-count": "0"})
    assert await uploaded(client, headers=again) == made
    assert (await uploaded(client, headers={"x-stainless-retry-count": "0"}))["id"] != made["id"]
    assert (await uploaded(client, name="other.jsonl", headers=again))["id"] != made["id"]
    assert (await uploaded(client, LINES + LINES, headers=again))["id"] != made["id"]
    assert len(stored(settings)) == 4


async def test_an_idempotency_key_names_one_file(client: httpx.AsyncClient, settings: Settings) -> None:
    key = {"idempotency-key": "mine"}
    both = await asyncio.gather(uploaded(client, headers=key), uploaded(client, headers=key))
    assert both[0] == both[1]
    assert error_of(await upload(client, LINES * 2, headers=key))[:3] == (
        400, "idempotency_key_reuse", "Idempotency-Key",
    )  # fmt: skip
    assert len(stored(settings)) == 1
    await client.delete(f"/v1/files/{both[0]['id']}")
    assert (await uploaded(client, headers=key))["id"] != both[0]["id"]


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing(redis: Redis, settings: Settings) -> None:
    async with serving(redis, settings) as client:
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}\n' + b"x" * 6_000_000
        )
        await writer.drain()
        await wait_until(lambda: bool(stored(settings)), "the file is on its way")
        writer.close()
        await wait_until(lambda: stored(settings) == [], "nothing is left")
        ends = service_keys.file_ends()

        async def forgotten() -> bool:
            return not await redis.exists(ends)

        await wait_until(forgotten, "the upload is forgotten")


async def test_a_client_that_falls_silent_is_told_so(redis: Redis, settings: Settings) -> None:
    async with serving(redis, with_limits(settings, body_timeout=0.2)) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


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


async def test_an_input_is_opened_for_its_project_only(redis: Redis, settings: Settings) -> None:
    service = service_of(redis, settings)
    async with in_process(redis, settings, tasks=False) as client:
        made = await uploaded(client)
        async with open_input(service, made["id"], "default") as path:
            assert path.read_bytes() == LINES
        assert not path.exists()
        for file_id, project in ((made["id"], "other"), ("file-none", None)):
            with pytest.raises(MissingBlobError):
                async with open_input(service, file_id, project):
                    pass
        await service.blobs.delete(f"files/{made['id']}")
        with pytest.raises(MissingBlobError):
            async with open_input(service, made["id"]):
                pass
        gone = await client.get(f"/v1/files/{made['id']}/content")
        assert error_of(gone)[0] == 404


async def test_a_large_file_passes_through_without_being_held(redis: Redis, settings: Settings) -> None:
    line = json.dumps({"custom_id": "x" * 1000}).encode() + b"\n"
    chunks = 400
    seen: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        for _ in range(chunks):
            yield line * 100
            seen.append(sum(path.stat().st_size for path in stored(settings)))
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    async with serving(redis, settings) as client:
        made = (await client.post("/v1/files", content=body(), headers=headers)).json()
        assert made["bytes"] == chunks * 100 * len(line)
        assert seen[-1] > made["bytes"] / 2  # most of it was written before the last of it was sent
        size = 0
        async with client.stream("GET", f"/v1/files/{made['id']}/content") as answer:
            async for part in answer.aiter_bytes():
                size += len(part)
        assert size == made["bytes"]


def simulated(settings: Settings, *budgets: Budget) -> Settings:
    return msgspec.structs.replace(settings, simulate=True, policy=Policy(budgets=budgets))


def asking(model: str, count: int) -> bytes:
    lines = [
        {
            "custom_id": f"{model}-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]},
        }
        for number in range(count)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def test_an_estimate_tells_what_a_file_would_cost(real_redis: Redis, settings: Settings) -> None:
    content = asking("openai/gpt-4o-mini", 20) + asking("nobody/nothing", 2) + b"{\n"
    budget = Budget(name="daily", limit_usd=Decimal("0.0001"), window=WindowKind.DAY)
    async with in_process(real_redis, simulated(settings, budget), tasks=False) as client:
        made = await uploaded(client, content)
        path = f"/v1/files/{made['id']}/estimate"
        found = (await client.get(path)).json()
        assert (found["object"], found["file_id"]) == ("file.estimate", made["id"])
        assert (found["lines"], found["bad_lines"]) == (20, 3)
        (model,) = found["models"]
        assert (model["model"], model["lines"]) == ("openai/gpt-4o-mini", 20)
        assert 0 < found["likely_cost_usd"] <= found["max_cost_usd"]
        assert found["unpriced_models"] == {"nobody/nothing": 2}
        assert any("line 23" in each for each in found["errors"])
        (stops,) = found["budgets"]
        assert (stops["name"], stops["limit_usd"], stops["lines"]) == ("daily", 0.0001, 20)
        assert stops["lines_stopped"] == 20 - found["lines_that_fit"] > 0
        capped = (await client.get(path, params={"max_cost_usd": "0.0002"})).json()
        assert {each["name"] for each in capped["budgets"]} == {"daily", "max_cost"}
        for wrong in ({"max_cost_usd": "-1"}, {"max_cost_usd": "much"}, {"strategy": "luck"}):
            assert (await client.get(path, params=wrong)).status_code == 400
        assert (await client.get("/v1/files/file-none/estimate")).status_code == 404


async def test_an_estimate_waits_for_prices(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> None:
        raise PricesUnknownError("what models cost can't be read")

    monkeypatch.setattr(Producer, "estimate", unknown)
    async with in_process(redis, settings, tasks=False) as client:
        made = await uploaded(client)
        answer = await client.get(f"/v1/files/{made['id']}/estimate")
    assert error_of(answer)[0] == 503
    assert "what models cost can't be read" in error_of(answer)[3]
    assert answer.headers["retry-after"] == "1"


async def test_a_purge_removes_a_project_s_files_and_their_bytes(redis: Redis, settings: Settings) -> None:
    async with in_process(redis, settings, tasks=False) as client:
        for _ in range(3):
            await uploaded(client)
        assert await files.purge(redis, "other") == 0
        assert await files.purge(redis, "default") == 3
        assert (await client.get("/v1/files")).json()["data"] == []
        await sweep(redis, service_of(redis, settings).blobs)
        assert stored(settings) == []
