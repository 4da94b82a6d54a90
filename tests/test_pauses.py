"""Pauses that an upstream asks for, and the adaptive share of a model in the air."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from batchmill.store import keys, pauses
from batchmill.store.gate import Why
from batchmill.store.pauses import Pause
from batchmill.store.settlement import Outcome

from .gate_helpers import NOON, Clock, Worker, fields, model_key
from .store_helpers import MODEL, UPSTREAM

PAUSES = keys.pauses(UPSTREAM)


async def pause(redis: Redis, scope: str = MODEL, *, seconds: float | None = None, cut: bool = False) -> Pause:
    return await pauses.pause(redis, UPSTREAM, MODEL, scope, "slow down", seconds=seconds, cut=cut)


async def share(redis: Redis) -> float | None:
    found = (await fields(redis, model_key())).get("share")
    return None if found is None else float(found)


@pytest.mark.parametrize("seconds", [0.5, 7, 3600])
async def test_the_upstream_says_how_long(redis: Redis, clock: Clock, seconds: float) -> None:
    assert await pause(redis, seconds=seconds) == Pause(seconds, begun=True)
    assert await fields(redis, PAUSES) == {MODEL: f"{NOON + round(seconds * 1000)}|slow down"}
    reply = await Worker(redis, clock).admit((0, 0))
    assert (reply.why, reply.which, reply.wait) == (Why.PAUSE, 1, seconds * 1000)
    assert await redis.ttl(model_key()) > 0


async def test_a_pause_is_at_least_a_moment(redis: Redis, clock: Clock) -> None:
    assert await pause(redis, seconds=0) == Pause(0.001, begun=True)


async def test_without_word_pauses_in_a_row_grow_longer(redis: Redis, clock: Clock) -> None:
    lasted = []
    for _ in range(8):
        told = await pause(redis)
        assert told.begun
        lasted.append(told.seconds)
        await clock.forward(round(told.seconds * 1000))
    assert lasted == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_an_answer_ends_the_row(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock)
    for _ in range(3):
        await clock.forward(round((await pause(redis)).seconds * 1000))
    for outcome, expected in ((Outcome.NOTHING, 8), (Outcome.FAILED, 16), (Outcome.ANSWERED, 1)):
        await worker.finish(outcome)
        told = await pause(redis)
        assert told.seconds == expected
        await clock.forward(expected * 1000)


async def test_the_refusals_of_one_volley_are_one_pause(redis: Redis, clock: Clock) -> None:
    assert (await pause(redis, seconds=2)).begun
    await clock.forward(500)
    assert await pause(redis) == Pause(1.5, begun=False)
    assert await pause(redis, seconds=1) == Pause(1.5, begun=False)
    assert await pause(redis, seconds=4) == Pause(4, begun=False)
    assert await fields(redis, PAUSES) == {MODEL: f"{NOON + 4500}|slow down"}
    assert (await fields(redis, model_key()))["streak"] == "1"
    await clock.forward(4000)
    assert (await pause(redis)).begun


async def test_scopes_are_paused_apart(redis: Redis, clock: Clock) -> None:
    for scope, seconds in ((MODEL, 1), ("account", 5), (":free", 3)):
        assert await pause(redis, scope, seconds=seconds) == Pause(seconds, begun=True)


async def test_the_share_is_cut_once_a_pause(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock)
    await worker.admit(*[(0, 0)] * 9)
    await pause(redis, seconds=1, cut=True)
    assert await share(redis) == pytest.approx(7)  # of nine in the air and the one that was refused
    await pause(redis, seconds=1, cut=True)
    assert await share(redis) == pytest.approx(7)
    await clock.forward(1000)
    await pause(redis, seconds=1, cut=True)
    assert await share(redis) == pytest.approx(4.9)
    await clock.forward(1000)
    reply = await worker.admit((0, 0))
    assert (reply.looked, reply.why) == (0, Why.SHARE)


async def test_a_share_far_above_what_is_in_the_air_is_cut_from_there(redis: Redis, clock: Clock) -> None:
    await redis.execute_command("HSET", model_key(), "share", 500, "in_air", 9)
    await pause(redis, seconds=1, cut=True)
    assert await share(redis) == pytest.approx(7)


async def test_one_line_may_always_be_in_the_air(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock)
    for _ in range(5):
        await pause(redis, seconds=1, cut=True)
        await clock.forward(1000)
    assert await share(redis) == 1
    assert (await worker.admit((0, 0), (0, 0))).looked == 1


async def test_a_pause_need_not_cut(redis: Redis, clock: Clock) -> None:
    await pause(redis, seconds=1)
    assert await share(redis) is None


async def test_the_share_grows_by_one_for_each_round_of_answers(redis: Redis, clock: Clock) -> None:
    worker = Worker(redis, clock)
    await redis.execute_command("HSET", model_key(), "share", 4)
    await worker.finish(Outcome.NOTHING, Outcome.FAILED)
    assert await share(redis) == 4
    for expected in (5, 6, 7):
        await worker.finish(*[Outcome.ANSWERED] * (expected - 1))
        assert await share(redis) == expected
    await redis.execute_command("HSET", model_key(), "share", 1024)
    await worker.finish(Outcome.ANSWERED)
    assert await share(redis) is None


async def test_pauses_that_are_over_are_dropped(redis: Redis, clock: Clock) -> None:
    await redis.execute_command(
        "HSET", PAUSES, "over", f"{NOON - 1}|429", "now", f"{NOON}|429", "op:x", "-1|operator", "on", f"{NOON + 1}|429"
    )
    await pauses.drop_over(redis, UPSTREAM)
    assert set(await fields(redis, PAUSES)) == {"now", "op:x", "on"}


async def test_a_scope_that_is_paused_anew_meanwhile_stays_paused(
    redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await redis.execute_command("HSET", PAUSES, MODEL, f"{NOON - 1}|429")
    read: Callable[..., Awaitable[Any]] = redis.execute_command
    paused: list[Pause] = []

    async def read_and_be_late(*command: Any, **options: Any) -> Any:
        found = await read(*command, **options)
        if command[0] == "HGETALL" and not paused:
            paused.append(await pause(redis, seconds=30))
        return found

    monkeypatch.setattr(redis, "execute_command", read_and_be_late)
    await pauses.drop_over(redis, UPSTREAM)
    assert await fields(redis, PAUSES) == {MODEL: f"{NOON + 30_000}|slow down"}


async def test_an_overloaded_model_is_slowed_down_once_in_a_while_and_not_paused(redis: Redis, clock: Clock) -> None:
    await redis.execute_command("HSET", keys.model(UPSTREAM, MODEL), "in_air", 9)
    assert await pauses.slow_down(redis, UPSTREAM, MODEL)
    assert not await pauses.slow_down(redis, UPSTREAM, MODEL)
    assert float(await redis.execute_command("HGET", keys.model(UPSTREAM, MODEL), "share")) == 7.0
    await clock.forward(5_000)
    assert await pauses.slow_down(redis, UPSTREAM, MODEL)
    assert float(await redis.execute_command("HGET", keys.model(UPSTREAM, MODEL), "share")) == pytest.approx(4.9)
    assert not await redis.exists(keys.pauses(UPSTREAM))


async def test_what_an_operator_tripped_has_no_end(redis: Redis, clock: Clock) -> None:
    name = keys.model(UPSTREAM, MODEL)
    await redis.execute_command("HSET", name, "state", "open", "until", -1, "tripped", "operator")
    await pauses.pause(redis, UPSTREAM, MODEL, MODEL, "limited", seconds=1.0, cut=True)
    assert await redis.ttl(name) == -1
    await redis.delete(name)
