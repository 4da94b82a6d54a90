"""The way through the gate: asked again until it answers, by the policy and the windows that are now."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from batchmill.config.policy import Budget, Policy
from batchmill.config.windows import WindowKind
from batchmill.store import gate, keys, policy
from batchmill.store.gate import Caller, Reply, Why
from batchmill.store.lanes import Claim
from batchmill.store.model import Line, Terms
from batchmill.workers import gatekeeper as module
from batchmill.workers.gatekeeper import Gatekeeper, Question
from batchmill.workers.line import LineRun, ShardRun

CALLER = Caller("upstream", "worker-1", 15.0)


class Lines:
    """A desk with a few lines: keeps what it was told, and asks again for what was refused."""

    def __init__(self, keeper: Gatekeeper, runs: Iterable[LineRun]) -> None:
        self.keeper = keeper
        self.ready = list(runs)
        self.told_of: list[tuple[Question, Reply]] = []
        self.held: list[str] = []
        self.heard = asyncio.Event()

    def questions(self) -> list[Question]:
        runs, self.ready = self.ready, []
        return [self.keeper.question(self.keeper.rules("m", "default", None), runs)] if runs else []

    def told(self, question: Question, reply: Reply) -> None:
        self.told_of.append((question, reply))
        for place, (run, hold) in enumerate(zip(question.runs, question.holds, strict=True)):
            if reply.admitted(place):
                self.held.append(hold.id)
            else:
                self.ready.append(run)
        self.heard.set()
        if self.ready and reply.why in (Why.POLICY, Why.WINDOW):
            self.keeper.wake()


PRICED = Terms(pricing=b'{"prompt":"0.000001","completion":"0.000002"}')


def runs(count: int, *, bound: int = 100, terms: Terms = PRICED) -> list[LineRun]:
    shard = ShardRun(Claim("upstream", "m", f"batch_1.0.{count}", "run-1", "1"), [], terms=terms)
    return [LineRun(Line(index, str(index), b"{}", bound=bound, tokens=1), shard) for index in range(count)]


@asynccontextmanager
async def asking(keeper: Gatekeeper, desk: Lines) -> AsyncIterator[None]:
    """Run the gatekeeper until the desk has heard something once."""
    task = asyncio.create_task(keeper.run(desk))
    keeper.wake()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def heard(desk: Lines, done: Callable[[], bool]) -> None:
    while not done():
        desk.heard.clear()
        await desk.heard.wait()


async def test_what_is_admitted_is_held_under_ids_that_nobody_else_has(redis: Redis) -> None:
    keeper, other = Gatekeeper(redis, CALLER), Gatekeeper(redis, CALLER)
    desk = Lines(keeper, runs(3))
    async with asking(keeper, desk):
        await heard(desk, lambda: len(desk.held) == 3)
    holds = await redis.execute_command("HKEYS", keys.holds("upstream", "worker-1"))
    assert {hold.encode() for hold in desk.held} <= set(holds)
    rules = keeper.rules("m", "default", None)
    ids = {hold.id for one in (keeper, other) for hold in one.question(rules, runs(3)).holds}
    assert len(ids | set(desk.held)) == 9


async def test_a_new_policy_is_read_at_the_gates_word_and_asked_by(redis: Redis) -> None:
    keeper = Gatekeeper(redis, CALLER)
    await keeper.read_policy()
    tight = Policy(budgets=(Budget("all", Decimal("0.000000250")),))
    await policy.apply(redis, "upstream", tight, "file")
    desk = Lines(keeper, runs(4))
    keeper.read_policy = _once_skipped(keeper.read_policy)  # type: ignore[method-assign,assignment]
    async with asking(keeper, desk):
        await heard(desk, lambda: len(desk.told_of) == 2)
    assert [reply.why for _, reply in desk.told_of] == [Why.POLICY, Why.BUDGET]
    assert len(desk.held) == 2
    assert keeper.rulebook.policy.policy.budgets == tight.budgets


def _once_skipped(step: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Return the step, but for its first time: as if the change came right after it."""
    skipped = False

    async def maybe() -> None:
        nonlocal skipped
        if skipped:
            await step()
        skipped = True

    return maybe


async def test_a_line_that_nobody_priced_fits_no_budget_that_came_since(redis: Redis) -> None:
    keeper = Gatekeeper(redis, CALLER)
    await policy.apply(redis, "upstream", Policy(budgets=(Budget("all", Decimal(9_000_000)),)), "file")
    desk = Lines(keeper, runs(1, bound=0, terms=Terms()))
    async with asking(keeper, desk):
        await heard(desk, lambda: len(desk.told_of) == 1)
    assert [reply.why for _, reply in desk.told_of] == [Why.BUDGET]
    assert not desk.held


async def test_rules_are_made_anew_when_a_window_has_turned(redis: Redis) -> None:
    keeper = Gatekeeper(redis, CALLER)
    await policy.apply(redis, "upstream", Policy(budgets=(Budget("daily", Decimal(1), window=WindowKind.DAY),)), "file")
    await keeper.read_policy()
    keeper._ahead_ms -= 86_400_000  # it was yesterday when these rules were made
    yesterday = keeper.rules("m", "default", None)
    desk = Lines(keeper, runs(1))
    keeper.read_policy = _once_skipped(keeper.read_policy)  # type: ignore[method-assign,assignment]
    async with asking(keeper, desk):
        await heard(desk, lambda: bool(desk.held))
    assert [reply.why for _, reply in desk.told_of] == [Why.WINDOW, Why.NOTHING]
    assert desk.told_of[0][0].rules is yesterday
    assert desk.told_of[1][0].rules.budgets[0].key != yesterday.budgets[0].key


async def test_an_outage_repeats_the_same_call_and_holds_once(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer was lost, not the call: the lines are held, and are told so by the repetition."""
    asked: list[tuple[Any, ...]] = []

    async def forgetful(*arguments: Any) -> list[Reply]:
        asked.append(arguments[2:])
        replies = await gate.admit(*arguments)
        if len(asked) < 3:
            raise RedisConnectionError("gone after it was done")
        return replies

    monkeypatch.setattr(module, "admit", forgetful)
    monkeypatch.setattr("batchmill.store.connection._OUTAGE_PAUSE", 0)
    keeper = Gatekeeper(redis, CALLER)
    desk = Lines(keeper, runs(3))
    async with asking(keeper, desk):
        await heard(desk, lambda: bool(desk.told_of))
    assert len(desk.held) == 3
    assert asked[0] == asked[1] == asked[2]
    assert await redis.execute_command("HGET", keys.model("upstream", "m"), "in_air") == b"3"


async def test_books_older_than_the_epoch_that_was_seen_let_nothing_through(redis: Redis) -> None:
    keeper = Gatekeeper(redis, CALLER)
    keeper.saw(50)
    desk = Lines(keeper, runs(1))
    async with asking(keeper, desk):
        await heard(desk, lambda: bool(desk.told_of))
    assert [reply.why for _, reply in desk.told_of] == [Why.ALARM]
    assert desk.held == []


async def test_what_nobody_woke_us_for_is_seen_all_the_same(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.001)
    keeper = Gatekeeper(redis, CALLER)
    desk = Lines(keeper, [])
    async with asking(keeper, desk):
        desk.ready += runs(1)
        await heard(desk, lambda: bool(desk.held))
