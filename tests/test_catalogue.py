"""The catalogue in Redis: when it is asked for, and what is left when nobody answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import ANY

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from redis.asyncio import Redis

from batchmill.config.settings import CatalogueSettings, Settings, UpstreamSettings, load
from batchmill.openrouter.errors import UpstreamUnavailableError
from batchmill.store import keys
from batchmill.store.catalogue import endpoints_of, kept_of, models_of, refresh, snapshot_of
from batchmill.store.clock import now_ms

from .simulator_helpers import desk
from .test_endpoints import ENDPOINT

ENTRY = {"id": "a/b", "pricing": {"prompt": "0.1", "completion": "0.2"}, "context_length": 10}
DAY = 86_400
FRESH = 300


class Listing:
    """An upstream's list of models, which may change, and how often it was asked for."""

    def __init__(self) -> None:
        self.answer: object = {"data": [ENTRY]}
        self.status = 200
        self.paths: list[str] = []
        self.asking = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @property
    def asked(self) -> int:
        return len(self.paths)

    async def handle(self, request: web.Request) -> web.Response:
        self.paths.append(request.path)
        self.asking.set()
        await self.may_answer.wait()
        return web.json_response(self.answer, status=self.status)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[Listing, Settings]]:
    listing = Listing()
    app = web.Application()
    app.router.add_get("/{path:.*}", listing.handle)
    async with TestServer(app) as server:
        upstream = msgspec.structs.replace(settings.upstream, base_url=str(server.make_url("/v1")))
        yield listing, msgspec.structs.replace(settings, upstream=upstream)


async def grow_old(redis: Redis, settings: Settings, seconds: float) -> None:
    """Make the copy as old as that."""
    key = keys.catalogue(settings.upstream_name)
    fetched, models = msgspec.msgpack.decode(await redis.execute_command("GET", key))
    older = msgspec.msgpack.encode([fetched - round(seconds * 1000), models])
    await redis.execute_command("SET", key, older, "EX", DAY)


async def test_a_fresh_copy_is_asked_for_once(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        first = await models_of(redis, there)
        assert await models_of(redis, there) == first
        assert listing.asked == 1
    assert (first["a/b"].context_length, list(first)) == (10, ["a/b"])


async def test_an_old_copy_is_replaced(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        await models_of(redis, there)
        assert listing.paths == ["/v1/models"]
        listing.answer = {"data": [ENTRY | {"id": "c/d"}]}
        await grow_old(redis, there, FRESH - 60)
        assert list(await models_of(redis, there)) == ["a/b"]
        await grow_old(redis, there, 60)
        assert list(await models_of(redis, there)) == ["c/d"]


@pytest.mark.parametrize(("status", "answer"), [(500, {}), (401, {}), (404, {}), (200, {"data": "soon"})])
async def test_the_last_good_copy_serves_when_the_upstream_is_down(
    redis: Redis, settings: Settings, status: int, answer: object
) -> None:
    async with serving(settings) as (listing, there):
        await models_of(redis, there)
        listing.status, listing.answer = status, answer
        await grow_old(redis, there, FRESH + 10)
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


async def test_a_copy_tells_its_age_and_why_it_is_old(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        fresh = await snapshot_of(redis, there)
        assert (fresh.source, fresh.stale_reason, fresh.age_ms) == ("upstream", None, 0)
        assert fresh.fetched_at_ms is not None
        listing.status, listing.answer = 503, {"error": {"code": 503, "message": "back at nine"}}
        await grow_old(redis, there, FRESH + 10)
        for _ in range(3):  # nobody asks again at once
            old = await snapshot_of(redis, there)
            assert old.stale_reason is not None
            assert "back at nine" in old.stale_reason
            assert old.fetched_at_ms == fresh.fetched_at_ms - (FRESH + 10) * 1000
            assert list(old.models) == ["a/b"]
        assert (old.age_ms >= (FRESH + 10) * 1000, listing.asked) == (True, 2)
        listing.status, listing.answer = 200, {"data": [ENTRY]}
        mended = (await refresh(redis, there, force=True)).snapshot
        assert mended.stale_reason is None
        kept = await kept_of(redis, there)
        assert kept == msgspec.structs.replace(mended, age_ms=ANY)


async def test_after_a_while_a_failure_is_forgotten(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        await models_of(redis, there)
        await grow_old(redis, there, FRESH + 60)
        failure = msgspec.msgpack.encode([await now_ms(redis) - 20_000, "it was down"])
        await redis.execute_command("SET", keys.catalogue_failure(there.upstream_name), failure, "EX", DAY)
        known = await kept_of(redis, there)
        assert known is not None
        assert (known.stale_reason, listing.asked) == ("it was down", 1)
        assert (await snapshot_of(redis, there)).stale_reason is None
        assert listing.asked == 2


async def test_a_refresh_tells_what_changed(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        listing.answer = {"data": [ENTRY, ENTRY | {"id": "old/one"}, ENTRY | {"id": "same/price"}]}
        first = await refresh(redis, there)
        assert (first.added, first.removed, first.repriced) == ((), (), ())
        assert first.drift is not None
        assert first.drift.entries == 3
        dearer = ENTRY | {"pricing": {"prompt": "0.3", "completion": "0.2"}}
        same = ENTRY | {"id": "same/price", "pricing": {"completion": "0.20", "prompt": "0.10"}}
        listing.answer = {"data": [dearer, same, ENTRY | {"id": "new/one", "mood": "good"}]}
        unasked = await refresh(redis, there)
        assert (unasked.drift, listing.asked) == (None, 1)
        found = await refresh(redis, there, force=True)
        assert (found.added, found.removed, found.repriced) == (("new/one",), ("old/one",), ("a/b",))
        assert found.drift is not None
        assert [field.path for field in found.drift.fields] == ["mood"]


async def test_of_many_one_asks_and_the_others_use_the_copy(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        await models_of(redis, there)
        await grow_old(redis, there, FRESH + 10)
        listing.asking.clear()
        listing.may_answer.clear()
        listing.answer = {"data": [ENTRY | {"id": "c/d"}]}
        asking = asyncio.create_task(models_of(redis, there))
        await listing.asking.wait()
        assert [list(await models_of(redis, there)) for _ in range(3)] == [["a/b"]] * 3
        listing.may_answer.set()
        assert list(await asking) == ["c/d"]
        assert listing.asked == 2
        assert not await redis.exists(keys.catalogue_turn(there.upstream_name))


async def test_without_a_copy_the_others_wait_for_it(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        listing.may_answer.clear()
        asking = [asyncio.create_task(models_of(redis, there)) for _ in range(5)]
        await listing.asking.wait()
        listing.may_answer.set()
        assert [list(models) for models in await asyncio.gather(*asking)] == [["a/b"]] * 5
        assert listing.asked == 1


async def test_who_is_cancelled_while_it_gets_the_turn_keeps_nobody_waiting(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has given it the turn by then; whoever comes next would wait for its end, 35 seconds."""
    execute, turn = redis.execute_command, keys.catalogue_turn(settings.upstream_name)

    async def cancelled(*words: object, **options: object) -> object:
        reply = await execute(*words, **options)  # type: ignore[no-untyped-call]  # redis-py has no types for it
        if words[:2] == ("SET", turn):
            raise asyncio.CancelledError
        return reply

    monkeypatch.setattr(redis, "execute_command", cancelled)
    with pytest.raises(asyncio.CancelledError):
        await refresh(redis, settings)
    assert not await redis.exists(turn)


async def test_a_turn_that_is_another_s_by_now_is_not_ended(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        listing.may_answer.clear()
        asking = asyncio.create_task(models_of(redis, there))
        await listing.asking.wait()
        turn = keys.catalogue_turn(there.upstream_name)
        assert await redis.pttl(turn) > 30_000
        await redis.execute_command("SET", turn, "another", "EX", 60)
        listing.may_answer.set()
        await asking
        assert await redis.get(turn) == b"another"


async def test_times_are_those_of_the_settings(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        quick = msgspec.structs.replace(there, catalogue=CatalogueSettings(refresh=10.0, keep=1000.0))
        await models_of(redis, quick)
        assert 990_000 < await redis.pttl(keys.catalogue(there.upstream_name)) <= 1_000_000
        await grow_old(redis, there, 11)
        await models_of(redis, there)
        assert listing.asked == 1
        await models_of(redis, quick)
        assert listing.asked == 2


async def test_only_what_the_account_may_use(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        await models_of(redis, msgspec.structs.replace(there, catalogue=CatalogueSettings(only_usable=True)))
        assert listing.paths == ["/v1/models/user"]


async def test_openrouter_s_empty_answer_is_no_catalogue(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "speaks_openrouter", property(lambda self: True))
    async with serving(settings) as (listing, there):
        listing.answer = {"data": []}
        empty = await snapshot_of(redis, there)
        assert (empty.models, empty.fetched_at_ms) == ({}, None)
        assert empty.stale_reason == "it answered with no list of models"
        assert await kept_of(redis, there) is None


async def test_endpoints_are_kept_for_a_while(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        listing.answer = {"data": {"endpoints": [ENDPOINT]}}
        found = await endpoints_of(redis, there, "a/b")
        assert [endpoint.tag for endpoint in found.endpoints] == ["deepinfra/turbo"]
        assert found.stale_reason is None
        again = await endpoints_of(redis, there, "a/b")
        assert (again.endpoints, again.fetched_at_ms) == (found.endpoints, found.fetched_at_ms)
        assert listing.paths == ["/v1/models/a/b/endpoints"]
        listing.status = 500
        old = await endpoints_of(redis, there, "a/b", max_age=0)
        assert (old.endpoints, old.fetched_at_ms) == (found.endpoints, found.fetched_at_ms)
        assert old.stale_reason is not None
        with pytest.raises(UpstreamUnavailableError):
            await endpoints_of(redis, there, "c/d")


async def test_a_model_without_endpoints_is_remembered(redis: Redis, settings: Settings) -> None:
    async with serving(settings) as (listing, there):
        listing.status = 404
        for _ in range(2):
            found = await endpoints_of(redis, there, "a/b")
            assert found.endpoints == ()
            assert found.stale_reason == "the upstream tells of no endpoints of this model"
        assert listing.asked == 1


async def test_a_rehearsal_asks_the_simulator_for_endpoints_and_nobody_else(redis: Redis, settings: Settings) -> None:
    real = msgspec.structs.replace(settings, simulate=True, upstream=UpstreamSettings())
    assert (await endpoints_of(redis, real, "a/b")).stale_reason == "no simulator is running"
    away = msgspec.structs.replace(settings, simulate=True)  # nobody is there
    assert (await endpoints_of(redis, away, "a/b")).endpoints == ()
    async with desk() as running:
        here = msgspec.structs.replace(away, upstream=UpstreamSettings(base_url=running.simulator.base_url))
        found = await endpoints_of(redis, here, "openai/gpt-4o-mini")
    assert [endpoint.provider_name for endpoint in found.endpoints] == ["OpenAI"]
    assert found.endpoints[0].pricing == (await models_of(redis, here))["openai/gpt-4o-mini"].pricing


async def test_openrouter_must_be_asked_once(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "speaks_openrouter", property(lambda self: True))
    with pytest.raises(UpstreamUnavailableError):
        await models_of(redis, settings)


async def test_a_rehearsal_has_the_packaged_catalogue(redis: Redis, settings: Settings) -> None:
    rehearsal = msgspec.structs.replace(settings, simulate=True)
    snapshot = await snapshot_of(redis, rehearsal)
    assert (len(snapshot.models), snapshot.source, snapshot.fetched_at_ms) == (342, "packaged", None)
    assert await kept_of(redis, rehearsal) == snapshot
    refreshed = await refresh(redis, rehearsal, force=True)
    assert refreshed.snapshot == snapshot
    assert refreshed.drift is not None
    assert refreshed.drift.none
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
