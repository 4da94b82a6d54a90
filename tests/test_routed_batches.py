"""Batches whose lines may go to several models: how they are staged, found again, shown and tried again."""

import json
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Alias, Policy
from batchmill.config.settings import Settings
from batchmill.config.strategy import Strategy
from batchmill.openrouter.splices import with_members
from batchmill.producer import Batch, InputError, Producer
from batchmill.producer.render import openai_line, simple_line
from batchmill.routing.candidates import Considered
from batchmill.store import batches
from batchmill.store.model import Line, LineState, Result, Routed, Terms
from batchmill.store.records import Recording, record

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def producer(redis: Redis, settings: Settings) -> Producer:
    """A producer whose policy knows an alias, on an empty Redis."""
    policy = Policy(aliases=(Alias(name="fast", models=("a/one", "a/two")),))
    return Producer(redis, msgspec.structs.replace(settings, policy=policy))


def body(model: str = "fast", **members: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, "max_tokens": 5, **members}


async def staged(redis: Redis, batch: Batch) -> list[tuple[str, Terms, tuple[Line, ...]]]:
    """Return a batch's shards: lane, terms and lines."""
    found = []
    for shard in sorted(await batches.open_shards(redis, batch.id), key=lambda shard: shard.reference):
        work = await batches.load(redis, shard.reference, shard.first, shard.last)
        assert work is not None
        found.append((shard.model, work.terms, work.lines))
    return found


def routed_result(line: Line, terms: Terms) -> Result:
    assert terms.route is not None
    return Result(
        index=line.index,
        custom_id=line.custom_id,
        model="a/two",
        state=LineState.FAILED,
        error_code="too_bad",
        request=with_members(line.body, terms.route.members),
        routed=Routed("fast", Strategy.COST, "a/two", (Considered("a/two", "cheap"), Considered("a/one", "dear"))),
    )


async def test_lines_are_staged_with_their_route_and_fares(producer: Producer, redis: Redis) -> None:
    batch = await producer.submit([body(), body("a/one"), body(stream_to=True), body(fallback_models=["a/three"])])
    shards = await staged(redis, batch)
    by_index = {line.index: (lane, terms, line) for lane, terms, lines in shards for line in lines}
    lane, terms, line = by_index[0]
    assert lane.startswith("fast#")
    assert terms.route is not None
    assert [road.model for road in terms.route.roads] == ["a/one", "a/two"]
    assert (len(line.fares), line.bound, line.live) == (2, 0, False)
    assert json.loads(line.body) == {"messages": MESSAGES, "max_tokens": 5}
    assert by_index[2][0] == lane
    assert by_index[2][2].live
    assert (by_index[1][0], by_index[1][1].route, by_index[1][2].fares) == ("a/one", None, ())
    assert len(by_index[3][2].fares) == 3
    assert by_index[3][0] not in (lane, "a/one")
    assert (await batch.status()).models == {"fast": 3, "a/one": 1}


async def test_the_same_lines_with_other_fallbacks_are_another_batch(producer: Producer) -> None:
    plain = await producer.submit([body("a/one")])
    wishes: list[dict[str, Any]] = [{"fallback": ["a/two"]}, {"fallback": ["a/two"], "strategy": "cost"}]
    ids = [(await producer.submit([body("a/one")], **wish)).id for wish in wishes]
    assert len({plain.id, *ids}) == 3
    again = await producer.submit([body("a/one")], fallback=("a/two",), strategy=Strategy.COST)
    assert (again.id, again.reused) == (ids[1], True)


async def test_wishes_that_can_not_be_meant_are_refused(producer: Producer) -> None:
    with pytest.raises(InputError, match="at most 8"):
        await producer.submit([body()], fallback=["x"] * 9)
    with pytest.raises(InputError, match="not one string"):
        await producer.submit([body()], fallback="a/two")
    with pytest.raises(InputError, match="there are order, cost"):
        await producer.submit([body()], strategy="cheapest")


async def test_a_failed_line_is_routed_anew(producer: Producer, redis: Redis) -> None:
    batch = await producer.submit([body()], fallback=["a/three"], strategy="weighted")
    ((lane, terms, (line,)),) = await staged(redis, batch)
    await record(redis, [Recording(batch.id, (routed_result(line, terms),))], "worker", 60)
    again = await batch.retry()
    ((lane_again, terms_again, (line_again,)),) = await staged(redis, again)
    assert (lane_again, terms_again) == (lane, terms)
    assert (line_again.body, line_again.fares) == (line.body, line.fares)
    assert (await again.status()).models == {"fast": 1}


async def test_a_result_tells_how_it_came_to_its_model(producer: Producer, redis: Redis) -> None:
    batch = await producer.submit([body()])
    ((_, terms, (line,)),) = await staged(redis, batch)
    result = routed_result(line, terms)
    expected = {
        "asked": "fast",
        "strategy": "cost",
        "chosen": "a/two",
        "considered": ["a/two", "a/one"],
        "reasons": {"a/two": "cheap", "a/one": "dear"},
    }
    shown = json.loads(openai_line(batch.id, result))
    assert shown["x_routed"] == expected
    assert shown["body"]["model"] == "fast"
    assert json.loads(simple_line(result))["routed"] == expected
    plain = msgspec.structs.replace(result, routed=None)
    assert "x_routed" not in json.loads(openai_line(batch.id, plain))
    assert "routed" not in json.loads(simple_line(plain))
