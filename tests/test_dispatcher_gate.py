"""What the gate's answers do to lanes and lines: refusals, starvation by a budget, and what happens while they ask."""

import asyncio
from collections.abc import Callable

import pytest

from batchmill.config.settings import RetrySettings
from batchmill.openrouter.outcomes import Billed, Outcome, Retry
from batchmill.store.gate import Reply, Why
from batchmill.store.lanes import Ending
from batchmill.store.model import LineState, Terms
from batchmill.store.rules import Rules
from batchmill.store.settlement import Settlement
from batchmill.workers import dispatcher, places
from batchmill.workers.gatekeeper import Question

from .workers_helpers import OK, Desk, admit_all, failure, no_budget, refusal, settle


def once(reply: Reply) -> Callable[[Question], Reply]:
    """Answer so the first time, and admit all from then on."""
    replies = [reply]
    return lambda question: replies.pop() if replies else admit_all(question)


async def test_nothing_is_sent_that_the_gate_has_not_let_through() -> None:
    desk = Desk()
    desk.gate.script = lambda _: None
    shard = desk.shard("m", ["a", "b"])
    await settle()
    assert (desk.upstream.calls, desk.dispatcher.in_air, shard.in_air) == ([], 2, 2)
    desk.gate.answer()
    await settle()
    assert desk.upstream.calls == [b"a", b"b"]


@pytest.mark.parametrize("why", [Why.POLICY, Why.WINDOW, Why.LIMIT, Why.PAUSE, Why.BREAKER, Why.SHARE, Why.ALARM])
async def test_after_each_kind_of_refusal_the_lane_asks_again(why: Why) -> None:
    desk = Desk(script=lambda _: OK)
    desk.gate.script = once(refusal(why, wait=1))
    shard = desk.shard("a/b:free", ["a", "b"])  # there is a limit for these
    assert await asyncio.wait_for(shard.ended, 5) is Ending.DONE
    assert len(desk.gate.questions) > 1
    desk.check_books()


async def test_what_is_let_through_in_part_keeps_the_rest_in_order() -> None:
    desk = Desk(concurrency=4)
    desk.gate.script = once(refusal(Why.SHARE, looked=3, skipped=(1,), wait=1))
    shard = desk.shard("m", ["a", "b", "c", "d", "e"])
    await settle()
    assert desk.upstream.calls[:2] == [b"a", b"c"]
    while not shard.ended.done():
        if desk.upstream.open:
            desk.upstream.answer()
        await asyncio.sleep(0)
    assert desk.upstream.calls[2:] == [b"b", b"d", b"e"]
    desk.check_books()


async def test_places_of_a_refused_lane_go_to_another_at_once() -> None:
    """It had none while the refused one was asked for: nothing else would wake it."""
    desk = Desk(concurrency=2)
    desk.gate.script = lambda question: (
        refusal(Why.SHARE, wait=3_600_000) if question.rules.model == "limited" else admit_all(question)
    )
    desk.shard("limited", ["a", "b", "c"])
    desk.shard("free", ["x", "y"], number=1)
    await settle()
    assert desk.upstream.calls == [b"x", b"y"]
    desk.dispatcher.drain()
    desk.dispatcher.abandon()
    await settle()
    desk.check_books()


async def test_a_starving_batch_does_not_hold_up_its_lane() -> None:
    desk = Desk(concurrency=2)
    poor, rich = Terms(capped=True), Terms()
    desk.gate.script = lambda question: no_budget(question) if question.rules.budgets else admit_all(question)
    shard = desk.shard("m", ["a", "b", "c"], terms=poor)
    desk.shard("m", ["x", "y", "z"], batch="batch_2", number=1, terms=rich)
    await settle()
    assert desk.upstream.calls == [b"x", b"y"]
    desk.upstream.answer()
    await settle()
    assert desk.upstream.calls == [b"x", b"y", b"z"]
    reasons = {(reason.scope, reason.kind) for reason, _ in desk.blocked}
    assert reasons == {("batch_1", "budget")}
    assert not shard.ended.done()
    desk.dispatcher.drain()
    desk.dispatcher.abandon()
    await settle()
    desk.check_books()


async def test_a_batch_that_starves_for_long_is_given_back_and_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_STARVED_LOOK", 0.001)
    desk = Desk()
    desk.gate.script = no_budget
    shard = desk.shard("m", ["a", "b"], terms=Terms(capped=True))
    await settle()
    assert not shard.ended.done()
    monkeypatch.setattr(dispatcher, "_STARVED", 0.0)
    assert await asyncio.wait_for(shard.ended, 5) is Ending.GIVE_BACK
    assert shard.parked == dispatcher._PARKED
    assert desk.upstream.calls == []
    desk.check_books()


async def test_a_starving_batch_with_lines_in_the_air_waits_for_what_they_bring_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatcher, "_STARVED", 0.0)
    desk = Desk()
    answers = [refusal(Why.BUDGET, looked=2, skipped=(1,))]
    desk.gate.script = lambda question: answers.pop() if answers else no_budget(question)
    shard = desk.shard("m", ["a", "b"], terms=Terms(capped=True))
    await settle()
    assert (desk.upstream.calls, shard.ended.done(), desk.blocked) == ([b"a"], False, [])
    desk.gate.script = admit_all
    desk.upstream.answer()
    await settle()
    assert desk.upstream.calls == [b"a", b"b"], "money came back, and nobody waited for a timer"
    desk.upstream.answer()
    assert await shard.ended is Ending.DONE
    desk.check_books()


async def test_each_starving_batch_says_why() -> None:
    desk = Desk(concurrency=4)
    desk.gate.script = no_budget
    for number in range(3):
        desk.shard("m", ["a"], batch=f"batch_{number}", number=number, terms=Terms(capped=True))
    await settle()
    assert {reason.scope for reason, _ in desk.blocked} == {"batch_0", "batch_1", "batch_2"}
    desk.dispatcher.drain()


@pytest.mark.parametrize("how", ["cancel", "lose", "drain"])
async def test_a_shard_that_ends_while_its_lines_are_at_the_gate_sends_nothing(how: str) -> None:
    desk = Desk()
    desk.gate.script = lambda _: None
    shard = desk.shard("m", ["a", "b"])
    await settle()
    if how == "cancel":
        desk.dispatcher.stop("batch_1", LineState.CANCELLED)
    elif how == "lose":
        desk.dispatcher.lose(shard)
    else:
        desk.dispatcher.drain()
    await settle()
    assert not shard.ended.done(), "it may be held by now"
    desk.gate.answer()
    assert await shard.ended is (Ending.DONE if how == "cancel" else Ending.GIVE_BACK)
    assert desk.upstream.calls == []
    assert {(settled.cost, settled.tokens) for settled in desk.ledger.settled} == {(0, 0)}
    states = [result.state for result in desk.ledger.results]
    assert states == ([LineState.CANCELLED] * 2 if how == "cancel" else [])
    desk.check_books()


async def test_a_call_that_is_given_up_is_suspect_with_its_generation() -> None:
    desk = Desk()
    shard = desk.shard("m", ["a"])
    await settle()
    shard.open_lines[0].generation = "gen-air"
    desk.dispatcher.note_generations()
    desk.dispatcher.note_generations()
    assert list(desk.ledger.generations.values()) == ["gen-air"]
    desk.dispatcher.drain()
    desk.dispatcher.abandon()
    assert await shard.ended is Ending.GIVE_BACK
    (settled,) = desk.ledger.settled
    assert (settled.cost, settled.bound, settled.generation) == (None, 100, "gen-air")
    desk.check_books()


async def test_a_call_that_is_given_up_before_it_began_is_settled_all_the_same() -> None:
    """Its task is cancelled before its first step: no line of its code ever runs."""
    desk = Desk()
    desk.gate.script = lambda _: None
    shard = desk.shard("m", ["a"])
    await settle()
    desk.gate.answer()
    desk.dispatcher.drain()
    desk.dispatcher.abandon()
    assert await asyncio.wait_for(shard.ended, 5) is Ending.GIVE_BACK
    assert desk.upstream.calls == []
    desk.check_books()


async def test_a_failure_that_may_have_been_billed_is_suspect_and_tried_again_under_a_new_hold() -> None:
    outcomes: list[Outcome] = [OK, failure(Retry.BACKOFF, billed=Billed.MAYBE, generation_id="gen-lost")]
    desk = Desk(script=lambda _: outcomes.pop(), retry=RetrySettings(first_delay=0.001))
    await desk.shard("m", ["a"]).ended
    await settle()
    assert [(s.cost, s.generation) for s in desk.ledger.settled] == [(None, "gen-lost"), (700, "gen-1")]
    assert len(set(desk.gate.holds)) == 2
    desk.check_books()


async def test_a_result_goes_before_its_money() -> None:
    desk = Desk()
    recorded: list[int] = []
    settle_money = desk.ledger.settle

    def noted(rules: Rules, settlement: Settlement) -> None:
        recorded.append(len(desk.ledger.results))
        settle_money(rules, settlement)

    desk.ledger.settle = noted  # type: ignore[method-assign]
    shard = desk.shard("m", ["a"])
    await settle()
    desk.upstream.answer()
    await shard.ended
    await settle()
    assert recorded == [1]


async def test_lanes_are_asked_for_more_when_little_is_left() -> None:
    desk = Desk(concurrency=8)
    asked: list[int] = []
    desk.dispatcher.on_hungry = lambda: asked.append(desk.dispatcher._lanes.ready)
    desk.shard("m", [f"{n}" for n in range(12)])
    await settle()
    assert asked == []
    for _ in range(4):
        desk.upstream.answer()
        await settle()
    assert asked
    assert max(asked) <= 1
    desk.dispatcher.drain()
    desk.dispatcher.abandon()
    await settle()
