"""What the fleet counts of models, in slots of time: windows move on, workers add up, and every slot ends."""

from collections.abc import Mapping
from types import SimpleNamespace

import pytest
from redis.asyncio import Redis

from batchmill.routing.health import Tally, Traffic, Window
from batchmill.store import keys, statistics
from batchmill.store.statistics import SLOT, Counted, SlotReader, count, models_seen, note_candidates, traffic

from .gate_helpers import Clock
from .store_helpers import MODEL, UPSTREAM

LIVES = {10: 120, 60: 600, 300: 7200, 3600: 93_600}


@pytest.fixture(autouse=True)
def time_stands_still(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own clock goes as that of the server does."""
    monkeypatch.setattr(statistics, "time", SimpleNamespace(monotonic=lambda: clock.now / 1000))


def answers(number: int, latency_ms: int = 100) -> Tally:
    tally = Tally()
    for _ in range(number):
        tally.answered(latency_ms, latency_ms // 2, 10)
    return tally


async def counted(redis: Redis, clock: Clock, model: str = MODEL, **providers: Tally) -> None:
    """Count as a worker does, at this moment."""
    one = Counted(model, clock.now // (SLOT * 1000), clock.now, dict(providers))
    flushed = await count(redis, UPSTREAM, [one])
    assert flushed == statistics.Flushed(clock.now)


async def seen(redis: Redis, window: Window, model: str = MODEL) -> Traffic:
    return (await traffic(redis, UPSTREAM, [model], window))[model]


async def test_what_workers_count_adds_up_by_provider(redis: Redis, clock: Clock) -> None:
    failed = Tally(calls=2, failures=2, limited=3)
    await counted(redis, clock, One=answers(3), Two=answers(1, 900))
    await clock.forward(1500)
    await counted(redis, clock, Two=failed)
    await clock.forward(500)
    found = await seen(redis, Window.MINUTE)
    assert (found.calls, found.failures, found.limited) == (6, 2, 3)
    assert (found.at, found.age) == (clock.now - 500, 0.5)
    assert set(found.providers) == {"One", "Two"}
    assert found.providers["One"].success_rate == 1
    assert found.providers["Two"].success_rate == pytest.approx(1 / 3)
    assert found.latency is not None
    assert found.latency.p50 == pytest.approx(100, rel=0.05)
    assert found.latency.p99 == pytest.approx(900, rel=0.05)
    assert found.tokens_per_second == pytest.approx(40_000 / (3 * 50 + 450))


async def test_a_provider_may_have_any_name(redis: Redis, clock: Clock) -> None:
    names = {"at": answers(1), "a|b": answers(2), "": answers(3), "Ü 1": answers(4)}
    await count(redis, UPSTREAM, [Counted(MODEL, clock.now // 10_000, clock.now, names)])
    found = await seen(redis, Window.MINUTE)
    assert {name: one.calls for name, one in found.providers.items()} == {"at": 1, "a|b": 2, "": 3, "Ü 1": 4}


@pytest.mark.parametrize(("window", "slot"), [(Window.MINUTE, 10), (300, 60), (3600, 300), (Window.DAY, 3600)])
async def test_a_window_forgets_what_is_older(redis: Redis, clock: Clock, window: int, slot: int) -> None:
    await counted(redis, clock, One=answers(2))  # at noon, where every slot begins
    await clock.forward((window - slot) * 1000)
    assert (await seen(redis, Window(window))).calls == 2
    await clock.forward(slot * 1000 - 1)
    await counted(redis, clock, One=answers(1))
    assert (await seen(redis, Window(window))).calls == 3
    await clock.forward(1)
    assert (await seen(redis, Window(window))).calls == 1


async def test_every_slot_ends_after_the_windows_that_need_it(redis: Redis, clock: Clock) -> None:
    await counted(redis, clock, One=answers(1))
    for size, life in LIVES.items():
        left = await redis.pttl(keys.traffic(UPSTREAM, MODEL, size, clock.now // (size * 1000)))
        assert (life - 10) * 1000 < left <= life * 1000
    assert 0 < await redis.pttl(keys.models_seen(UPSTREAM)) <= 86_400_000


async def test_models_are_seen_for_an_hour_and_forgotten_after_a_day(redis: Redis, clock: Clock) -> None:
    await counted(redis, clock, "a/old", One=answers(1))
    await clock.forward(2_000_000)
    await counted(redis, clock, "a/new", One=answers(1))
    await note_candidates(redis, UPSTREAM, ["a/candidate"])
    assert set(await models_seen(redis, UPSTREAM)) == {"a/old", "a/new", "a/candidate"}
    await clock.forward(2_000_000)
    assert set(await models_seen(redis, UPSTREAM)) == {"a/new", "a/candidate"}
    assert set(await models_seen(redis, UPSTREAM, Window.DAY)) == {"a/old", "a/new", "a/candidate"}
    await clock.forward(86_400_000 - 3_000_000)
    await counted(redis, clock, "a/now", One=answers(1))
    assert await redis.zscore(keys.models_seen(UPSTREAM), "a/old") is None


async def test_a_model_without_calls_has_none(redis: Redis, clock: Clock) -> None:
    assert await seen(redis, Window.HOUR) == Traffic(model=MODEL, seconds=3600)


async def test_a_reader_remembers_slots_that_are_over_and_sees_what_is_new(
    redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read_slot = statistics._read_slot

    def noted(fields: Mapping[bytes, bytes]) -> statistics.Slot:
        reads.append("slot")
        return read_slot(fields)

    monkeypatch.setattr(statistics, "_read_slot", noted)
    reader = SlotReader(redis, UPSTREAM)
    await counted(redis, clock, One=answers(1))
    await clock.forward(50_000)
    found, _ = await reader.read([MODEL], [Window.MINUTE])
    assert found.calls(MODEL, Window.MINUTE) == 1
    assert len(reads) == 6
    await counted(redis, clock, One=answers(1))
    reads.clear()
    found, _ = await reader.read([MODEL], [Window.MINUTE])
    assert found.calls(MODEL, Window.MINUTE) == 2
    assert len(reads) == 5  # the one that goes on, and those that a slow worker may still count in


async def test_commands_go_along_in_the_same_round_trip(redis: Redis, clock: Clock) -> None:
    _, replies = await SlotReader(redis, UPSTREAM).read([MODEL], [Window.MINUTE], [("GET", "a"), ("GET", "b")])
    assert replies == [None, None]


async def test_what_one_model_s_slot_refuses_does_not_keep_the_others_from_being_counted(
    redis: Redis, clock: Clock
) -> None:
    slot = clock.now // 10_000
    await redis.execute_command("SET", keys.traffic(UPSTREAM, "a/bad", 10, slot), "no hash", "EX", 60)
    good, bad = (Counted(model, slot, clock.now, {"": answers(1)}) for model in ("a/good", "a/bad"))
    flushed = await count(redis, UPSTREAM, [bad, good])
    assert flushed.refused == (bad,)
    assert flushed.why is not None
    assert (await seen(redis, Window.MINUTE, "a/good")).calls == 1
