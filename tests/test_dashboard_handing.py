"""A batch from a form: the file streams into storage as a client's would, and is one batch however often it is sent."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings

from .fleet_helpers import lines
from .service_helpers import in_process

DATA = b"\n".join(msgspec.json.encode(line) for line in lines(3))


@pytest.fixture
async def client(real_redis: Redis, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(real_redis, settings, tasks=False) as made:
        yield made


async def filled(client: httpx.AsyncClient, **changed: str) -> dict[str, str]:
    """Return what the form of the page sends beside the file."""
    page = (await client.get("/batches")).text
    form = page[page.index('id="new-batch"') :]
    given = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
    return given | {"max_cost_usd": "$1.50", "completion_window": "6h", "on_invalid": "skip"} | changed


async def send(client: httpx.AsyncClient, fields: dict[str, str], data: bytes = DATA, **how: Any) -> httpx.Response:
    return await client.post("/batches", data=fields, files={"file": (how.pop("name", "in.jsonl"), data)}, **how)


async def kept(client: httpx.AsyncClient) -> tuple[int, int]:
    """Return how many batches and files there are."""
    batches, files = (await client.get("/v1/batches")).json(), (await client.get("/v1/files")).json()
    return len(batches["data"]), len(files["data"])


async def test_a_form_makes_a_batch_and_leads_to_it(client: httpx.AsyncClient) -> None:
    answer = await send(client, await filled(client))
    assert answer.status_code == 303, answer.text
    batch = (await client.get(answer.headers["location"].replace("/batches", "/v1/batches"))).json()
    assert (batch["status"], batch["completion_window"], batch["x_cost"]["cap_usd"]) == ("validating", "6h", 1.5)
    content = await client.get(f"/v1/files/{batch['input_file_id']}/content")
    assert content.content == DATA
    assert (await client.get(answer.headers["location"])).status_code == 200


async def test_a_form_sent_twice_is_one_batch_and_another_form_is_another(client: httpx.AsyncClient) -> None:
    fields = await filled(client)
    first, again = await send(client, fields), await send(client, fields)
    assert first.headers["location"] == again.headers["location"]
    assert await kept(client) == (1, 1)
    other = await send(client, await filled(client))
    assert other.headers["location"] != first.headers["location"]
    dearer = await send(client, fields | {"max_cost_usd": "9"})  # somebody went back and changed it
    assert dearer.headers["location"] not in (first.headers["location"], other.headers["location"])


@pytest.mark.parametrize(
    ("changed", "how", "status"),
    [
        ({"csrf": "0" * 64}, {}, 403),
        ({}, {"headers": {"origin": "https://evil.example"}}, 403),
        ({"max_cost_usd": "much"}, {}, 400),
        ({"max_cost_usd": "-1"}, {}, 400),
        ({"completion_window": "1y"}, {}, 400),
        ({"on_invalid": "guess"}, {}, 400),
        ({}, {"name": "in.csv"}, 400),
        ({}, {"data": b"not json"}, 400),
    ],
)
async def test_what_is_wrong_is_a_page_and_makes_no_batch(
    client: httpx.AsyncClient, changed: dict[str, str], how: dict[str, Any], status: int
) -> None:
    answer = await send(client, await filled(client, **changed), **how)
    assert (answer.status_code, "<nav" in answer.text) == (status, True)
    assert (await kept(client))[0] == 0


async def test_without_a_file_or_a_form_nothing_is_done(client: httpx.AsyncClient) -> None:
    fields = await filled(client)
    assert (await client.post("/batches", data=fields)).status_code == 400
    nameless = await send(client, fields, b"", name="")  # a browser's form in which no file was chosen
    assert nameless.status_code == 400
    assert await kept(client) == (0, 0)
