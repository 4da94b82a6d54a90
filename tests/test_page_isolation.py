"""Pages and forms of the dashboard: only with a session, and never of another project."""

from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import pytest
from redis.asyncio import Redis
from starlette.routing import Mount, Route

from batchmill.config.settings import Settings
from batchmill.service.access.gate import COOKIE
from batchmill.service.app import PAGES
from batchmill.service.dashboard.forms import FIELD
from batchmill.store import sessions

from .isolation_helpers import MARK, NONE, OWNER, PARTS, World, two_projects

OPEN_PAGES = {"/login", "/theme", "/static"}
"""Pages that anybody may see, and the form by which anybody chooses light or dark."""


def pages() -> list[tuple[str, str]]:
    """Return the method and the path of each page and each form of the dashboard."""
    return [
        ("POST" if "POST" in route.methods else "GET", route.path)
        for route in PAGES
        if isinstance(route, Route) and route.methods and route.path not in OPEN_PAGES
    ]


def path_with(path: str, names: Mapping[str, str]) -> str:
    return PARTS.sub(lambda part: names.get(part[1], "none"), path)


def test_what_is_no_page_is_a_file_that_anybody_may_have() -> None:
    assert {route.path for route in PAGES if isinstance(route, Mount)} == {"/static"}
    assert len(pages()) >= len(PAGES) - 4


def form_of(world: World, headers: dict[str, str], **fields: str) -> dict[str, Any]:
    """Return what a page's form sends: its fields, and where it stands."""
    token = headers["cookie"].partition("=")[2]
    data = {FIELD: sessions.csrf_of(token)} | fields
    return {"headers": headers | {"origin": str(world.client.base_url)}, "data": data}


async def session(redis: Redis, world: World, key: str) -> dict[str, str]:
    """Begin a session of the dashboard; return the headers of its browser."""
    token = await sessions.create(redis, world.keys[key].split("-")[1])
    return {"cookie": f"{COOKIE}={token}"}


@pytest.fixture
async def world(real_redis: Redis, settings: Settings) -> AsyncIterator[World]:
    async with two_projects(real_redis, settings) as world:
        yield world


async def test_without_a_session_no_page_is_seen_and_no_form_is_done(world: World) -> None:
    names = {name: value for kind in world.things.values() for name, value in kind[-1].items()}
    for method, path in pages():
        place = path_with(path, NONE | names)
        reply = await world.client.request(method, place)
        assert MARK not in reply.text.replace(place, ""), path
        if method == "GET":
            assert (reply.status_code, reply.headers["location"]) == (303, f"/login?next={quote(place)}"), path
        else:
            assert reply.status_code in (303, 403), (path, reply.text)
            assert reply.headers.get("location", "/login").startswith("/login"), path


async def test_no_page_and_no_form_tells_of_another_project(real_redis: Redis, world: World) -> None:
    browser = await session(real_redis, world, "b")
    every = {**NONE, "alert_id": "1-1", "model": "none"}
    for method, path in pages():
        if path == "/logout":
            continue
        kind = "line" if "custom_id" in path else "budget" if "budgets" in path else "batch"
        for names in world.things[kind] if PARTS.search(path) else [{}]:
            told = []
            for each in (every | names, every):
                place = path_with(path, each)
                request = form_of(world, browser, limit_usd="5") if method == "POST" else {"headers": browser}
                reply = await world.client.request(method, place, **request)
                text = reply.text
                for name in sorted(each.values(), key=len, reverse=True):
                    text = text.replace(name, "NAME")
                told.append((reply.status_code, MARK in text, len(text) if reply.status_code >= 400 else 0))
            assert told[0] == told[1], (path, names, told)
            assert not told[0][1], path
            if path.startswith(("/batches/", "/budgets/")):
                assert told[0][0] == 404, (path, told)


async def test_their_owner_sees_the_pages(real_redis: Redis, world: World) -> None:
    browser = await session(real_redis, world, OWNER)
    for place in ("/", "/batches", *(f"/batches/{names['batch_id']}" for names in world.things["batch"])):
        reply = await world.client.get(place, headers=browser)
        assert reply.status_code == 200
        assert MARK in reply.text, place
