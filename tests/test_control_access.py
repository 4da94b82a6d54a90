"""Who may do what with our own API: every operation, with a key that may not."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import load
from batchmill.service.control import money_api, work_api
from batchmill.service.identity import Scope
from batchmill.service.operations import Operation
from batchmill.store import api_keys

from .service_helpers import in_process
from .store_helpers import UPSTREAM

OPERATIONS = (*work_api.OPERATIONS, *money_api.OPERATIONS)
CHANGES = [operation for operation in OPERATIONS if operation.method != "GET"]
OPERATORS = [operation for operation in OPERATIONS if operation.operator]


@pytest.fixture
async def client(real_redis: Redis, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = load(environ={"BATCHMILL_BASE_URL": UPSTREAM, "BATCHMILL_DATA_DIR": str(tmp_path)})
    async with in_process(real_redis, settings, tasks=False) as client:
        yield client


async def key(redis: Redis, project: str | None, *scopes: str) -> dict[str, str]:
    wanted = api_keys.Wanted(name="one", project=project, scopes=scopes)
    return {"authorization": f"Bearer {(await api_keys.create(redis, UPSTREAM, wanted, 'somebody')).text}"}


def path_of(operation: Operation) -> str:
    path = operation.path
    for name in ("{model:path}", "{custom_id:path}", "{name}", "{alert_id}", "{batch_id}"):
        path = path.replace(name, "x")
    return path


@pytest.mark.parametrize("operation", CHANGES, ids=lambda operation: operation.name)
async def test_who_may_only_read_changes_nothing(
    real_redis: Redis, client: httpx.AsyncClient, operation: Operation
) -> None:
    headers = await key(real_redis, None, "read", "submit")
    reply = await client.request(operation.method, path_of(operation), headers=headers, json={})
    assert operation.scope is Scope.ADMIN
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_permissions")


@pytest.mark.parametrize("operation", OPERATORS, ids=lambda operation: operation.name)
async def test_a_project_s_admin_does_not_rule_the_fleet(
    real_redis: Redis, client: httpx.AsyncClient, operation: Operation
) -> None:
    headers = await key(real_redis, "evals", "read", "submit", "admin")
    reply = await client.request(operation.method, path_of(operation), headers=headers, json={})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_permissions")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_without_a_key_nothing_is_told(
    real_redis: Redis, client: httpx.AsyncClient, operation: Operation
) -> None:
    await key(real_redis, "evals", "read")
    reply = await client.request(operation.method, path_of(operation), json={})
    assert reply.status_code == 401


def test_every_change_needs_the_scope_admin_and_every_look_the_scope_read() -> None:
    assert {operation.scope for operation in CHANGES} == {Scope.ADMIN}
    assert {operation.scope for operation in OPERATIONS if operation.method == "GET"} == {Scope.READ}
