"""What somebody sends who wants a gateway to stand still, or to say more than it should."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.service.control import requests
from batchmill.store import api_keys
from batchmill.store.api_keys import Wanted

from .file_helpers import LINES, client, error_of, upload, uploaded, with_limits
from .service_helpers import service_of, serving
from .waiting import wait_until

__all__ = ["client"]

DEEP = b"[" * 100_000
SOON = 3.0  # seconds; each of these took far longer, and nobody else was answered meanwhile


async def test_millions_of_blank_lines_are_passed_over_at_once(client: httpx.AsyncClient) -> None:
    blank = b"\n" * 3_000_000
    began = time.monotonic()
    made = await uploaded(client, blank + LINES + blank)
    read = await client.get(f"/v1/files/{made['id']}/content", params={"after_line": 3_000_001})
    assert read.content == LINES.split(b"\n")[1] + b"\n" + blank
    assert time.monotonic() - began < SOON


async def test_json_that_is_too_deep_is_refused_like_any_that_cannot_be_read(client: httpx.AsyncClient) -> None:
    assert error_of(await upload(client, DEEP))[0] == 400
    reply = await client.post(
        "/v1/batches", content=b'{"metadata":{"a":' + DEEP, headers={"content-type": "application/json"}
    )
    assert error_of(reply)[:2] == (400, "invalid_json")


@pytest.mark.parametrize("count", ["²", "9" * 5000, "-1", "x", ""])
async def test_a_count_of_retries_is_a_number_or_nothing(client: httpx.AsyncClient, count: str) -> None:
    headers = {b"x-stainless-retry-count": count.encode("latin-1")}
    made = await client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", LINES)}, headers=headers
    )
    assert made.status_code == 200
    asked = {"input_file_id": made.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert (await client.post("/v1/batches", json=asked, headers=headers)).status_code == 200


async def test_numbers_that_are_too_long_are_no_numbers(client: httpx.AsyncClient) -> None:
    fields: dict[str, Any] = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "9" * 5000}
    assert error_of(await upload(client, **fields))[1] == "invalid_value"
    made = await uploaded(client)
    read = await client.get(f"/v1/files/{made['id']}/content", headers={"range": f"bytes={'9' * 5000}-"})
    assert (read.status_code, read.content) == (200, LINES)


async def test_one_project_leaves_connections_to_the_others(redis: Redis, settings: Settings) -> None:
    greedy, other = [
        {"authorization": f"Bearer {(await api_keys.create(redis, settings.upstream_name, wanted, 'me')).text}"}
        for wanted in (Wanted(name="greedy", project="greedy"), Wanted(name="other", project="other"))
    ]
    async with serving(redis, with_limits(settings, max_connections=6)) as http:
        async with AsyncExitStack() as held:
            for _ in range(3):
                stream = await held.enter_async_context(http.stream("GET", "/v1/events", headers=greedy))
                assert stream.status_code == 200
            refused = await http.get("/v1/files", headers=greedy)
            assert error_of(refused)[:2] == (429, "rate_limit_exceeded")
            assert (await http.get("/v1/files", headers=other)).status_code == 200

        async def free_again() -> bool:
            return (await http.get("/v1/files", headers=greedy)).status_code == 200

        await wait_until(free_again, "a place")


async def test_a_line_is_found_beside_some_that_no_batch_takes(redis: Redis, settings: Settings) -> None:
    service = service_of(redis, settings)

    async def parts() -> AsyncIterator[bytes]:
        yield b'{"custom_id":"deep","body":' + DEEP + b"\n"
        for _ in range(48):
            yield b"x" * (1 << 20)
        yield b'"custom_id":"a","body":{"no":1}}\n{"custom_id":"a",\r"body":{"yes":1}}\n'
        yield b'{"custom_id":"b","body":{"b":2}}'

    await service.blobs.put("files/one", parts())
    began = time.monotonic()
    assert await requests._body_in(service, "files/one", "a") == b'{"yes":1}'
    assert await requests._body_in(service, "files/one", "b") == b'{"b":2}'
    assert await requests._body_in(service, "files/one", "c") is None
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("model", ["!batch_1", "m\n1\nbm:{gate:x}:budget:others:total", "account"])
async def test_no_model_has_a_name_that_means_something_else(client: httpx.AsyncClient, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    reply = await client.post("/v1/chat/completions", json=asked, headers={"x-wait": "0"})
    assert error_of(reply)[0] == 400
    reply = await client.post("/v1/chat/completions", json=asked | {"model": "m", "fallback_models": [model]})
    assert error_of(reply)[0] == 400
