"""What an operator does to breakers and pauses, and that it is written down."""

import pytest
from redis.asyncio import Redis

from batchmill.store import audit, gauges, keys, operators
from batchmill.store.gauges import ModelGauge, Pause
from batchmill.store.operators import UnknownModelError

from .store_helpers import MODEL, UPSTREAM

WHO = "ann@desk"


@pytest.fixture
async def lane(redis: Redis) -> None:
    await redis.execute_command("SADD", keys.lanes(UPSTREAM), MODEL)


async def book(redis: Redis) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = await redis.execute_command("HGETALL", keys.model(UPSTREAM, MODEL))
    return found


async def done(redis: Redis) -> list[tuple[str, str, object]]:
    """Return who did what to which model, newest first."""
    return [(entry.who, entry.what, entry.detail["model"]) for entry in await audit.entries(redis, UPSTREAM, 9)]


@pytest.mark.usefixtures("lane")
async def test_a_breaker_is_tripped_until_it_is_reset(redis: Redis) -> None:
    name = keys.model(UPSTREAM, MODEL)
    await redis.execute_command("HSET", name, "in_air", 3, "trips", 2, "share", 5, "window", 4, "slots", "x")
    await redis.expire(name, 60)
    await operators.trip(redis, UPSTREAM, MODEL, WHO)
    assert await redis.ttl(name) == -1, "it does not close by itself, not in a day and not later"
    (gauge,) = await gauges.models(redis, UPSTREAM)
    assert (gauge.state, gauge.until_ms, gauge.tripped, gauge.in_air, gauge.trips) == ("open", None, "operator", 3, 2)

    assert await operators.reset(redis, UPSTREAM, MODEL, WHO)
    assert await book(redis) == {b"in_air": b"3"}, "what is in the air stays there"
    assert await redis.ttl(name) > 0
    assert not await operators.reset(redis, UPSTREAM, MODEL, WHO)
    assert await done(redis) == [
        (WHO, "breaker.reset", MODEL),
        (WHO, "breaker.reset", MODEL),
        (WHO, "breaker.tripped", MODEL),
    ]


async def test_a_model_that_nobody_uses_has_no_breaker(redis: Redis) -> None:
    with pytest.raises(UnknownModelError, match="no lane for model 'maker/modl' here; nothing was handed over yet"):
        await operators.trip(redis, UPSTREAM, "maker/modl", WHO)
    await redis.execute_command("SADD", keys.lanes(UPSTREAM), MODEL)
    with pytest.raises(UnknownModelError, match="did you mean 'maker/model'"):
        await operators.trip(redis, UPSTREAM, "maker/modl", WHO)
    assert await done(redis) == []


async def test_a_model_is_paused_until_it_is_resumed(redis: Redis) -> None:
    await operators.pause(redis, UPSTREAM, MODEL, WHO)
    paused = Pause(f"op:{MODEL}", None, f"paused by {WHO}")
    assert await gauges.models(redis, UPSTREAM) == [ModelGauge(model=MODEL, pauses=(paused,))]
    await operators.pause(redis, UPSTREAM, MODEL, WHO, "costs | too much")
    (pause,) = await gauges.pauses(redis, UPSTREAM)
    assert pause.reason == f"paused by {WHO}: costs | too much"
    assert await operators.resume(redis, UPSTREAM, MODEL, WHO)
    assert await gauges.pauses(redis, UPSTREAM) == ()
    assert not await operators.resume(redis, UPSTREAM, MODEL, WHO)
    assert [what for _, what, _ in await done(redis)] == ["model.resumed"] * 2 + ["model.paused"] * 2


async def test_a_pause_that_the_upstream_asked_for_is_not_ours_to_end(redis: Redis) -> None:
    for scope in (MODEL, "account"):
        await redis.execute_command("HSET", keys.pauses(UPSTREAM), scope, "-1|Retry-After")
    assert not await operators.resume(redis, UPSTREAM, MODEL, WHO)
    assert len(await gauges.pauses(redis, UPSTREAM)) == 2


@pytest.mark.parametrize("change", [operators.reset, operators.resume])
async def test_workers_are_told_when_a_lane_may_go_on(redis: Redis, change: object) -> None:
    assert callable(change)
    async with redis.pubsub() as subscription:
        await subscription.subscribe(keys.wake(UPSTREAM))
        await subscription.get_message(timeout=5)
        await change(redis, UPSTREAM, MODEL, WHO)
        message = await subscription.get_message(timeout=5)
    assert message is not None
    assert message["data"] == MODEL.encode()
