"""Whose work a batch is, whose turn it is and what it may cost: from the caller's words into Redis, and kept."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Budget, Policy, PriceRule
from batchmill.config.settings import Settings
from batchmill.openrouter.bounds import TEMPLATE_TOKENS
from batchmill.openrouter.simulator import Simulator
from batchmill.producer import Batch, InputError, Producer
from batchmill.producer.conditions import conditions_of
from batchmill.producer.lines import Conditions
from batchmill.producer.render import batch_object
from batchmill.store import batches, keys, policy
from batchmill.store.model import LineState, Priority, Result, Terms
from batchmill.store.records import Recording, record
from batchmill.store.staging import Staging

from .cli_helpers import Desk, SimulatorProcess, desk, shared_simulator, simulator
from .fleet_helpers import lines

__all__ = ["desk", "shared_simulator", "simulator"]

MODEL = "openai/gpt-4o-mini"
DAY = 86_400
TAGS = {"team": "search", "exp": "a=b, c"}


@pytest.fixture
def producer(redis: Redis, settings: Settings) -> Producer:
    """A producer that rehearses: the real prices, and nobody to ask."""
    return Producer(redis, msgspec.structs.replace(settings, simulate=True))


async def budget_of(redis: Redis, batch: Batch) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = await redis.hgetall(keys.batch_budget("simulator", batch.id))  # type: ignore[misc]
    return found


async def work_of(redis: Redis, batch: Batch) -> list[Any]:
    shards = await batches.open_shards(redis, batch.id)
    return [await batches.load(redis, shard.reference, shard.first, shard.last) for shard in shards]


@pytest.mark.parametrize(
    ("max_cost", "nano"), [(None, None), ("2.50", 2_500_000_000), (Decimal("0.000000001"), 1), (3, 3 * 10**9), ("0", 0)]
)
def test_dollars_become_nano_dollars(max_cost: Any, nano: int | None) -> None:
    assert conditions_of(max_cost, "low", "web-1") == Conditions(project="web-1", priority=Priority.LOW, max_cost=nano)


@pytest.mark.parametrize("max_cost", ["much", "-1", "NaN", "inf", "0.0000000001", 0.5, True, "10000000"])
def test_what_no_budget_can_be_is_refused(max_cost: Any) -> None:
    with pytest.raises(InputError, match=r"max_cost|budget"):
        conditions_of(max_cost)


@pytest.mark.parametrize(("priority", "project"), [("urgent", "web"), ("low", ""), ("low", "a b"), ("low", "x" * 65)])
def test_names_that_can_not_be_are_refused(priority: str, project: str) -> None:
    with pytest.raises(InputError, match=r"priority|project"):
        conditions_of(None, priority, project)


async def test_a_batch_has_its_conditions(producer: Producer, redis: Redis) -> None:
    batch = await producer.submit(lines(4), max_cost="1.5", priority="high", project="web")
    status = await batch.status()
    assert (status.project, status.priority, status.max_cost) == ("web", Priority.HIGH, 1_500_000_000)
    assert await budget_of(redis, batch) == {b"limit": b"1500000000"}
    assert await redis.ttl(keys.batch_budget("simulator", batch.id)) > DAY  # as long as the batch
    shown = batch_object(status)
    assert (shown["x_project"], shown["x_priority"], shown["x_cost"]["max_usd"]) == ("web", "high", Decimal("1.5"))
    for shard in await batches.open_shards(redis, batch.id):
        assert (shard.project, shard.priority) == ("web", Priority.HIGH)


async def test_lines_are_staged_with_bounds_and_terms(producer: Producer, redis: Redis) -> None:
    batch = await producer.submit(lines(3, models=(MODEL,)), max_cost=1)
    for work in await work_of(redis, batch):
        assert work.terms.capped
        assert work.terms.max_price == b'{"prompt":0.1515,"completion":0.606}'
        for line in work.lines:
            prompt = len(line.body) + TEMPLATE_TOKENS
            assert line.tokens == prompt + 20
            assert line.bound == -(-(prompt * 1515 + 20 * 6060) // 10)


async def test_without_conditions_a_batch_has_the_usual_ones(producer: Producer, redis: Redis) -> None:
    batch = await producer.submit(lines(1))
    status = await batch.status()
    assert (status.project, status.priority, status.max_cost) == ("default", Priority.NORMAL, None)
    assert await budget_of(redis, batch) == {}
    assert batch_object(status)["x_cost"]["max_usd"] is None


async def test_the_same_lines_are_the_same_batch_whatever_they_may_cost(producer: Producer, redis: Redis) -> None:
    first = await producer.submit(lines(2), max_cost=1)
    again = await producer.submit(lines(2), max_cost=2)
    assert (again.id, again.reused) == (first.id, True)
    assert again.submission is not None
    assert again.submission.max_cost == 2 * 10**9
    assert (await again.status()).max_cost == 10**9
    assert await budget_of(redis, again) == {b"limit": b"1000000000"}


async def test_a_batch_is_found_though_it_could_not_be_enqueued_now(producer: Producer) -> None:
    first = await producer.submit(lines(2))
    again = await producer.submit(lines(2), max_cost="0.000001")
    assert (again.id, again.reused) == (first.id, True)
    with pytest.raises(InputError, match=r"line 1, max_tokens: one call can cost up to \$0\.0"):
        await producer.submit(lines(2), max_cost="0.000001", anew=True)


async def test_who_gives_a_model_openai_s_own_name_hears_which_is_meant(producer: Producer) -> None:
    with pytest.raises(InputError, match=r"Did you mean openai/gpt-4o-mini or .*\[\[aliases\]\]"):
        await producer.submit([{"model": "GPT-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}])


async def test_refused_lines_can_be_skipped(producer: Producer, redis: Redis) -> None:
    source = [*lines(1), {"model": "nobody/nothing", "messages": [{"role": "user", "content": "Hello"}]}]
    with pytest.raises(InputError, match="line 2, model: no usable price is known"):
        await producer.submit(source)
    batch = await producer.submit(source, skip_invalid=True)
    status = await batch.status()
    assert (status.total, status.failed) == (2, 1)
    (failed,) = [result async for result in batch.results()]
    assert (failed.error_code, failed.custom_id) == ("no_price", "line-2")


async def test_what_was_staged_is_taken_back_with_its_budget(
    producer: Producer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stopped(*arguments: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Staging, "_let_go", stopped)
    with pytest.raises(KeyboardInterrupt):
        await producer.submit(lines(2), max_cost=1)
    assert await redis.dbsize() == 0


async def test_a_batch_has_its_budget_from_its_first_moment(
    producer: Producer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no moment sooner: who stages beside us, under the same id, must not change it."""
    let_go, seen = Staging._let_go, []

    async def looking(self: Staging, *arguments: Any) -> str:
        name = keys.batch_budget("simulator", self.batch_id)
        seen.append(await redis.exists(name))
        reply = await let_go(self, *arguments)
        seen.append(await redis.execute_command("HGET", name, "limit"))
        return reply

    monkeypatch.setattr(Staging, "_let_go", looking)
    await producer.submit(lines(2), max_cost=1)
    assert seen == [0, b"1000000000"]


async def test_the_rules_in_force_decide(producer: Producer, redis: Redis) -> None:
    tiny = Policy(budgets=(Budget(name="tiny", limit_usd=Decimal("0.000001"), models=MODEL, project="web"),))
    await policy.apply(redis, "simulator", tiny, "a.toml")
    with pytest.raises(InputError, match="budgets raise tiny USD"):
        await producer.submit(lines(2), project="web")
    await policy.raise_budget(redis, "simulator", "tiny", 10**9, "test")
    assert not (await producer.submit(lines(2), project="web")).reused


async def test_the_files_rules_decide_while_nobody_has_put_any_in_force(redis: Redis, settings: Settings) -> None:
    rules = Policy(prices=(PriceRule(match="own/*", prompt=Decimal(1), completion=Decimal(1)),))
    own = Producer(redis, msgspec.structs.replace(settings, simulate=True, policy=rules))
    batch = await own.submit(lines(1, models=("own/model",)))
    ((work),) = await work_of(redis, batch)
    assert (work.terms.max_price, work.lines[0].bound > 0) == (None, True)


async def test_prices_that_must_be_known_and_are_not(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "speaks_openrouter", property(lambda self: True))
    with pytest.raises(InputError, match="what models cost can't be read"):
        await Producer(redis, settings).submit(lines(1))


async def test_prices_come_from_the_upstream(redis: Redis, settings: Settings) -> None:
    async with Simulator() as simulator:
        upstream = msgspec.structs.replace(settings.upstream, base_url=simulator.base_url)
        batch = await Producer(redis, msgspec.structs.replace(settings, upstream=upstream)).submit(lines(1))
    ((work),) = await work_of(redis, batch)
    assert work.lines[0].bound > 0
    assert work.terms == Terms(pricing=work.terms.pricing)  # no max_price, where it might not be known
    assert work.terms.pricing


async def fail_all(redis: Redis, batch: Batch, model: str) -> None:
    for work in await work_of(redis, batch):
        results = [
            Result(line.index, line.custom_id, model, LineState.FAILED, status_code=400, request=line.body)
            for line in work.lines
        ]
        await record(redis, [Recording(batch.id, tuple(results))], "worker", DAY)


async def test_a_retry_keeps_the_conditions(producer: Producer, redis: Redis) -> None:
    batch = await producer.submit(
        lines(2, models=(MODEL,)), max_cost=1, priority=Priority.LOW, project="web", tags=TAGS, key="0123456789ab"
    )
    (work, _) = await work_of(redis, batch)
    await redis.execute_command("HSET", keys.batch_budget("simulator", batch.id), "spent", 5)
    await fail_all(redis, batch, MODEL)
    again = await batch.retry()
    status = await again.status()
    assert (status.project, status.priority, status.max_cost) == ("web", Priority.LOW, 10**9)
    assert status.tags == (await batch.status()).tags != ()
    assert status.key == "0123456789ab"  # whose budget pays for the retry, too
    assert await budget_of(redis, again) == {b"limit": b"1000000000"}
    for retried in await work_of(redis, again):
        assert retried.terms == work.terms
        assert retried.lines[0].bound > 0


async def test_a_retry_of_what_costs_too_much_by_now(producer: Producer, redis: Redis) -> None:
    batch = await producer.submit(lines(2, models=(MODEL,)))
    await fail_all(redis, batch, MODEL)
    await policy.apply(redis, "simulator", Policy(budgets=(Budget(name="tiny", limit_usd=Decimal(0)),)), "a.toml")
    with pytest.raises(InputError, match="line-0 can't be run again: one call can cost"):
        await batch.retry()


def test_a_run_with_a_budget_of_its_own(desk: Desk, simulator: SimulatorProcess) -> None:
    desk.write("prompts.jsonl", 4)
    told = desk.run("run", "prompts.jsonl", "--max-cost", "2.5", "--priority", "low", "--project", "web")
    assert told.code == 0
    again = desk.run("run", "prompts.jsonl", "--max-cost", "3")
    assert "keeps its --max-cost of $2.5000; change it with: batchmill budgets raise batch_" in again.err
    batch_id = again.err.split()[0]
    status = json.loads(desk.run("status", batch_id, "--json").out)
    assert (status["x_project"], status["x_priority"], status["x_cost"]["max_usd"]) == ("web", "low", 2.5)


def test_a_run_without_a_budget_gets_none_later(desk: Desk) -> None:
    desk.write("prompts.jsonl", 2)
    batch_id = desk.run("submit", "prompts.jsonl").out.strip()
    again = desk.run("submit", "prompts.jsonl", "--max-cost", "1")
    assert again.out.strip() == batch_id
    assert "it has no --max-cost, and gets none now" in again.err


def test_wrong_wishes_are_told_in_a_line(desk: Desk) -> None:
    desk.write("prompts.jsonl", 2)
    for wish in (("--max-cost", "much"), ("--project", "a b"), ("--priority", "urgent")):
        told = desk.run("submit", "prompts.jsonl", *wish)
        assert told.code == 2
        assert wish[1] in told.err
    told = desk.run("submit", "prompts.jsonl", "--max-cost", "0.000001")
    assert "over the whole of the batch's --max-cost ($0.000001)" in told.err


async def test_tags_go_with_every_line_and_are_told(producer: Producer, redis: Redis) -> None:
    batch = await producer.submit(lines(3), tags=TAGS)
    status = await batch.status()
    assert status.tags == ("exp=a=b, c", "team=search")
    assert batch_object(status)["x_metadata"] == TAGS
    assert [work.terms.tags for work in await work_of(redis, batch)] == [status.tags] * len(await work_of(redis, batch))
    again = await producer.submit(lines(3), tags={"team": "ads"})  # no part of what the batch is
    assert (again.reused, (await again.status()).tags) == (True, status.tags)


async def test_a_routed_line_has_its_tags_too(producer: Producer, redis: Redis) -> None:
    batch = await producer.submit(lines(1), fallback=["anthropic/claude-3.5-haiku"], tags={"team": "search"})
    (work,) = await work_of(redis, batch)
    assert work.terms.route is not None
    assert work.terms.tags == ("team=search",)


async def test_without_tags_there_are_none(producer: Producer) -> None:
    status = await (await producer.submit(lines(1))).status()
    assert (status.tags, batch_object(status)["x_metadata"]) == ((), {})


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({"": "x"}, "named"),
        ({"a b": "x"}, "named"),
        ({"a": ""}, "tag a"),
        ({"a": "x" * 129}, "tag a"),
        ({"a": "x\n"}, "tag a"),
        ({"a": 5}, "tag a"),
        ({str(number): "x" for number in range(9)}, "8 tags"),
        ([("a", "b")], "mapping"),
    ],
)
def test_tags_that_can_not_be_are_refused(tags: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        conditions_of(tags=tags)


def test_the_commands_give_and_show_tags(desk: Desk) -> None:
    desk.write("prompts.jsonl", 2)
    batch = desk.run("submit", "prompts.jsonl", "--tag", "team=search", "--tag", "exp=7").out.strip()
    assert json.loads(desk.run("status", batch, "--json").out)["x_metadata"] == {"team": "search", "exp": "7"}
    assert "exp=7, team=search" in desk.run("status", batch).out
    assert "KEY=VALUE" in desk.run("submit", "prompts.jsonl", "--tag", "team").err
    assert "given twice" in desk.run("submit", "prompts.jsonl", "--tag", "a=1", "--tag", "a=2").err
