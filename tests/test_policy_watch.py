"""A change of the config file is in force within seconds; a file that is wrong changes nothing."""

import os
from decimal import Decimal
from pathlib import Path

import pytest
import structlog
from redis.asyncio import Redis

from batchmill.config.policy import Policy
from batchmill.config.settings import Settings, load
from batchmill.store.policy import BUILT_IN, live
from batchmill.workers.policy_watch import policy_in_force

from .waiting import wait_until

QUICK = 0.01


def budget(usd: str) -> str:
    return f'[[budgets]]\nname = "daily"\nlimit_usd = {usd}\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("BATCHMILL", "OPENROUTER"))]:
        monkeypatch.delenv(name)
    return tmp_path / "batchmill.toml"


def write(file: Path, content: str) -> None:
    file.write_text(content)


def settings_of(file: Path, content: str) -> Settings:
    file.write_text(content)
    return load(file, {})


async def limit(redis: Redis, settings: Settings) -> Decimal | None:
    budgets = (await live(redis, settings.upstream_name)).policy.budgets
    return budgets[0].limit_usd if budgets else None


async def test_the_file_is_in_force_from_the_start(redis: Redis, file: Path) -> None:
    settings = settings_of(file, budget("5"))
    async with policy_in_force(redis, settings):
        found = await live(redis, settings.upstream_name)
        assert (found.source, found.policy) == (str(file), settings.policy)


async def test_settings_without_a_policy_leave_what_there_is(redis: Redis, file: Path) -> None:
    async with policy_in_force(redis, settings_of(file, budget("5"))):
        pass
    settings = load(environ={})
    async with policy_in_force(redis, settings):
        assert await limit(redis, settings) == 5


async def test_nothing_is_applied_where_nothing_is_said(redis: Redis, file: Path) -> None:
    settings = settings_of(file, "[worker]\nprocesses = 2\n")
    async with policy_in_force(redis, settings):
        assert (await live(redis, settings.upstream_name)).source == BUILT_IN


async def test_a_change_of_the_file_is_in_force_soon(redis: Redis, file: Path) -> None:
    settings = settings_of(file, budget("5"))
    async with policy_in_force(redis, settings, look_every=QUICK):
        for usd in ("6", "7.25"):
            write(file, budget(usd))

            async def raised(wanted: Decimal = Decimal(usd)) -> bool:
                return await limit(redis, settings) == wanted

            await wait_until(raised, "the new limit")
        other = file.with_name("other.toml")
        write(other, budget("8"))
        other.replace(file)  # as editors do

        async def replaced() -> bool:
            return await limit(redis, settings) == 8

        await wait_until(replaced, "the limit of the file that took its place")


async def test_a_file_that_is_wrong_or_gone_changes_nothing(redis: Redis, file: Path) -> None:
    settings = settings_of(file, budget("5"))
    with structlog.testing.capture_logs() as logged:
        async with policy_in_force(redis, settings, look_every=QUICK):
            write(file, "[[budgets]]\nnam = 'x'\n")
            await wait_until(lambda: "policy.refused" in [entry["event"] for entry in logged], "the refusal")
            assert (await live(redis, settings.upstream_name)).policy == settings.policy
            file.unlink()  # noqa: ASYNC240 - a test
            write(file, budget("6"))

            async def mended() -> bool:
                return await limit(redis, settings) == 6

            await wait_until(mended, "the mended file")
    (refused,) = [entry for entry in logged if entry["event"] == "policy.refused"]
    assert "unknown key 'budgets[0].nam'; did you mean 'name'?" in refused["error"]


async def test_a_file_without_a_policy_any_more_leaves_the_last_one(redis: Redis, file: Path) -> None:
    """An editor that has just emptied the file does not take the cap away."""
    settings = settings_of(file, budget("5"))
    async with policy_in_force(redis, settings, look_every=QUICK):
        write(file, "")
        write(file, "budgets = []\n")

        async def none_left() -> bool:
            return (await live(redis, settings.upstream_name)).policy == Policy()

        await wait_until(none_left, "the empty table")
    assert (await live(redis, settings.upstream_name)).version == 2
