"""Uploads in every form that clients send; what is refused, breaks off or comes twice leaves nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.store import service_keys

from .file_helpers import LINES, client, error_of, stored, upload, uploaded, with_limits
from .service_helpers import serving
from .waiting import wait_until

__all__ = ["client"]


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
