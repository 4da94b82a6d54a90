"""Files over HTTP for tests: to upload one, and to look at what is left in storage."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings

from .service_helpers import in_process

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
