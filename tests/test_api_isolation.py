"""Whose things these are: of another project's, nobody can tell that they exist, whichever operation is asked.

Every operation is in exactly one of the tables below, and so is every field that could name something; a new one fails
here until somebody has said what it is.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.service.app import OPERATIONS
from batchmill.service.identity import EVERY_SCOPE
from batchmill.service.operations import Operation
from batchmill.store import api_keys
from batchmill.store.api_keys import Wanted

from .batch_api_helpers import create, jsonl, upload, when
from .isolation_helpers import BY_NAME, MARK, NONE, OWNER, PARTS, World, priced, two_projects
from .service_helpers import in_process

WINDOW = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
OF_A_PROJECT = {
    "retrieve_file": "file", "delete_file": "file", "file_content": "file", "estimate_file": "file",
    "retrieve_batch": "batch", "cancel_batch": "batch", "retry_batch": "batch", "list_batch_errors": "batch",
    "list_lines": "batch", "get_line": "line", "revoke_key": "key", "change_budget": "budget",
}  # fmt: skip
"""Operations with a name in their path, and of what kind that is."""

OF_NOBODY = {"retrieve_model"}
"""Those whose path names what belongs to no project."""

LISTS = {
    "list_files", "list_batches", "list_models", "list_keys", "get_overview", "get_fleet", "list_model_states",
    "list_limits", "list_breakers", "list_pauses", "get_spend", "get_forecast", "get_recommendations", "list_budgets",
    "list_alerts", "describe_api",
}  # fmt: skip
"""What a project's key may read that has no name in its path: it must not tell of another project."""

MAKES = {"create_file", "create_batch", "create_key", "create_chat_completion"}
"""What makes something in the asking project; see the fields below."""

STREAMS = {"events"}
OPEN = {"healthz", "readyz", "prometheus"}

REFERENCES = {
    ("list_files", "after"), ("list_batches", "after"), ("create_batch", "input_file_id"),
    ("create_batch", "idempotency_key"), ("create_key", "project"), ("get_spend", "project"),
    ("get_forecast", "project"), ("get_recommendations", "project"), ("list_lines", "after"), ("get_line", "at"),
}  # fmt: skip
"""Fields of queries and bodies that can name something of a project; each has its test below."""

SAYS_NOTHING = {
    "limit", "order", "purpose", "after_line", "wait", "state", "search", "by", "since", "until", "needs", "all",
    "file", "anchor", "seconds", "endpoint", "completion_window", "metadata", "output_expires_after", "max_cost_usd",
    "priority", "fallback_models", "strategy", "on_invalid", "cache", "webhook_url", "tags", "model", "messages",
    "stream", "stream_options", "name", "all_projects", "scopes", "expires_in", "budget_usd", "window",
    "requests_per_minute", "max_queued_lines", "limit_usd",
}  # fmt: skip
"""Fields that name nothing, or something new."""


@pytest.fixture
async def world(real_redis: Redis, settings: Settings) -> AsyncIterator[World]:
    async with two_projects(real_redis, settings) as world:
        yield world


BODIES: dict[str, Any] = {"change_budget": {"limit_usd": 5}}


def _said(reply: httpx.Response, names: Mapping[str, str]) -> tuple[Any, ...]:
    """Return an answer without the names that the client itself gave, and what differs from one request to the next."""
    text = reply.text
    for name in sorted(names.values(), key=len, reverse=True):
        text = text.replace(name, "NAME")
    changing = ("x-request-id", "openai-processing-ms", "x-ratelimit-remaining-requests", "content-length", "date")
    return reply.status_code, text, {name: value for name, value in reply.headers.items() if name not in changing}


def test_everybody_has_said_of_each_operation_whose_it_is() -> None:
    operators = {each.name for each in OPERATIONS if each.operator}
    tables = [set(OF_A_PROJECT), OF_NOBODY, LISTS, MAKES, STREAMS, OPEN, operators]
    placed = [name for table in tables for name in table]
    assert sorted(placed) == sorted(BY_NAME)
    for name in (*OF_A_PROJECT, *OF_NOBODY):
        assert PARTS.search(BY_NAME[name].path)
    for name in LISTS | MAKES | STREAMS:
        assert not PARTS.search(BY_NAME[name].path), "it names something: say whose"
    assert {each.name for each in OPERATIONS if each.open} == OPEN


def test_everybody_has_said_of_each_field_what_it_can_name() -> None:
    fields = {
        (each.name, field)
        for each in OPERATIONS
        if not each.operator
        for kind in (each.query, each.body)
        if kind is not None
        for field in kind.__struct_fields__
    }
    assert {field for field in fields if field[1] not in SAYS_NOTHING} == REFERENCES


async def test_what_is_another_project_s_answers_as_what_does_not_exist(world: World) -> None:
    found = []
    for name, kind in OF_A_PROJECT.items():
        operation, body = BY_NAME[name], BODIES.get(name)
        for names in world.things[kind]:
            nothing = {part: NONE[part] for part in names}
            theirs = await world.ask(operation, "b", names, json=body)
            none = await world.ask(operation, "b", nothing, json=body)
            assert none.status_code == 404, (name, none.text)
            if _said(theirs, names) != _said(none, nothing):
                found.append((name, names, _said(theirs, names), _said(none, nothing)))
    assert found == []


async def test_their_owner_and_the_operator_are_told(world: World) -> None:
    """Else everything above would hold for a gateway that knows nothing."""
    for name, kind in OF_A_PROJECT.items():
        if BY_NAME[name].method == "GET":
            for key in (OWNER, "everybody"):
                replies = [await world.ask(BY_NAME[name], key, names) for names in world.things[kind]]
                assert any(reply.status_code == 200 for reply in replies), (name, key)


async def test_no_list_tells_of_another_project(world: World) -> None:
    ids = {value for things in world.things.values() for names in things for value in names.values()}
    seen_by_owner = set()
    for name in LISTS:
        reply = await world.ask(BY_NAME[name], "b")
        assert reply.status_code == 200, (name, reply.text)
        told = {word for word in (MARK, *ids) if word in reply.text}
        assert not told, (name, told)
        whole = await world.ask(BY_NAME[name], "everybody")
        if MARK in whole.text or any(word in whole.text for word in ids):
            seen_by_owner.add(name)
    assert {"list_files", "list_batches", "list_keys", "list_budgets", "list_alerts"} <= seen_by_owner


async def test_no_event_tells_of_another_project(real_redis: Redis, world: World, monkeypatch: Any) -> None:
    monkeypatch.setattr("batchmill.service.control.events._LIFE", 0.5)
    for key, hears in (("b", False), ("everybody", True)):
        reply = await world.ask(BY_NAME["events"], key)
        assert "event: overview" in reply.text
        assert (MARK in reply.text) is hears


async def test_a_list_does_not_begin_after_what_another_project_has(world: World) -> None:
    gone = world.things["file"][0]
    await world.ask(BY_NAME["delete_file"], OWNER, gone)
    for name, kind in (("list_files", "file"), ("list_batches", "batch")):
        for names in world.things[kind]:
            [theirs] = names.values()
            [none] = (NONE[part] for part in names)
            replies = [await world.ask(BY_NAME[name], "b", params={"after": each}) for each in (theirs, none)]
            assert _said(replies[0], {"": theirs}) == _said(replies[1], {"": none}), names


async def test_spend_of_another_project_is_that_of_one_that_does_not_exist(world: World) -> None:
    for name in ("get_spend", "get_forecast", "get_recommendations"):
        theirs, none = [await world.get(name, "b", project=project) for project in ("zaphod", "gamma")]
        for each in (theirs, none):
            each.pop("at", None)
        assert theirs == none, name


async def test_no_batch_is_made_of_another_project_s_file(world: World) -> None:
    told = []
    for file_id in (*(names["file_id"] for names in world.things["file"]), NONE["file_id"]):
        made = await world.ask(BY_NAME["create_batch"], "b", json={"input_file_id": file_id} | WINDOW)
        assert made.status_code == 200, (file_id, made.text)
        world.client.headers["authorization"] = f"Bearer {world.keys['b']}"
        batch = await when(world.client, made.json()["id"])
        told.append((batch["status"], str(batch["errors"]).replace(file_id, "NAME")))
    assert len(set(told)) == 1
    assert told[0][0] == "failed"


async def test_an_idempotency_key_is_known_in_its_project_alone(world: World) -> None:
    file_id = world.things["file"][0]["file_id"]
    body = {"input_file_id": file_id, "idempotency_key": "twice"} | WINDOW
    batches = {names["batch_id"] for names in world.things["batch"]}
    made = await world.ask(BY_NAME["create_batch"], "b", json=body)
    assert made.status_code == 200, made.text
    assert made.json()["id"] not in batches
    for headers in ({"idempotency-key": "file"}, {"x-stainless-retry-count": "1"}):
        ids = []
        for key in (OWNER, "b"):
            files = {"file": ("zaphod.jsonl", jsonl([priced(0, "same")]))}
            form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": files}
            sent = await world.ask(BY_NAME["create_file"], key, None, headers=headers, **form)
            ids.append(sent.json()["id"])
        assert ids[0] != ids[1]


async def test_no_key_is_made_for_another_project(world: World) -> None:
    replies = [
        await world.ask(BY_NAME["create_key"], "b", json={"name": "mine", "project": project})
        for project in ("zaphod", "gamma")
    ]
    assert [reply.status_code for reply in replies] == [403, 403]
    assert replies[0].json() == replies[1].json()


async def test_a_place_in_another_project_s_batch_leads_nowhere(world: World) -> None:
    """Cursors and places are of a batch: beside one's own batch, those of another's find only one's own."""
    key = {"authorization": f"Bearer {world.keys['zaphod-key']}"}
    path = f"/v1/batches/{world.things['batch'][0]['batch_id']}/lines"
    rows = (await world.client.get(path, headers=key, params={"limit": 1})).json()
    world.client.headers["authorization"] = f"Bearer {world.keys['b']}"
    own = await create(world.client, await upload(world.client, jsonl([priced(0, "mine")])))
    await when(world.client, own["id"], "in_progress")
    page = await world.client.get(f"/v1/batches/{own['id']}/lines", params={"after": rows["next"]})
    assert MARK not in page.text
    at = rows["data"][0]["at"]
    for custom_id, status in (("mine", 200), (rows["data"][0]["custom_id"], 404)):
        reply = await world.client.get(f"/v1/batches/{own['id']}/lines/{custom_id}", params={"at": at})
        assert (reply.status_code, "Secret words 0" in reply.text) == (status, status == 200)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_without_its_scope_nothing_is_done(real_redis: Redis, settings: Settings, operation: Operation) -> None:
    keys = {}
    for project in ("beta", None):
        scopes = tuple(EVERY_SCOPE - {operation.scope})
        wanted = Wanted(name=f"of-{project}", project=project, scopes=scopes)
        keys[f"of-{project}"] = (await api_keys.create(real_redis, settings.upstream_name, wanted, "test")).text
    async with in_process(real_redis, settings, tasks=False) as client:
        world = World(client, {}, keys | {"wrong": "bm-0123456789ab-" + "x" * 43, "foreign": "sk-proj-1"})
        before = sorted(await real_redis.keys("*"))
        wanted_status = {None: 401, "wrong": 401, "foreign": 401, "of-beta": 403, "of-None": 403}
        for key, status in wanted_status.items():
            reply = await world.ask(operation, key)
            if operation.name in ("healthz", "readyz"):
                assert reply.status_code == 200
                continue
            assert reply.status_code == status, (key, reply.text)
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        after = [key for key in sorted(await real_redis.keys("*")) if b"rate" not in key and b"api_key_use" not in key]
        assert set(after) <= set(before)


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.operator], ids=lambda each: each.name)
async def test_a_project_s_key_does_nothing_that_concerns_all(
    real_redis: Redis, settings: Settings, operation: Operation
) -> None:
    wanted = Wanted(name="b", project="beta", scopes=api_keys.SCOPES)
    text = (await api_keys.create(real_redis, settings.upstream_name, wanted, "test")).text
    async with in_process(real_redis, settings, tasks=False) as client:
        reply = await World(client, {}, {"b": text}).ask(operation, "b")
    assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")
