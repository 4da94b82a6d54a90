"""Alerts in Redis: raised once by however many look, listed, acknowledged, and what a look sees."""

import asyncio
import subprocess
import sys
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from batchmill.config.alerting import Alerts, Webhook
from batchmill.config.policy import Budget, Policy
from batchmill.config.settings import Settings
from batchmill.config.windows import WindowKind, window_at
from batchmill.openrouter.wire import KeyInfo
from batchmill.store import account, alerts, deliveries, keys, policy
from batchmill.store.audit import entries
from batchmill.store.clock import now_ms
from batchmill.store.embedded import EmbeddedServer
from batchmill.workers.alerts import AlertWatch

NANO = 1_000_000_000
DAILY = Budget(name="daily", limit_usd=Decimal(100), window=WindowKind.DAY)
TOTAL = Budget(name="all", limit_usd=Decimal(1000))
HOOK = Webhook(url="https://hooks.test/x", secret_env="HOOK_SECRET", name="ops")
MODEL = "a/b"
PROCESSES = 8


class Eye:
    """A watch, and what it raised."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.name = settings.upstream_name
        self.watch = AlertWatch(redis, settings)

    async def apply(self, *budgets: Budget, **more: Any) -> None:
        await policy.apply(self.redis, self.name, Policy(budgets=budgets, **more), "test")

    async def spend(self, budget: Budget, usd: int, field: str = "spent") -> None:
        window = window_at(budget.window, budget.timezone, await now_ms(self.redis))
        key = keys.budget(self.name, budget.name, window.id)
        await self.redis.execute_command("HINCRBY", key, field, usd * NANO)
        if window.end_ms is not None:
            await self.redis.execute_command("EXPIRE", key, 3600)

    async def look(self) -> list[str]:
        """Look, and return what was raised by it."""
        before = {raised.id for raised in await alerts.listed(self.redis, self.name, everything=True)}
        await self.watch.look()
        found = await alerts.listed(self.redis, self.name, everything=True)
        return [raised.alert.kind.value for raised in reversed(found) if raised.id not in before]


@pytest.fixture
def eye(redis: Redis, settings: Settings) -> Eye:
    return Eye(redis, settings)


async def test_each_level_is_raised_once_as_it_is_crossed(eye: Eye) -> None:
    await eye.apply(DAILY)
    assert await eye.look() == []
    await eye.spend(DAILY, 80)
    assert await eye.look() == ["budget.warning"]
    await eye.spend(DAILY, 15, "suspect")
    assert await eye.look() == ["budget.critical"]
    assert await eye.look() == []
    await eye.spend(DAILY, 5, "debt")
    assert await eye.look() == ["budget.exhausted"]
    assert await eye.look() == []


async def test_money_that_is_only_held_is_no_news(eye: Eye) -> None:
    await eye.apply(DAILY)
    await eye.spend(DAILY, 99, "held")
    assert await eye.look() == []


async def test_a_raised_limit_is_watched_anew(eye: Eye) -> None:
    await eye.apply(TOTAL)
    await eye.spend(TOTAL, 800)
    assert await eye.look() == ["budget.warning"]
    await policy.raise_budget(eye.redis, eye.name, "all", 2000 * NANO, "me")
    assert await eye.look() == []
    await eye.spend(TOTAL, 800)
    assert await eye.look() == ["budget.warning"]


async def test_work_that_waits_for_a_budget_shows_that_it_is_exhausted(eye: Eye) -> None:
    await eye.apply(TOTAL)
    await alerts.note_waiting(eye.redis, eye.name, "all", 6.0)
    assert await eye.look() == ["budget.exhausted"]
    await policy.raise_budget(eye.redis, eye.name, "all", 2000 * NANO, "me")
    assert await eye.look() == []


async def test_a_forecast_comes_from_whoever_makes_one(eye: Eye, settings: Settings) -> None:
    async def forecast(redis: Redis, upstream: str, budgets: object) -> dict[str, int]:
        return {"all": 1001 * NANO}

    await eye.apply(TOTAL)
    eye.watch = AlertWatch(eye.redis, settings, forecast)
    assert await eye.look() == ["budget.forecast"]
    await eye.apply(TOTAL, alerts=Alerts(forecast=False))
    assert await eye.look() == []


async def test_the_log_tells_each_alert_once(eye: Eye) -> None:
    await eye.apply(DAILY)
    await eye.spend(DAILY, 95)
    with capture_logs() as told:
        await eye.look()
        await eye.look()
    assert [(one["kind"], one["log_level"]) for one in told if one["event"] == "alert"] == [
        ("budget.warning", "warning"),
        ("budget.critical", "error"),
    ]


async def test_the_key_s_own_limits_are_watched(eye: Eye) -> None:
    await account.keep(eye.redis, eye.name, KeyInfo(limit=Decimal(10), limit_remaining=Decimal("4.5")))
    assert await eye.look() == ["credits.low"]
    assert await eye.look() == []


async def test_a_refused_account_is_told(eye: Eye) -> None:
    until = await now_ms(eye.redis) + 60_000
    await eye.redis.execute_command("HSET", keys.pauses(eye.name), "refused", f"{until}|insufficient_credits: gone")
    assert await eye.look() == ["account.refused"]


async def test_a_breaker_s_time_begins_when_it_is_first_seen_open_and_ends_when_it_closes(eye: Eye) -> None:
    name, lanes = keys.model(eye.name, MODEL), keys.lanes(eye.name)
    await eye.redis.execute_command("SADD", lanes, MODEL)
    await eye.redis.execute_command("HSET", name, "state", "open", "until", -1, "tripped", "operator")
    await eye.redis.execute_command("EXPIRE", name, 3600)
    assert await eye.look() == []
    began = (await alerts.notes(eye.redis, eye.name)).open_since[MODEL]
    await eye.redis.execute_command("HSET", keys.alert_notes(eye.name), f"open|{MODEL}", began - 600_000)
    assert await eye.look() == ["breaker.open"]
    await eye.redis.execute_command("HSET", name, "state", "half")
    assert await eye.look() == []
    await eye.redis.execute_command("HSET", name, "state", "closed")
    assert await eye.look() == []
    assert (await alerts.notes(eye.redis, eye.name)).open_since == {}


async def test_an_open_breaker_that_nobody_asks_holds_nobody_up(eye: Eye) -> None:
    name = keys.model(eye.name, MODEL)
    await eye.redis.execute_command("SADD", keys.lanes(eye.name), MODEL)
    await eye.redis.execute_command("HSET", name, "state", "open", "until", await now_ms(eye.redis) - 61_000)
    await eye.redis.execute_command("EXPIRE", name, 3600)
    await eye.look()
    assert (await alerts.notes(eye.redis, eye.name)).open_since == {}


async def test_breaches_are_told_once_and_suspects_by_their_sum(eye: Eye) -> None:
    await eye.redis.execute_command("HSET", keys.books(eye.name), "bound_breaches", 2)
    await eye.redis.execute_command("HSET", keys.suspects(eye.name), "h.0.1", b'{"amount":1000000001,"budgets":[]}')
    assert await eye.look() == ["suspects.outstanding", "bound.breached"]
    assert (await alerts.notes(eye.redis, eye.name)).breaches_told == 2
    assert await eye.look() == []


async def test_what_can_t_be_read_keeps_nobody_from_work(eye: Eye) -> None:
    await eye.redis.execute_command("HSET", keys.suspects(eye.name), "h.0.1", b"[]")
    with capture_logs() as told:
        await eye.watch.look()
    assert [one["event"] for one in told] == ["alerts.unknown"]


async def test_who_acknowledges_is_kept_and_the_alert_leaves_the_list(eye: Eye) -> None:
    await eye.apply(DAILY)
    await eye.spend(DAILY, 95)
    await eye.look()
    critical, warning = await alerts.listed(eye.redis, eye.name)
    assert await alerts.acknowledge(eye.redis, eye.name, [warning.id], "ann") == [warning.id]
    assert await alerts.acknowledge(eye.redis, eye.name, [warning.id, critical.id], "bob") == [critical.id]
    assert await alerts.listed(eye.redis, eye.name) == []
    seen = [one.acknowledged for one in await alerts.listed(eye.redis, eye.name, everything=True)]
    assert [one and one.who for one in seen] == ["bob", "ann"]
    assert [one.what for one in await entries(eye.redis, eye.name, 2)] == ["alert.acknowledged"] * 2
    assert await eye.look() == []  # seen is not forgotten
    with pytest.raises(alerts.UnknownAlertError, match="no alert '1-1'"):
        await alerts.acknowledge(eye.redis, eye.name, ["1-1"], "ann")


async def test_only_webhooks_that_want_it_are_to_be_told(eye: Eye) -> None:
    few = msgspec.structs.replace(HOOK, name="few", events=("budget.critical",))
    await eye.apply(DAILY, webhooks=(HOOK, few))
    await eye.spend(DAILY, 95)
    await eye.look()
    taken = await deliveries.of_alerts(eye.redis, eye.name).take(60.0)
    assert sorted(one.member.partition(" ")[0] for one in taken) == ["few", "ops", "ops"]
    assert await deliveries.of_alerts(eye.redis, eye.name).take(60.0) == []  # they are ours


_PROCESS = """
import asyncio, sys
from batchmill.config.settings import load
from batchmill.store.connection import connect
from batchmill.workers.alerts import AlertWatch

async def main(url, key):
    settings = load(environ={"BATCHMILL_BASE_URL": "http://127.0.0.1:1/v1"})
    redis = connect(url)
    watch = AlertWatch(redis, settings)
    await watch.look()  # all is loaded and connected
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(20):
        await redis.execute_command("HINCRBY", key, "spent", 1_000_000_000)
        await watch.look()
    await redis.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_eight_processes_that_cross_together_raise_each_alert_once(
    real_redis: Redis, settings: Settings, server: EmbeddedServer
) -> None:
    budget = Budget(name="all", limit_usd=Decimal(160))
    eye = Eye(real_redis, settings)
    await eye.apply(budget, webhooks=(HOOK,))
    arguments = [sys.executable, "-c", _PROCESS, server.url, keys.budget(eye.name, "all", "total")]
    crowd = [
        await asyncio.create_subprocess_exec(*arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(PROCESSES)
    ]
    for process in crowd:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    told = await asyncio.gather(*(process.communicate(b"go\n") for process in crowd))
    assert [process.returncode for process in crowd] == [0] * PROCESSES
    found = await alerts.listed(real_redis, eye.name)
    expected = ["budget.warning", "budget.critical", "budget.exhausted"]
    assert sorted(one.alert.kind.value for one in found) == sorted(expected)
    assert len(await deliveries.of_alerts(real_redis, eye.name).take(60.0)) == len(expected)
    logs = b"".join(out for out, _ in told)
    assert [logs.count(kind.encode()) for kind in expected] == [1, 1, 1]
