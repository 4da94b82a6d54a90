"""Whose turn it is in one process: projects by weight, their batches by priority, a newcomer soon, nobody never."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.store.lanes import Claim
from batchmill.store.model import Line, Priority, Terms
from batchmill.workers.line import LineRun, ShardRun
from batchmill.workers.turns import Turns

PRIORITIES = list(Priority)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
async def loop() -> None:
    """Have a loop run: a shard run has a future."""


def shard(
    batch: str,
    lines: int,
    *,
    number: int = 0,
    project: str = "default",
    priority: Priority = Priority.NORMAL,
    weight: float = 1.0,
) -> ShardRun:
    claim = Claim("upstream", "a/b", f"{batch}.{number}.{lines}", "run-1", "1")
    bodies = [Line(1000 * number + index, str(index), b"{}") for index in range(lines)]
    return ShardRun(claim, bodies, terms=Terms(project, priority), weight=weight)


def popped(turns: Turns, count: int) -> list[str]:
    """Take out that many lines; return their batches."""
    runs = [turns.pop() for _ in range(count)]
    return [run.shard.claim.batch_id for run in runs if run is not None]


def drained(turns: Turns) -> Iterator[LineRun]:
    while (run := turns.pop()) is not None:
        yield run


async def test_one_batch_goes_in_its_order() -> None:
    turns = Turns()
    turns.add(shard("a", 2))
    turns.add(shard("a", 2, number=1))
    assert len(turns) == 4
    assert [run.line.index for run in drained(turns)] == [0, 1, 1000, 1001]
    assert (len(turns), turns.batches(), turns.pop()) == (0, set(), None)


async def test_batches_of_a_project_take_turns() -> None:
    turns = Turns()
    for batch in ("a", "b", "c"):
        turns.add(shard(batch, 4))
    assert popped(turns, 6) == ["a", "b", "c", "a", "b", "c"]


async def test_a_small_batch_is_not_stuck_behind_a_giant_one() -> None:
    turns = Turns()
    turns.add(shard("giant", 20_000))
    popped(turns, 1000)
    turns.add(shard("small", 10))
    first = popped(turns, 21)
    assert first.count("small") == 10
    assert "small" in first[:2]


async def test_a_newcomer_gets_no_more_than_its_share() -> None:
    turns = Turns()
    turns.add(shard("old", 5000))
    popped(turns, 1000)
    turns.add(shard("new", 5000))
    assert abs(popped(turns, 100).count("new") - 50) <= 1


async def test_projects_get_their_weights_however_many_batches_they_have() -> None:
    turns = Turns()
    for number in range(20):
        turns.add(shard(f"many{number}", 500, project="many"))
    turns.add(shard("one", 5000, project="one", weight=3.0))
    order = popped(turns, 4000)
    for prefix in range(40, 4000, 40):
        assert abs(order[:prefix].count("one") - 0.75 * prefix) <= 2


async def test_priorities_share_a_project_and_low_never_starves() -> None:
    turns = Turns()
    for priority in PRIORITIES:
        turns.add(shard(priority.value, 9000, priority=priority))
    counts = Counter(popped(turns, 7300))
    assert counts == {"high": 6400, "normal": 800, "low": 100}


async def test_priority_counts_within_a_project_only() -> None:
    turns = Turns()
    turns.add(shard("pushy", 100, project="one", priority=Priority.HIGH))
    turns.add(shard("humble", 100, project="two", priority=Priority.LOW))
    assert Counter(popped(turns, 100)) == {"pushy": 50, "humble": 50}


async def test_coming_in_small_pieces_wins_nothing() -> None:
    """A low batch whose shards have one line each leaves with every line, and comes back with the next."""
    turns = Turns()
    turns.add(shard("high", 1000, priority=Priority.HIGH))
    lows = 0
    for number in range(650):
        if "low" not in turns.batches():
            turns.add(shard("low", 1, number=number, priority=Priority.LOW))
        lows += popped(turns, 1) == ["low"]
    assert lows == 10


async def test_a_weight_that_changes_counts_from_then_on() -> None:
    turns = Turns()
    turns.add(shard("a", 4000, project="one"))
    turns.add(shard("b", 4000, project="two"))
    popped(turns, 100)
    turns.add(shard("a", 1, number=1, project="one", weight=3.0))
    assert abs(popped(turns, 400).count("a") - 300) <= 2


async def test_a_line_pushed_back_is_first_of_its_batch_and_has_its_turn_again() -> None:
    turns = Turns()
    turns.add(shard("a", 3))
    turns.add(shard("b", 3))
    first = turns.pop()
    assert first is not None
    turns.push_back(first)
    assert len(turns) == 6
    assert turns.heads()[0] is first
    assert turns.pop() is first


async def test_a_line_that_was_sent_has_used_its_turn() -> None:
    turns = Turns()
    turns.add(shard("a", 3))
    turns.add(shard("b", 3))
    first = turns.pop()
    assert first is not None
    turns.push_back(first, was_sent=True)
    assert popped(turns, 2) == ["b", "a"]


@pytest.mark.parametrize("prefix", [1, 16, 64])
async def test_shares_hold_when_most_of_every_prefix_is_refused(prefix: int) -> None:
    """As a gate does whose rate admits one line at a time."""
    turns = Turns()
    turns.add(shard("a", 1000, project="one", weight=3.0))
    turns.add(shard("b", 1000, project="two"))
    admitted: Counter[str] = Counter()
    for _ in range(400):
        runs = [run for run in (turns.pop() for _ in range(prefix)) if run is not None]
        admitted[runs[0].shard.claim.batch_id] += 1
        for run in reversed(runs[1:]):
            turns.push_back(run)
    assert abs(admitted["a"] - 300) <= 2
    turns.add(shard("new", 10, project="three"))
    assert "new" in popped(turns, 4)


async def test_a_line_may_come_back_to_a_batch_that_has_left() -> None:
    turns = Turns()
    turns.add(shard("a", 1))
    run = turns.pop()
    assert turns.pop() is None
    assert run is not None
    turns.push_back(run)
    assert turns.batches() == {"a"}
    assert turns.pop() is run


async def test_heads_are_in_the_order_of_turns() -> None:
    turns = Turns()
    turns.add(shard("a", 3, project="one"))
    turns.add(shard("b", 3, project="one"))
    turns.add(shard("c", 3, project="two"))
    popped(turns, 1)
    assert [run.shard.claim.batch_id for run in turns.heads()] == ["c", "b", "a"]
    assert len(turns) == 8


async def test_a_withdrawn_shard_leaves_the_others_of_its_batch() -> None:
    turns = Turns()
    gone, stays = shard("a", 3), shard("a", 2, number=1)
    turns.add(gone)
    turns.add(stays)
    sent = turns.pop()
    assert sent is gone.open_lines[0]
    assert turns.withdraw(gone) == [gone.open_lines[1], gone.open_lines[2]]
    assert turns.withdraw(gone) == []
    assert turns.withdraw(shard("strange", 1, project="stranger")) == []
    assert [run.shard for run in drained(turns)] == [stays, stays]
    assert len(turns) == 0


async def test_a_blocked_batch_waits_and_the_others_go() -> None:
    clock = Clock()
    turns = Turns(clock)
    turns.add(shard("a", 2))
    turns.add(shard("b", 2, project="other"))
    turns.block("a", 10.0)
    turns.add(shard("a", 1, number=1))
    assert popped(turns, 9) == ["b", "b"]
    assert (len(turns), turns.batches(), turns.heads()) == (3, {"a"}, [])
    clock.now = 10.0
    assert popped(turns, 9) == ["a", "a", "a"]


async def test_a_block_counts_for_lines_that_come_later() -> None:
    clock = Clock()
    turns = Turns(clock)
    turns.block("a", 10.0)
    turns.add(shard("a", 1))
    assert turns.pop() is None
    turns.block("a", 20.0)
    clock.now = 15.0
    assert turns.pop() is None
    turns.block("a", 0.0)
    assert popped(turns, 1) == ["a"]


async def test_a_batch_that_was_blocked_catches_nothing_up() -> None:
    clock = Clock()
    turns = Turns(clock)
    turns.add(shard("a", 500))
    turns.add(shard("b", 500))
    turns.block("a", 10.0)
    popped(turns, 200)
    clock.now = 10.0
    assert abs(popped(turns, 100).count("a") - 50) <= 1


@dataclass
class Book:
    """What should be where: lines that wait, in the order of their batch, and lines that are out."""

    waiting: dict[str, list[LineRun]] = field(default_factory=dict)
    out: list[LineRun] = field(default_factory=list)
    blocked: dict[str, float] = field(default_factory=dict)
    shards: list[ShardRun] = field(default_factory=list)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_line_is_lost_doubled_or_overtaken_by_its_own_batch(data: st.DataObject) -> None:
    async def story() -> None:
        clock = Clock()
        turns, book = Turns(clock), Book()
        for number in range(data.draw(st.integers(1, 40))):
            step = data.draw(st.sampled_from([add, pop, pop, pop, push_back, withdraw, block]))
            step(data, turns, book, clock, number)
            clock.now += data.draw(st.sampled_from([0.0, 1.0]))
            assert len(turns) == sum(map(len, book.waiting.values()))
            assert turns.batches() == {batch for batch, runs in book.waiting.items() if runs}
            heads = {run.shard.claim.batch_id: run for run in turns.heads()}
            assert heads == {
                batch: runs[0]
                for batch, runs in book.waiting.items()
                if runs and book.blocked.get(batch, 0.0) <= clock.now
            }

    asyncio.run(story())


Step = Callable[[st.DataObject, Turns, Book, Clock, int], None]


def add(data: st.DataObject, turns: Turns, book: Book, clock: Clock, number: int) -> None:
    batch = data.draw(st.sampled_from("abcd"))
    lines = data.draw(st.integers(1, 4))
    priority = PRIORITIES[ord(batch) % 3]
    new = shard(batch, lines, number=number, project="one" if batch < "c" else "two", priority=priority)
    turns.add(new)
    book.shards.append(new)
    book.waiting.setdefault(batch, []).extend(new.open_lines.values())


def pop(data: st.DataObject, turns: Turns, book: Book, clock: Clock, number: int) -> None:
    heads = turns.heads()
    run = turns.pop()
    assert run is (heads[0] if heads else None)
    if run is not None:
        assert book.waiting[run.shard.claim.batch_id].pop(0) is run
        book.out.append(run)


def push_back(data: st.DataObject, turns: Turns, book: Book, clock: Clock, number: int) -> None:
    if book.out:
        run = book.out.pop(data.draw(st.integers(0, len(book.out) - 1)))
        turns.push_back(run, was_sent=data.draw(st.booleans()))
        book.waiting[run.shard.claim.batch_id].insert(0, run)


def withdraw(data: st.DataObject, turns: Turns, book: Book, clock: Clock, number: int) -> None:
    if book.shards:
        chosen = data.draw(st.sampled_from(book.shards))
        runs = book.waiting[chosen.claim.batch_id]
        assert turns.withdraw(chosen) == [run for run in runs if run.shard is chosen]
        book.waiting[chosen.claim.batch_id] = [run for run in runs if run.shard is not chosen]


def block(data: st.DataObject, turns: Turns, book: Book, clock: Clock, number: int) -> None:
    batch = data.draw(st.sampled_from("abcd"))
    book.blocked[batch] = clock.now + data.draw(st.sampled_from([-1.0, 0.5, 2.0]))
    turns.block(batch, book.blocked[batch])


@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0, 10.0]), min_size=2, max_size=4),
    batches=st.lists(st.integers(1, 6), min_size=4, max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_any_weights_hold_over_any_long_prefix(weights: list[float], batches: list[int]) -> None:
    async def story() -> None:
        turns = Turns()
        for number, weight in enumerate(weights):
            for part in range(batches[number]):
                turns.add(shard(f"b{number}x{part}", 1000, project=str(number), weight=weight))
        counts: Counter[str] = Counter()
        for prefix in range(1, 1001):
            run = turns.pop()
            assert run is not None
            counts[run.shard.terms.project] += 1
            for number, weight in enumerate(weights):
                # a line of the slowest is the grain that shares are dealt in
                grain = 1 + weight / min(weights)
                assert abs(counts[str(number)] - prefix * weight / sum(weights)) <= grain * len(weights)

    asyncio.run(story())
