"""What Prometheus is shown: declared in one file, the same by every gateway, and only growing."""

import re
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from batchmill.config.policy import Budget, Policy
from batchmill.config.settings import Settings
from batchmill.config.windows import WindowKind
from batchmill.service.metrics.exposition import exposition
from batchmill.store import keys, metrics, policy
from batchmill.store.gate import Ask, Caller, Candidate, admit
from batchmill.store.metrics import METRICS, Kind, Tally
from batchmill.store.rules import Rulebook

from .service_helpers import in_process

UPSTREAM = "https://upstream.test/v1"


async def families(redis: Redis) -> dict[str, Any]:
    text = (await exposition(redis, UPSTREAM)).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Any) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sorted(sample.labels.values())): sample.value for sample in family.samples}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_says_what_it_is(metric: metrics.Metric) -> None:
    assert re.fullmatch(r"batchmill_[a-z_]+", metric.name)
    assert metric.says.endswith(".") or metric.says.endswith("...")
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert not metric.name.endswith("_total"), "prometheus_client adds it"


def test_no_metric_is_declared_twice_or_forgotten() -> None:
    declared = [each for each in vars(metrics).values() if isinstance(each, metrics.Metric)]
    assert list(METRICS) == declared
    assert len({metric.name for metric in METRICS}) == len(METRICS)


async def test_what_workers_count_adds_up_over_the_fleet(real_redis: Redis) -> None:
    for _ in range(2):
        tally = Tally()
        tally.count(metrics.LINES, "succeeded", "maker/model", by=3)
        tally.count(metrics.COST, "maker/model", by=1_500_000_000)
        tally.observe(metrics.CALL_SECONDS, 300, "maker/model")
        tally.observe(metrics.CALL_SECONDS, 10**7, "maker/model")
        await metrics.add(real_redis, UPSTREAM, tally.take())
        assert not tally.counts
    found = await families(real_redis)
    assert values(found["batchmill_lines"]) == {("batchmill_lines_total", "maker/model", "succeeded"): 6}
    assert values(found["batchmill_cost_usd"])["batchmill_cost_usd_total", "maker/model"] == 3.0
    seconds = values(found["batchmill_call_seconds"])
    assert seconds["batchmill_call_seconds_bucket", "0.25", "maker/model"] == 0
    assert seconds["batchmill_call_seconds_bucket", "0.5", "maker/model"] == 2
    assert seconds["batchmill_call_seconds_bucket", "+Inf", "maker/model"] == 4
    assert seconds["batchmill_call_seconds_sum", "maker/model"] == pytest.approx(2 * (0.3 + 10**4))


async def test_counters_of_another_version_are_left_out(real_redis: Redis) -> None:
    await metrics.add(real_redis, UPSTREAM, {"batchmill_of_tomorrow\x1fa": 1, "batchmill_lines\x1fonly one label": 1})
    assert not values((await families(real_redis))["batchmill_lines"])


async def test_what_could_not_be_told_is_told_later() -> None:
    tally = Tally()
    tally.count(metrics.CACHED)
    taken = tally.take()
    tally.count(metrics.CACHED)
    tally.put_back(taken)
    assert tally.take() == {"batchmill_cached_lines": 2}


async def test_the_money_of_a_budget_is_shown_as_it_stands(real_redis: Redis) -> None:
    capped = Policy(budgets=(Budget(name="all", window=WindowKind.TOTAL, limit_usd=Decimal(2)),))
    await policy.apply(real_redis, UPSTREAM, capped, "test")
    book = Rulebook(UPSTREAM)
    book.learn(await policy.live(real_redis, UPSTREAM))
    rules = book.rules("maker/model", "default", None, 0)
    line = Candidate("batch_01a20bcf00c3f71811f2a3e18dbe.0.a1", 500_000_000, 1)
    (reply,) = await admit(real_redis, Caller(UPSTREAM, "worker-1", 15.0), 1, [Ask(rules, (line,))])
    assert reply.looked == 1
    found = await families(real_redis)
    shown = {name: values(found[f"batchmill_budget_{name}_usd"]) for name in ("held", "spent", "limit", "overshoot")}
    assert {name: next(iter(money.values())) for name, money in shown.items()} == {
        "held": 0.5, "spent": 0.0, "limit": 2.0, "overshoot": 0.0,
    }  # fmt: skip


async def test_a_lane_is_shown_with_its_lines_and_its_age(real_redis: Redis) -> None:
    await real_redis.execute_command("SADD", keys.lanes(UPSTREAM), "maker/model")
    batch_id = f"batch_{1:012x}0123456789abcdef"
    shards = [part for n in range(3) for part in (n, keys.reference(batch_id, n, 20))]
    await real_redis.execute_command("ZADD", keys.lane(UPSTREAM, "maker/model"), *shards)
    found = await families(real_redis)
    assert values(found["batchmill_lane_lines"]) == {("batchmill_lane_lines", "maker/model"): 60}
    (age,) = values(found["batchmill_lane_oldest_seconds"]).values()
    assert age > 50 * 365 * 86_400


async def test_a_gateway_shows_all_that_is_declared(real_redis: Redis, settings: Settings) -> None:
    async with in_process(real_redis, settings) as client:
        await client.get("/healthz")
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert names == {metric.name for metric in METRICS}
    assert 'batchmill_http_requests_total{operation="healthz",status="200"}' in answer.text


async def test_readiness_says_what_is_missing(real_redis: Redis, settings: Settings) -> None:
    async with in_process(real_redis, settings, tasks=False) as client:
        assert (await client.get("/readyz")).json() == {"status": "ok", "redis": "ok", "storage": "ok"}
        assert (await client.get("/healthz")).json() == {"status": "ok"}
    gone: Redis = Redis.from_url("redis://127.0.0.1:1")
    async with in_process(gone, settings, tasks=False) as client:
        answer = await client.get("/readyz")
        alive = await client.get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert "can't be reached" in answer.json()["redis"]
    assert alive.status_code == httpx.codes.OK
    await gone.aclose()


async def test_a_scrape_takes_few_round_trips_whatever_there_is(real_redis: Redis) -> None:
    models = [f"maker/model-{number}" for number in range(400)]
    await real_redis.execute_command("SADD", keys.lanes(UPSTREAM), *models)
    tally = Tally()
    for model in models:
        tally.count(metrics.LINES, "succeeded", model)
        tally.observe(metrics.CALL_SECONDS, 700, model)
    await metrics.add(real_redis, UPSTREAM, tally.take())
    await exposition(real_redis, UPSTREAM)
    before = await real_redis.info("stats")
    await exposition(real_redis, UPSTREAM)
    after = await real_redis.info("stats")
    assert after["total_reads_processed"] - before["total_reads_processed"] < 60
    assert msgspec.json.encode(len(await metrics.counted(real_redis, UPSTREAM))) == b"1200"
