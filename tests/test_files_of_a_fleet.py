"""From an upload to the results of a real fleet: read while they grow, then from storage, a folder or S3."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from batchmill.openrouter.simulator import SimulatorOptions

from .fleet_helpers import lines, scene
from .service_helpers import serving
from .test_storage import s3, s3_settings
from .waiting import wait_until

__all__ = ["s3", "s3_settings"]

COUNT = 120


async def batch_of(client: httpx.AsyncClient, content: bytes, **wishes: Any) -> dict[str, Any]:
    form = {"file": ("in.jsonl", content)}
    made = (await client.post("/v1/files", files=form, data={"purpose": "batch"})).json()
    asked = {"input_file_id": made["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = await client.post("/v1/batches", json=asked | wishes)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def over(client: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    """Return a batch once it is terminal."""
    found: dict[str, Any] = {}

    async def terminal() -> bool:
        found.update((await client.get(f"/v1/batches/{batch_id}")).json())
        return found["status"] in ("completed", "failed", "expired", "cancelled")

    await wait_until(terminal, "the batch ends", patience=40)
    return found


async def followed(client: httpx.AsyncClient, file_id: str) -> tuple[bytes, int]:
    """Read a file while it grows, until it is complete; return it, and how often there was something new."""
    read, parts = b"", 0
    while True:
        headers = {"range": f"bytes={len(read)}-"}
        answer = await client.get(f"/v1/files/{file_id}/content", headers=headers, params={"wait": True})
        assert answer.status_code in (206, 416), answer.text
        if answer.status_code == 206:
            read, parts = read + answer.content, parts + 1
        if "x-incomplete" not in answer.headers:
            return read, parts


def ids_in(content: bytes) -> list[str]:
    return sorted(json.loads(line)["custom_id"] for line in content.splitlines())


@pytest.mark.parametrize("kind", ["local", "s3"])
async def test_results_are_read_while_they_come(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines(COUNT))
    async with scene(tmp_path / "data", SimulatorOptions(latency="uniform:50:150"), concurrency=8) as here:
        settings = here.settings
        if kind == "s3":
            storage = request.getfixturevalue("s3_settings").storage
            settings = msgspec.structs.replace(settings, storage=storage)
        async with serving(here.store.redis, settings) as client:
            batch = await batch_of(client, content)
            read, parts = await followed(client, batch["x_output_file_id"])
            assert parts > 1
            assert ids_in(read) == sorted(line["custom_id"] for line in lines(COUNT))
            done = await over(client, batch["id"])
            assert (done["status"], done["error_file_id"]) == ("completed", None)
            assert done["output_file_id"] == batch["x_output_file_id"]
            answer = await client.get(f"/v1/files/{done['output_file_id']}/content")
            assert answer.content == read
            assert "etag" in answer.headers


@pytest.mark.drill
async def test_pollers_and_uploads_hurt_nobody(tmp_path: Path) -> None:
    """200 clients poll and 50 upload while a batch runs: no error, and each line is asked once."""
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines(2 * COUNT))
    options = SimulatorOptions(latency="uniform:200:400", record=True)
    async with (
        scene(tmp_path / "data", options, concurrency=8) as here,
        serving(here.store.redis, here.settings) as one,
    ):
        batch = await batch_of(one, content)
        statuses: Counter[int] = Counter()

        async def poll(client: httpx.AsyncClient, number: int) -> None:
            paths = (f"/v1/batches/{batch['id']}", "/v1/batches", "/v1/files", f"/v1/files/{batch['input_file_id']}")
            for turn in range(5):
                statuses[(await client.get(paths[(number + turn) % len(paths)])).status_code] += 1

        async def upload(client: httpx.AsyncClient) -> None:
            form = {"file": ("in.jsonl", content * 4)}
            statuses[(await client.post("/v1/files", files=form, data={"purpose": "batch"})).status_code] += 1

        async with httpx.AsyncClient(
            base_url=one.base_url, timeout=60, limits=httpx.Limits(max_connections=250)
        ) as many:
            await asyncio.gather(*(poll(many, number) for number in range(200)), *(upload(many) for _ in range(50)))
        assert statuses == {200: 200 * 5 + 50}
        assert (await over(one, batch["id"]))["request_counts"] == {
            "total": 2 * COUNT,
            "completed": 2 * COUNT,
            "failed": 0,
        }
        assert {len(calls) for calls in (await here.calls()).values()} == {1}
