"""Two projects on one gateway, for tests of what one can tell of the other."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import msgspec
from redis.asyncio import Redis

from batchmill.config.alerting import AlertKind
from batchmill.config.settings import Settings
from batchmill.openrouter.simulator import Simulator
from batchmill.service.app import OPERATIONS
from batchmill.service.operations import Operation
from batchmill.spend.alerts import Alert, Due
from batchmill.store import alerts, api_keys, policy
from batchmill.store.api_keys import Wanted

from .batch_api_helpers import create, finish, jsonl, line, upload, when
from .gate_helpers import budget, policy_of
from .service_helpers import in_process

PARTS = re.compile(r"{(\w+)(?::\w+)?}")
BY_NAME = {each.name: each for each in OPERATIONS}
MODEL = "openai/gpt-4o-mini"
MARK = "zaphod"
"""In every name that project A gives to anything."""

OWNER = "zaphod-key"

NONE = {
    "file_id": "file-0123456789abcdef01234567", "batch_id": "batch_0123456789abcdef0123456789ab", "custom_id": "none-1",
    "key_id": "0123456789ab", "name": "none",
}  # fmt: skip
"""What does not exist, by the name of the part of a path."""


class World(msgspec.Struct, frozen=True):
    """Two projects on one gateway. `things` are those of project A, by kind; `keys` by name."""

    client: httpx.AsyncClient
    things: dict[str, list[dict[str, str]]]
    keys: dict[str, str]

    async def ask(
        self, operation: Operation, key: str | None, names: Mapping[str, str] | None = None, **request: Any
    ) -> httpx.Response:
        path = PARTS.sub(lambda part: (names or {}).get(part[1], "none"), operation.path)
        headers = {"authorization": f"Bearer {self.keys[key]}"} if key else {}
        headers |= request.pop("headers", {})
        return await self.client.request(operation.method, path, headers=headers, **request)

    async def get(self, name: str, key: str, **query: str) -> Any:
        reply = await self.ask(BY_NAME[name], key, params=query)
        return reply.json()


@asynccontextmanager
async def two_projects(redis: Redis, settings: Settings) -> AsyncIterator[World]:
    """Run a gateway for project A, which has one of everything, in each state, B, which has nothing, and an operator.

    Its upstream is a simulator: with budgets, lines need a price.
    """
    async with Simulator() as simulator:
        upstream = msgspec.structs.replace(settings.upstream, base_url=simulator.base_url)
        at = msgspec.structs.replace(settings, upstream=upstream)
        keys = await _govern(redis, at.upstream_name)
        async with in_process(redis, at) as client:
            client.headers["authorization"] = f"Bearer {keys[OWNER]}"
            things = await _furnish(client, redis)
            del client.headers["authorization"]
            yield World(client, things, keys)


async def _govern(redis: Redis, upstream: str) -> dict[str, str]:
    """Make keys and a budget with an alert; return the keys' texts."""
    await policy.apply(redis, upstream, policy_of(budget("zaphod-cap", 10**9, project="zaphod")), "test.toml")
    keys = {}
    for name, project in ((OWNER, "zaphod"), ("b", "beta"), ("everybody", None)):
        wanted = Wanted(name=name, project=project, scopes=api_keys.SCOPES)
        keys[name] = (await api_keys.create(redis, upstream, wanted, "test")).text
    rich = Wanted(name="zaphod-rich", project="zaphod", budget_usd=Decimal(1))
    await api_keys.create(redis, upstream, rich, "test")
    alert = Alert(kind=AlertKind.BUDGET_WARNING, subject="zaphod-cap", period="p", text="nearly", amount=1, limit=2)
    assert await alerts.raise_once(redis, upstream, Due(alert, None))
    return keys


def priced(number: int, custom_id: str) -> dict[str, Any]:
    """Return a line for a model whose price the simulator tells."""
    messages = [{"role": "user", "content": f"Secret words {number}"}]
    return line(number, custom_id=custom_id, body={"model": MODEL, "max_tokens": 9, "messages": messages})


async def _furnish(client: httpx.AsyncClient, redis: Redis) -> dict[str, list[dict[str, str]]]:
    """Make project A's things; return the names that stand for them in paths."""
    lines = [priced(number, f"zaphod-{number}") for number in range(3)]
    file_id = await upload(client, jsonl(lines), "zaphod.jsonl")
    fields: dict[str, Any] = {"tags": {"team": "zaphod"}, "metadata": {"who": "zaphod"}}
    ended = await create(client, file_id, idempotency_key="twice", **fields)
    await when(client, ended["id"], "in_progress")
    await finish(redis, ended["id"], fail=(1,))
    ended = await when(client, ended["id"])
    running = await create(client, file_id, max_cost_usd=1, **fields)
    running = await when(client, running["id"], "in_progress")
    failed = await when(client, (await create(client, "file-none", **fields))["id"], "failed")
    files = [
        file_id,
        ended["output_file_id"],
        ended["error_file_id"],
        running["x_output_file_id"],
        running["x_error_file_id"],
    ]
    [key] = [each["id"] for each in (await client.get("/v1/keys")).json()["data"] if each["name"] == OWNER]
    budgets = ["zaphod-cap", "key:zaphod-rich", running["id"]]
    batches = [ended["id"], running["id"], failed["id"]]
    return {
        "file": [{"file_id": each} for each in files],
        "batch": [{"batch_id": each} for each in batches],
        "line": [{"batch_id": each, "custom_id": f"zaphod-{number}"} for each in batches for number in range(3)],
        "key": [{"key_id": key}],
        "budget": [{"name": each} for each in budgets],
    }
