"""What happens, as it happens: over a real socket, until the client, the key or the gateway goes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings, load
from batchmill.config.windows import WindowKind
from batchmill.service.control.events import changed, standing
from batchmill.service.identity import EVERY_SCOPE, OPERATOR, Identity
from batchmill.store import api_keys, operators, policy
from batchmill.store.policy import raise_budget

from .gate_helpers import budget, policy_of
from .service_helpers import service_of, serving
from .store_helpers import MODEL, UPSTREAM, batch_of, put, result

DOLLAR = 10**9
PATIENCE = 15.0  # seconds


@pytest.fixture
async def settings(real_redis: Redis, tmp_path: Path) -> Settings:
    await policy.apply(real_redis, UPSTREAM, policy_of(budget("all", DOLLAR, window=WindowKind.DAY)), "test.toml")
    return load(environ={"BATCHMILL_BASE_URL": UPSTREAM, "BATCHMILL_DATA_DIR": str(tmp_path)})


class Listener:
    """Reads a stream of events; `until` waits for one that fits."""

    def __init__(self, reply: httpx.Response) -> None:
        self.reply = reply
        self._lines = reply.aiter_lines()

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            while True:
                event = await self.one()
                if event[0] == kind and all(event[1].get(name) == value for name, value in fields.items()):
                    return event[1]

    async def one(self) -> tuple[str, dict[str, Any]]:
        kind = ""
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                return kind, msgspec.json.decode(value)
        raise AssertionError("the stream ended")

    async def end(self) -> None:
        """Wait until the stream is over."""
        async with asyncio.timeout(PATIENCE):
            async for _ in self._lines:
                pass


@contextlib.asynccontextmanager
async def listening(client: httpx.AsyncClient, **headers: str) -> AsyncIterator[Listener]:
    async with client.stream("GET", "/v1/events", headers=headers) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        yield Listener(reply)


async def test_a_batch_a_breaker_and_a_budget_are_followed(real_redis: Redis, settings: Settings) -> None:
    async with serving(real_redis, settings) as client, listening(client) as events:
        assert (await events.until("budget", name="all"))["limit_usd"] == 1
        batch_id = await batch_of(real_redis, 2)
        told = await events.until("batch", id=batch_id)
        assert (told["status"], told["total"], told["succeeded"]) == ("in_progress", 2, 0)
        await put(real_redis, batch_id, result(0))
        await events.until("batch", id=batch_id, succeeded=1)
        await operators.trip(real_redis, UPSTREAM, MODEL, "somebody")
        await events.until("breaker", model=MODEL, state="open")
        await events.until("overview", breakers_open=1)
        await operators.reset(real_redis, UPSTREAM, MODEL, "somebody")
        await raise_budget(real_redis, UPSTREAM, "all", 2 * DOLLAR, "somebody")
        await events.until("budget", name="all", limit_usd=2)
        await put(real_redis, batch_id, result(1))
        assert (await events.until("batch", id=batch_id, status="completed"))["succeeded"] == 2


async def test_a_gateway_that_stops_waits_for_no_listener(real_redis: Redis, settings: Settings) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = serving(real_redis, settings)
        client = await stack.enter_async_context(server)
        events = await stack.enter_async_context(listening(client))
        await events.until("overview")
        loop = asyncio.get_running_loop()
        began = loop.time()
    assert loop.time() - began < 5


async def test_a_key_that_is_revoked_hears_nothing_more(real_redis: Redis, settings: Settings) -> None:
    made = await api_keys.create(real_redis, UPSTREAM, api_keys.Wanted(name="mine", project="evals"), "somebody")
    async with serving(real_redis, settings) as client:
        async with listening(client, authorization=f"Bearer {made.text}") as events:
            assert (await events.until("overview"))["project"] == "evals"
            await api_keys.revoke(real_redis, UPSTREAM, made.key.id, "somebody")
            await events.end()
        assert (await client.get("/v1/events")).status_code == 401


async def test_who_needed_no_key_hears_nothing_more_once_there_is_one(real_redis: Redis, settings: Settings) -> None:
    async with serving(real_redis, settings) as client, listening(client) as events:
        await events.until("overview")
        await api_keys.create(real_redis, UPSTREAM, api_keys.Wanted(name="first", project=None), "somebody")
        await events.end()


async def test_many_listeners_cost_what_one_does(real_redis: Redis, settings: Settings) -> None:
    service = service_of(real_redis, settings)
    first = await asyncio.gather(*(standing(service, OPERATOR) for _ in range(50)))
    assert all(one[("overview", "")] is first[0][("overview", "")] for one in first)


async def test_a_project_hears_of_its_own_work_only(real_redis: Redis, settings: Settings) -> None:
    batch_id = await batch_of(real_redis, 2)  # of the project "default"
    service = service_of(real_redis, settings)
    own = await standing(service, Identity(project="default", scopes=EVERY_SCOPE))
    foreign = await standing(service, Identity(project="evals", scopes=EVERY_SCOPE))
    assert ("batch", batch_id) in own
    assert ("batch", batch_id) not in foreign
    assert batch_id.encode() not in msgspec.json.encode(list(foreign.values()))


async def test_only_what_changed_is_told(real_redis: Redis, settings: Settings) -> None:
    await batch_of(real_redis, 2)
    before = await standing(service_of(real_redis, settings), OPERATOR)
    after = await standing(service_of(real_redis, settings), OPERATOR)
    assert set(changed({}, before)) == set(before)
    assert {kind for kind, _ in changed(before, after)} <= {"overview"}
