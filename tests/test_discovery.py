"""The worker whose turn it is keeps the catalogue fresh, says what changed, and warns of models that go."""

import asyncio
from typing import Any

import msgspec
import pytest
import structlog.testing
from redis.asyncio import Redis

from batchmill.config.policy import Alias, Policy
from batchmill.config.settings import CatalogueSettings, Settings
from batchmill.openrouter.client import Upstream
from batchmill.store import keys, policy
from batchmill.store.catalogue import models_of, refresh
from batchmill.store.staging import BatchFacts, Staging
from batchmill.workers import discovery, maintenance
from batchmill.workers.discovery import Discovery
from batchmill.workers.tasks import end

from .store_helpers import line
from .test_catalogue import ENTRY, FRESH, grow_old, serving
from .waiting import wait_until


class Clock:
    """What Discovery takes for the monotonic time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(discovery, "time", clock)
    return clock


async def looked(looker: Discovery) -> list[dict[str, Any]]:
    with structlog.testing.capture_logs() as logged:
        await looker.look()
    return [dict(entry) for entry in logged if entry["log_level"] != "debug"]


async def test_it_refreshes_when_the_copy_is_old(redis: Redis, settings: Settings, clock: Clock) -> None:
    async with serving(settings) as (listing, there):
        looker = Discovery(redis, there)
        assert await looked(looker) == []
        listing.answer = {"data": [ENTRY | {"id": "c/d"}, ENTRY | {"id": "e/f"}]}
        clock.now += FRESH - 1
        assert await looked(looker) == []
        assert listing.asked == 1
        await grow_old(redis, there, FRESH)
        clock.now += 1
        (told,) = await looked(looker)
        assert told == {
            "event": "catalogue.changed", "log_level": "info", "added": 2, "removed": 1, "repriced": 0
        }  # fmt: skip


async def test_a_copy_that_somebody_else_refreshed_is_told_of_as_well(
    redis: Redis, settings: Settings, clock: Clock
) -> None:
    async with serving(settings) as (listing, there):
        looker = Discovery(redis, there)
        await looker.look()
        listing.answer = {"data": [ENTRY | {"pricing": {"prompt": "7", "completion": "7"}}]}
        await refresh(redis, there, force=True)
        clock.now += FRESH
        (told,) = await looked(looker)
        assert (told["event"], told["repriced"], listing.asked) == ("catalogue.changed", 1, 2)


@pytest.mark.parametrize("strict", [True, False])
async def test_trouble_is_told_once_and_by_openrouter_alone(
    redis: Redis, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    monkeypatch.setattr(Settings, "speaks_openrouter", property(lambda self: strict))
    async with serving(settings) as (listing, there):
        looker = Discovery(redis, there)
        listing.status = 500
        first = await looked(looker)
        assert [entry["event"] for entry in first] == ["catalogue.not_refreshed"] * strict
        assert await looked(looker) == []
        assert listing.asked == 1
        clock.now += 16
        assert await looked(looker) == []  # the same reason
        assert listing.asked == 2
        listing.status = 200
        clock.now += 16
        await looker.look()
        assert list(await models_of(redis, there)) == ["a/b"]


@pytest.mark.parametrize("off", [{"simulate": True}, {"catalogue": CatalogueSettings(auto_refresh=False)}])
async def test_it_may_be_off(redis: Redis, settings: Settings, clock: Clock, off: dict[str, Any]) -> None:
    async with serving(settings) as (listing, there):
        await Discovery(redis, msgspec.structs.replace(there, **off)).look()
        assert listing.asked == 0


async def waiting_lines(redis: Redis, settings: Settings, *lanes: str) -> None:
    """Let a line wait in each of these lanes."""
    staging = Staging(redis, settings.upstream_name, retention_days=1)
    for number, lane in enumerate(lanes):
        await staging.add(lane, [line(number)])
    await staging.release(BatchFacts(total=len(lanes), models=dict.fromkeys(lanes, 1), content="content"))


async def test_models_in_use_that_go_are_warned_of_once_a_day(redis: Redis, settings: Settings, clock: Clock) -> None:
    async with serving(settings) as (listing, there):
        goes = ENTRY | {"expiration_date": "2999-12-31"}
        names = ("plain/one", "routed/one", "aliased/one", "unused/one")
        listing.answer = {"data": [ENTRY, *(goes | {"id": name} for name in names)]}
        gone = ENTRY | {"id": "gone/one", "expiration_date": "2020-01-01"}
        listing.answer["data"].append(gone)
        looker = Discovery(redis, there)
        assert await looked(looker) == []
        assert not await redis.exists(keys.expiry_warned(there.upstream_name))

        rules = Policy(aliases=(Alias(name="fast", models=("a/b", "aliased/one")),))
        await policy.apply(redis, there.upstream_name, rules, "test")
        lanes = ("a/b", "plain/one:nitro", "routed/one#1f3a9c20", "fast#00000000", "auto#00000000", "gone/one")
        await waiting_lines(redis, there, *lanes)
        clock.now += FRESH
        told = [entry for entry in await looked(looker) if entry["event"] == "model.expires"]
        assert {entry["model"]: (entry["date"], entry["over"]) for entry in told} == {
            "plain/one": ("2999-12-31", False),
            "routed/one": ("2999-12-31", False),
            "aliased/one": ("2999-12-31", False),
            "gone/one": ("2020-01-01", True),
        }
        clock.now += FRESH
        assert await looked(looker) == []
        assert await redis.ttl(keys.expiry_warned(there.upstream_name)) > 0


async def test_it_is_part_of_the_upkeep(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_EVERY", 0.001)
    async with (
        serving(settings) as (listing, there),
        Upstream(there.upstream, there.api_key, max_connections=1) as client,
    ):
        keeper = maintenance.Maintenance(redis, client, there, "worker")
        tasks = [asyncio.create_task(keeper.run()), asyncio.create_task(keeper.discover())]
        await wait_until(listing.asking.is_set)
        await end(tasks)
    assert listing.asked == 1
