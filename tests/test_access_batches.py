"""Batches over HTTP by API keys: whose they are, and a key's own budget from the request to the gate."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.store import api_keys, gauges, policy
from batchmill.store.api_keys import Made, Wanted

from .fleet_helpers import lines, scene
from .service_helpers import serving
from .waiting import wait_until

NANO = 10**9


async def key_for(redis: Redis, settings: Settings, project: str | None, **more: Any) -> dict[str, str]:
    wanted = Wanted(name=more.pop("name", project or "all"), project=project, scopes=("submit", "read"), **more)
    made: Made = await api_keys.create(redis, settings.upstream_name, wanted, "me")
    return {"authorization": f"Bearer {made.text}"}


async def hand_over(client: httpx.AsyncClient, headers: dict[str, str], count: int, max_tokens: int = 20) -> str:
    """Upload lines and make a batch of them; return its id."""
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines(count, max_tokens=max_tokens))
    files = {"file": ("lines.jsonl", data, "application/jsonl")}
    sent = await client.post("/v1/files", data={"purpose": "batch"}, files=files, headers=headers)
    assert sent.status_code == 200, sent.text
    wanted = {"input_file_id": sent.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = await client.post("/v1/batches", json=wanted, headers=headers)
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


async def batch_of(client: httpx.AsyncClient, headers: dict[str, str], batch_id: str) -> dict[str, Any]:
    reply = await client.get(f"/v1/batches/{batch_id}", headers=headers)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


@pytest.mark.drill
async def test_a_key_s_batch_stops_at_its_budget_says_so_and_ends_when_it_is_raised(tmp_path: Path) -> None:
    options = SimulatorOptions(latency="uniform:10:30", mean_output_tokens=60)
    async with scene(tmp_path, options, processes=2, concurrency=4) as at, serving(at.store.redis, at.settings) as http:
        redis, upstream = at.store.redis, at.settings.upstream_name
        headers = await key_for(redis, at.settings, "web", budget_usd=Decimal("0.004"))
        other = await key_for(redis, at.settings, "web", name="other")
        batch_id = await hand_over(http, headers, 300, max_tokens=120)

        async def waits() -> bool:
            return "budget key:web" in ((await batch_of(http, headers, batch_id))["x_blocked_on"] or "")

        await wait_until(waits, patience=60)
        (gauge,) = await gauges.budgets(redis, upstream)
        assert 0 < gauge.spent <= gauge.spent + gauge.held + gauge.suspect <= gauge.limit
        free = await hand_over(http, other, 10)  # the same project, another key: nothing stops it

        async def is_done(which: str) -> bool:
            return bool((await batch_of(http, other, which))["status"] == "completed")

        await wait_until(lambda: is_done(free), patience=60)
        assert await waits()
        await policy.raise_budget(redis, upstream, "key:web", 10 * NANO, "me")
        await wait_until(lambda: is_done(batch_id), patience=60)
        ended = await batch_of(http, headers, batch_id)
        assert ended["request_counts"] == {"total": 300, "completed": 300, "failed": 0}


async def test_what_another_project_has_does_not_exist(real_redis: Redis, settings: Settings) -> None:
    web, evals = await key_for(real_redis, settings, "web"), await key_for(real_redis, settings, "evals")
    boss = await key_for(real_redis, settings, None)
    async with serving(real_redis, settings) as client:
        batch_id = await hand_over(client, web, 2)
        file_id = (await batch_of(client, web, batch_id))["input_file_id"]
        asked = [
            ("GET", f"/v1/batches/{batch_id}"),
            ("POST", f"/v1/batches/{batch_id}/cancel"),
            ("POST", f"/v1/batches/{batch_id}/retry"),
            ("GET", f"/v1/batches/{batch_id}/errors"),
            ("GET", f"/v1/files/{file_id}"),
            ("GET", f"/v1/files/{file_id}/content"),
            ("GET", f"/v1/files/{file_id}/estimate"),
            ("DELETE", f"/v1/files/{file_id}"),
        ]
        for method, path in asked:
            theirs = await client.request(method, path, headers=evals)
            nobody = await client.request(
                method, path.replace(batch_id, "batch_x").replace(file_id, "file-x"), headers=web
            )
            assert theirs.status_code == nobody.status_code == 404, path
            same = theirs.text.replace(batch_id, "batch_x").replace(file_id, "file-x")
            assert same == nobody.text, path
        for path in ("/v1/batches", "/v1/files"):
            assert (await client.get(path, headers=evals)).json()["data"] == []
            assert len((await client.get(path, headers=boss)).json()["data"]) == 1
        # as an input, it is as unknown as one that never was
        wanted = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        stolen = (await client.post("/v1/batches", json=wanted, headers=evals)).json()["id"]

        async def failed() -> bool:
            return bool((await batch_of(client, evals, stolen))["status"] == "failed")

        await wait_until(failed)
        (error,) = (await batch_of(client, evals, stolen))["errors"]["data"]
        assert error["message"].startswith("Cannot find file")


async def test_a_key_that_only_reads_hands_nothing_over(real_redis: Redis, settings: Settings) -> None:
    wanted = Wanted(name="reader", project="web", scopes=("read",))
    made = await api_keys.create(real_redis, settings.upstream_name, wanted, "me")
    headers = {"authorization": f"Bearer {made.text}"}
    async with serving(real_redis, settings) as client:
        body = {"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        assert (await client.post("/v1/batches", json=body, headers=headers)).status_code == 403
        assert (await client.get("/v1/batches", headers=headers)).status_code == 200


async def test_two_gateways_share_a_key_s_rate(real_redis: Redis, settings: Settings) -> None:
    headers = await key_for(real_redis, settings, "web", requests_per_minute=10)
    async with serving(real_redis, settings) as one, serving(real_redis, settings) as two:
        asked = [client.get("/v1/batches", headers=headers) for client in (one, two) for _ in range(10)]
        codes = [reply.status_code for reply in await asyncio.gather(*asked)]
    assert sorted(codes) == [200] * 10 + [429] * 10
