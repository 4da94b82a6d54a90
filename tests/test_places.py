"""The lanes of a process: who is next, what a refusal changes, and that every wait ends."""

import asyncio

import pytest

from batchmill.store.gate import NEVER, Why
from batchmill.store.lanes import Claim
from batchmill.store.model import Line
from batchmill.workers import places, valves
from batchmill.workers.line import ShardRun
from batchmill.workers.places import Lane, Lanes
from batchmill.workers.valves import WIDEST

from .workers_helpers import refusal

NOTHING = refusal(Why.NOTHING)


def shard(model: str, lines: int, *, batch: str = "batch_1") -> ShardRun:
    claim = Claim("upstream", model, f"{batch}.0.{lines}", "run-1", "1")
    return ShardRun(claim, [Line(index, str(index), b"{}") for index in range(lines)])


@pytest.fixture
async def lanes() -> Lanes:
    return Lanes()


@pytest.fixture
async def lane(lanes: Lanes) -> Lane:
    opened = lanes.open("m")
    opened.add(shard("m", 10))
    return opened


def never() -> None:
    raise AssertionError("nothing is woken")


async def test_the_lane_with_the_fewest_places_is_next(lanes: Lanes) -> None:
    for model, in_air in (("a", 3), ("b", 0), ("c", 1)):
        lanes.open(model).add(shard(model, 10))
        lanes[model].in_air = in_air
    taken = [lane.model for lane, _ in lanes.take(5)]
    assert (taken[0], taken.count("b"), taken.count("c")) == ("b", 3, 2)
    assert {model: lanes[model].load for model in "abc"} == {"a": 3, "b": 3, "c": 3}


async def test_no_more_are_taken_than_there_are_places_or_lines(lanes: Lanes, lane: Lane) -> None:
    assert len(list(lanes.take(3))) == 3
    assert (lanes.ready, lane.ready, lane.asked) == (7, 7, 3)
    assert len(list(lanes.take(100))) == 7
    assert list(lanes.take(100)) == []


async def test_ready_counts_whatever_comes_and_goes(lanes: Lanes, lane: Lane) -> None:
    more = shard("other", 5, batch="batch_2")
    lanes.open("other").add(more)
    run = lane.pop()
    assert run is not None
    assert lanes.ready == 14
    lane.push_back(run, was_sent=False)
    assert lanes.ready == 15
    assert len(lanes["other"].withdraw(more)) == 5
    assert (lanes.ready, lanes["other"].pop(), lanes.ready) == (10, None, 10)


@pytest.mark.parametrize("why", [Why.LIMIT, Why.PAUSE, Why.BREAKER, Why.SHARE, Why.ALARM])
async def test_a_refusal_rests_the_lane_until_its_time_is_over(lanes: Lanes, lane: Lane, why: Why) -> None:
    over = asyncio.Event()
    lane.valve("m").learn(refusal(why, wait=1), 0, over.set)
    assert not lane.may_ask
    assert list(lanes.take(1)) == []
    await over.wait()
    assert lane.may_ask


@pytest.mark.parametrize("why", [Why.NOTHING, Why.POLICY, Why.WINDOW, Why.BUDGET])
async def test_what_is_no_wait_of_the_lane_lets_it_ask_at_once(lane: Lane, why: Why) -> None:
    lane.valve("m").learn(refusal(why, wait=3_600_000), 0, never)
    assert lane.may_ask


async def test_nobody_knowing_how_long_is_looked_at_again_and_ends_with_a_landing(lane: Lane) -> None:
    lane.valve("m").learn(refusal(Why.SHARE, wait=NEVER), 2, never)
    lane.landed({"m"})
    assert lane.may_ask


async def test_a_landing_does_not_end_a_wait_of_known_length(lane: Lane) -> None:
    lane.valve("m").learn(refusal(Why.LIMIT, wait=3_600_000), 2, never)
    lane.landed({"m"})
    assert not lane.may_ask


async def test_a_later_answer_ends_the_wait_of_an_earlier_one(lane: Lane) -> None:
    lane.valve("m").learn(refusal(Why.LIMIT, wait=0), 1, never)
    lane.valve("m").learn(NOTHING, 1, never)
    await asyncio.sleep(0)
    assert lane.may_ask


async def test_the_longest_wait_is_short_because_limits_may_change(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valves, "_LONGEST_BLOCK", 0.001)
    over = asyncio.Event()
    lane.valve("m").learn(refusal(Why.LIMIT, wait=86_400_000), 0, over.set)
    await over.wait()


async def test_a_question_narrows_to_what_was_let_through_and_widens_again(lanes: Lanes, lane: Lane) -> None:
    lane.valve("m").learn(refusal(Why.LIMIT, wait=0), 3, lambda: None)
    assert (lane.valve("m").width, lane.limited) == (6, True)
    lane.valve("m").learn(refusal(Why.LIMIT, wait=0), 0, lambda: None)
    lane.valve("m").learn(NOTHING, 1, never)
    assert len(list(lanes.take(100))) == 2
    for _ in range(10):
        lane.valve("m").learn(NOTHING, 1, never)
    assert (lane.valve("m").width, lane.limited) == (WIDEST, False)


async def test_a_starving_batch_lets_the_others_pass_and_looks_again(
    lanes: Lanes, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_STARVED_LOOK", 0.001)
    lane.add(shard("m", 2, batch="batch_2"))
    again = asyncio.Event()
    assert lane.starve("batch_1", again.set) == 0.0
    assert [run.shard.claim.batch_id for _, run in lanes.take(100)] == ["batch_2"] * 2
    assert lane.ready == 10
    await again.wait()
    assert len(list(lanes.take(100))) == 10


async def test_money_that_came_back_feeds_the_starving_but_not_all_the_time(
    lanes: Lanes, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_FEED_EVERY", 3600.0)
    lane._fed = float("-inf")
    lane.starve("batch_1", never)
    lane.feed()
    assert len(list(lanes.take(2))) == 2
    lane.starve("batch_1", never)
    lane.feed()
    assert list(lanes.take(1)) == []
    lane.sated("batch_1")
    assert len(list(lanes.take(100))) == 8


async def test_a_batch_that_leaves_is_not_remembered_as_starving(lane: Lane) -> None:
    gone = shard("m", 5, batch="batch_2")
    lane.add(gone)
    lane.starve("batch_2", never)
    assert lane.known() == ["batch_1", "batch_2"]
    lane.withdraw(gone)
    assert lane.known() is None
    lane.add(shard("m", 3, batch="batch_2"))
    assert lane.starve("batch_2", never) == 0.0
    lane.sated("batch_2")


async def test_newcomers_are_welcome_only_where_little_goes_through(lane: Lane) -> None:
    assert lane.known() is None
    lane.valve("m").learn(refusal(Why.LIMIT, wait=0), 1, lambda: None)
    assert lane.known() == ["batch_1"]
    for number in range(20):
        lane.add(shard("m", 4, batch=f"another_{number}"))
    assert lane.known() is None


async def test_a_batch_of_which_few_lines_are_left_counts_as_a_newcomer(lane: Lane) -> None:
    """Its next shard takes a round trip or two; until then its turns would be lost."""
    lane.valve("m").learn(refusal(Why.LIMIT, wait=0), 1, lambda: None)
    popped = [run for run in (lane.pop() for _ in range(6)) if run]
    assert lane.known() == ["batch_1"]
    assert not lane.short_of(popped[-1])
    last = lane.pop()
    assert last is not None
    assert lane.short_of(last)
    assert lane.known() == []
