"""Looks that serve many: made once a moment, however many ask, and never remembered when they failed."""

import asyncio

import pytest

from batchmill.service.moments import Moments


class Look:
    """Counts how often somebody looked; each look lasts until it is let go."""

    def __init__(self) -> None:
        self.count = 0
        self.go_on = asyncio.Event()

    async def __call__(self) -> int:
        self.count += 1
        await self.go_on.wait()
        return self.count


async def test_who_asks_meanwhile_waits_for_the_same_look() -> None:
    moments, look = Moments(), Look()
    asked = [asyncio.create_task(moments.get("it", look)) for _ in range(50)]
    await asyncio.sleep(0)
    look.go_on.set()
    assert await asyncio.gather(*asked) == [1] * 50
    assert await moments.get("it", look) == 1


async def test_what_is_old_is_looked_at_anew() -> None:
    moments, look = Moments(), Look()
    look.go_on.set()
    assert await moments.get("it", look, 0.0) == 1
    await asyncio.sleep(0.001)  # so that the clock has gone on
    assert await moments.get("it", look, 0.0) == 2
    assert await moments.get("other", look) == 3


async def test_who_leaves_takes_nobody_along() -> None:
    moments, look = Moments(), Look()
    first, second = (asyncio.create_task(moments.get("it", look)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    look.go_on.set()
    assert await second == 1


async def test_an_error_is_told_to_all_who_wait_and_then_forgotten() -> None:
    moments = Moments()
    failing = True

    async def look() -> int:
        await asyncio.sleep(0)
        if failing:
            raise ValueError("no")
        return 7

    found = await asyncio.gather(*(moments.get("it", look) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [ValueError] * 3
    failing = False
    assert await moments.get("it", look) == 7


async def test_after_a_change_everybody_looks_anew_also_while_a_look_is_under_way() -> None:
    moments, look = Moments(), Look()
    old = asyncio.create_task(moments.get("it", look))
    await asyncio.sleep(0)
    moments.forget()
    new = asyncio.create_task(moments.get("it", look))
    await asyncio.sleep(0)
    look.go_on.set()
    await asyncio.gather(old, new)
    assert look.count == 2
    assert await moments.get("it", look) == await new
    moments.forget()
    assert await moments.get("it", look) == 3


def test_what_is_kept_is_made_once() -> None:
    moments = Moments()
    assert moments.keep("reader", list) is moments.keep("reader", list)


async def test_a_look_that_took_long_serves_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("batchmill.service.moments.time.monotonic", lambda: now)
    moments, looks = Moments(), 0

    async def look() -> int:
        nonlocal now, looks
        now += 10.0
        looks += 1
        return looks

    assert await moments.get("it", look) == 1
    now += 39.0
    assert await moments.get("it", look) == 1
    now += 2.0
    assert await moments.get("it", look) == 2
