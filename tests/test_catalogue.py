"""The catalogue in Redis: when it is asked for, and what is left when nobody answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from redis.asyncio import Redis

from batchmill.config.settings import Settings, load
from batchmill.openrouter.errors import UpstreamUnavailableError
from batchmill.store import keys
from batchmill.store.catalogue import FRESH_SECONDS, models_of

ENTRY = {"id": "a/b", "pricing": {"prompt": "0.1", "completion": "0.2"}, "context_length": 10}
DAY = 86_400


class Listing:
    """An upstream's list of models, which may change, and how often it was asked for."""

    def __init__(self) -> None:
        self.answer: object = {"data": [ENTRY]}
        self.status = 200
        self.asked = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.asked += 1
        assert request.path == "/v1/models"
        return web.json_response(self.answer, status=self.status)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[Listing, Settings]]:
    listing = Listing()
    app = web.Application()
    app.router.add_get("/{path:.*}", listing.handle)
    async with TestServer(app) as server:
        upstream = msgspec.structs.replace(settings.upstream, base_url=str(server.make_url("/v1")))
        yield listing, msgspec.structs.replace(settings, upstream=upstream)


async def grow_old(redis: Redis, settings: Settings, seconds: int) -> None:
    """Make the copy as old as that."""
    await redis.execute_command("EXPIRE", keys.catalogue(settings.upstream_name), DAY - seconds)


async def test_a_fresh_copy_is_asked_for_once(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        first = await models_of(redis, there)
        assert await models_of(redis, there) == first
        assert listing.asked == 1
    assert (first["a/b"].context_length, list(first)) == (10, ["a/b"])


async def test_an_old_copy_is_replaced(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        await models_of(redis, there)
        listing.answer = {"data": [ENTRY | {"id": "c/d"}]}
        await grow_old(redis, there, FRESH_SECONDS - 10)
        assert list(await models_of(redis, there)) == ["a/b"]
        await grow_old(redis, there, FRESH_SECONDS)
        assert list(await models_of(redis, there)) == ["c/d"]


@pytest.mark.parametrize(("status", "answer"), [(500, {}), (401, {}), (404, {}), (200, {"data": "soon"})])
async def test_the_last_good_copy_serves_when_the_upstream_is_down(
    redis: Redis, settings: Settings, status: int, answer: object
) -> None:
    async with serving(settings) as (listing, there):
        await models_of(redis, there)
        listing.status, listing.answer = status, answer
        await grow_old(redis, there, FRESH_SECONDS + 10)
        assert list(await models_of(redis, there)) == ["a/b"]
        assert listing.asked == 2


async def test_a_copy_that_can_not_be_read_is_none(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (_, there):
        await redis.execute_command("SET", keys.catalogue(there.upstream_name), b"\xc1", "EX", DAY)
        assert list(await models_of(redis, there)) == ["a/b"]


async def test_an_endpoint_without_prices_has_models_without_and_is_not_asked_again(
    redis: Redis, settings: Settings
) -> None:
    async with serving(settings) as (listing, there):
        listing.answer = {"data": [{"id": "llama", "object": "model"}]}
        for _ in range(2):
            models = await models_of(redis, there)
            assert [(each.id, each.names_price) for each in models.values()] == [("llama", False)]
        assert listing.asked == 1


async def test_an_endpoint_that_is_not_there_has_no_facts(redis: Redis, settings: Settings) -> None:
    assert await models_of(redis, settings) == {}


async def test_openrouter_must_be_asked_once(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "speaks_openrouter", property(lambda self: True))
    with pytest.raises(UpstreamUnavailableError):
        await models_of(redis, settings)


async def test_a_rehearsal_has_the_packaged_catalogue(redis: Redis, settings: Settings) -> None:
    models = await models_of(redis, msgspec.structs.replace(settings, simulate=True))
    assert len(models) == 342
    assert await redis.dbsize() == 0


@pytest.mark.parametrize(
    ("url", "simulate", "speaks"),
    [
        ("https://openrouter.ai/api/v1", False, True),
        ("https://eu.openrouter.ai/api/v1", False, True),
        ("http://127.0.0.1:8000/v1", False, False),
        ("https://notopenrouter.ai/v1", False, False),
        ("http://127.0.0.1:8000/v1", True, True),
    ],
)
def test_who_speaks_openrouter(url: str, simulate: bool, speaks: bool) -> None:
    environ = {"BATCHMILL_BASE_URL": url, "BATCHMILL_DATA_DIR": "unused"}
    assert load(environ=environ, simulate=simulate).speaks_openrouter is speaks
