"""The same request twice is one batch: by its key, in its body or beside it, and when a client tries again silently."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings

from .batch_api_helpers import Headers, ask
from .service_helpers import in_process

FILE = "file-none"


@pytest.fixture
async def client(redis: Redis, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway without its tasks: its batches stay as they were created."""
    async with in_process(redis, settings, tasks=False) as client:
        yield client


async def created(client: httpx.AsyncClient, headers: Headers | None = None, **fields: object) -> str:
    reply = await ask(client, headers, **({"input_file_id": FILE} | fields))
    assert reply.status_code == 200, reply.text
    return str(reply.json()["id"])


async def count(client: httpx.AsyncClient) -> int:
    return len((await client.get("/v1/batches")).json()["data"])


async def test_a_key_names_one_batch_wherever_it_stands(client: httpx.AsyncClient) -> None:
    first = await created(client, {"Idempotency-Key": "one"})
    assert await created(client, {"idempotency-key": "one"}) == first
    assert await created(client, idempotency_key="one") == first
    assert await created(client, {"Idempotency-Key": "one"}, idempotency_key="one") == first
    assert await created(client, {"Idempotency-Key": "two"}) != first
    assert await count(client) == 2


async def test_a_key_with_another_body_is_refused(client: httpx.AsyncClient) -> None:
    await created(client, {"Idempotency-Key": "one"})
    reply = await ask(client, {"Idempotency-Key": "one"}, input_file_id=FILE, metadata={"a": "b"})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "idempotency_key_reuse"
    assert await count(client) == 1


async def test_two_at_once_are_one_batch(client: httpx.AsyncClient) -> None:
    ids = await asyncio.gather(*(created(client, {"Idempotency-Key": "one"}) for _ in range(10)))
    assert len(set(ids)) == 1
    assert await count(client) == 1


async def test_a_silent_retry_gets_the_batch_of_the_try_before(client: httpx.AsyncClient) -> None:
    first = await created(client, {"x-stainless-retry-count": "0"}, metadata={"a": "1", "b": "2"})
    assert await created(client, {"x-stainless-retry-count": "1"}, metadata={"b": "2", "a": "1"}) == first
    assert await created(client, {"x-stainless-retry-count": "2"}, metadata={"a": "1", "b": "2"}) == first
    assert await created(client, {"x-stainless-retry-count": "1"}) != first


@pytest.mark.parametrize("count", ["", "x", "-1", "\xb2"])
async def test_a_count_that_is_none_is_no_retry(client: httpx.AsyncClient, count: str) -> None:
    headers = httpx.Headers({b"x-stainless-retry-count": count.encode("latin-1")})
    assert await created(client, headers) != await created(client, headers)


async def test_a_retry_of_what_never_came_creates_the_batch(client: httpx.AsyncClient) -> None:
    first = await created(client, {"x-stainless-retry-count": "1"})
    assert await created(client, {"x-stainless-retry-count": "2"}) == first


async def test_the_same_body_asked_for_anew_is_another_batch(client: httpx.AsyncClient) -> None:
    headers = {"x-stainless-retry-count": "0"}
    first, second = await created(client, headers), await created(client, headers)
    assert first != second
    assert await created(client, {"x-stainless-retry-count": "1"}) == second


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_has_a_length(client: httpx.AsyncClient, key: str) -> None:
    for reply in (
        await ask(client, {"Idempotency-Key": key}, input_file_id=FILE),
        await ask(client, input_file_id=FILE, idempotency_key=key),
    ):
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "idempotency_key"


async def test_two_keys_that_differ_are_refused(client: httpx.AsyncClient) -> None:
    reply = await ask(client, {"Idempotency-Key": "one"}, input_file_id=FILE, idempotency_key="two")
    assert reply.status_code == 400
