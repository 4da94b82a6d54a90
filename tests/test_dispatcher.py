"""Which line goes next: places, lanes, retries, rests, cancellation, drain."""

import asyncio
from collections import Counter

import pytest
import uvloop

from batchmill.config.settings import RetrySettings
from batchmill.openrouter.outcomes import Failure, Fault, Outcome, Retry, Scope, Usage
from batchmill.store.lanes import Ending
from batchmill.store.model import Attempt, Line, LineState
from batchmill.store.pauses import Pause
from batchmill.workers import dispatcher
from batchmill.workers.line import ShardRun, Told
from batchmill.workers.reasons import Reason

from .workers_helpers import OK, Desk, failure, settle


async def test_never_more_in_the_air_than_there_are_places() -> None:
    desk = Desk(concurrency=3)
    shard = desk.shard("m", [f"line {n}" for n in range(10)])
    most = 0
    while not shard.ended.done():
        await settle()
        most = max(most, desk.upstream.in_air())
        if desk.upstream.open:
            desk.upstream.answer()
    assert most == 3
    assert await shard.ended is Ending.DONE
    assert [result.index for result in desk.ledger.results] == list(range(10))
    assert desk.ledger.in_air == 0


async def test_a_free_place_goes_to_the_lane_with_the_fewest_in_the_air() -> None:
    desk = Desk(concurrency=4)
    desk.shard("slow", [f"slow {n}" for n in range(10)])
    await settle()
    desk.shard("fast", [f"fast {n}" for n in range(10)], number=1)
    for _ in range(2):
        desk.upstream.answer(match=b"slow")
        await settle()
    assert (desk.upstream.in_air(b"slow"), desk.upstream.in_air(b"fast")) == (2, 2)
    for _ in range(8):
        desk.upstream.answer(match=b"fast")
        await settle()
    assert (desk.upstream.in_air(b"slow"), desk.upstream.in_air(b"fast")) == (2, 2)


async def test_a_shard_ends_only_when_its_last_result_is_recorded() -> None:
    desk = Desk()
    desk.ledger.holding = True
    shard = desk.shard("m", ["only"])
    await settle()
    desk.upstream.answer()
    await settle()
    assert not shard.ended.done()
    desk.ledger.flush()
    assert await shard.ended is Ending.DONE


async def test_a_provider_fault_is_tried_again_and_each_attempt_is_kept() -> None:
    outcomes: list[Outcome] = [failure(Retry.BACKOFF, code="overloaded", status=529), OK]
    desk = Desk(script=lambda _: outcomes.pop(0))
    await desk.shard("m", ["line"]).ended
    (result,) = desk.ledger.results
    assert result.state is LineState.SUCCEEDED
    assert [(a.outcome, a.status) for a in result.attempts] == [("overloaded", 529), ("ok", 200)]


async def test_attempts_are_bounded_and_the_last_failure_is_the_result() -> None:
    desk = Desk(
        script=lambda _: failure(Retry.BACKOFF, code="timeout", status=None, cost=5),
        retry=RetrySettings(max_attempts=3, first_delay=0.001),
    )
    await desk.shard("m", ["line"]).ended
    (result,) = desk.ledger.results
    assert (result.state, result.error_code, len(result.attempts)) == (LineState.FAILED, "timeout", 3)
    assert result.cost == 15
    assert result.request == b"line"
    assert len(desk.upstream.calls) == 3


async def test_what_cannot_succeed_is_not_tried_again() -> None:
    body = b'{"error":{"code":400}}'
    desk = Desk(script=lambda _: failure(Retry.NEVER, status=400, body=body, fault=Fault.CALLER))
    await desk.shard("m", ["line"]).ended
    (result,) = desk.ledger.results
    assert (result.status_code, result.response, len(desk.upstream.calls)) == (400, body, 1)


async def test_a_limit_rests_its_model_only_and_does_not_count_as_an_attempt() -> None:
    told = {b"limited": iter([failure(Retry.LATER, status=429, retry_after=0.05)] * 1)}

    def script(body: bytes) -> Outcome:
        return next(told.get(body[:7], iter(())), OK)

    desk = Desk(script=script, retry=RetrySettings(max_attempts=1))
    limited = desk.shard("limited/m", ["limited 1"])
    other = desk.shard("other/m", ["other 1"], number=1)
    await other.ended
    assert desk.dispatcher.room("other/m") > 0
    await limited.ended
    assert {reason.scope for reason, _ in desk.blocked} == {"limited/m"}
    assert desk.rests == [("limited/m", "limited/m", 0.05)]
    assert {result.state for result in desk.ledger.results} == {LineState.SUCCEEDED}
    assert Counter(desk.upstream.calls)[b"limited 1"] == 2


async def test_a_limit_of_all_free_models_rests_them_all() -> None:
    limited = failure(Retry.LATER, scope=Scope.FREE_MODELS, retry_after=60.0)
    desk = Desk(script=lambda body: OK if body == b"paid" else limited)
    desk.shard("a/b:free", ["line"])
    await settle()
    desk.shard("c/d:free", ["free"], number=1)
    desk.shard("c/d", ["paid"], number=2)
    await settle()
    assert desk.upstream.calls == [b"line", b"paid"]
    assert desk.rests[0] == ("a/b:free", ":free", 60.0)
    assert desk.blocked[0][0].scope == ":free"
    desk.dispatcher.drain()


async def test_a_refused_account_rests_everything_and_loses_no_line() -> None:
    desk = Desk(script=lambda _: failure(Retry.ACCOUNT, status=401, fault=Fault.ACCOUNT, scope=Scope.ACCOUNT))
    shard = desk.shard("m", ["a", "b"])
    await settle()
    desk.shard("another", ["c"], number=1)
    await settle()
    assert desk.upstream.calls == [b"a", b"b"]
    assert desk.blocked[0][0].scope == "refused"
    assert not desk.ledger.results
    desk.dispatcher.drain()
    assert await shard.ended is Ending.GIVE_BACK
    desk.check_books()


async def test_a_line_that_is_refused_waits_until_the_fleet_knows_of_the_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it would be sent again before the gate knows better."""
    desk = Desk(script=lambda _: failure(Retry.LATER, status=429, retry_after=60.0))
    known = asyncio.Event()
    original = desk.rest

    async def slow(model: str, scope: str, refusal: Failure, seconds: float | None) -> Pause:
        await known.wait()
        return await original(model, scope, refusal, seconds)

    monkeypatch.setattr(desk, "rest", slow)
    shard = desk.shard("m", ["a"])
    await settle()
    assert (len(desk.upstream.calls), desk.dispatcher.in_air, shard.in_air) == (1, 0, 1)
    desk.dispatcher.drain()
    assert not shard.ended.done()
    known.set()
    assert await shard.ended is Ending.GIVE_BACK
    desk.check_books()


async def test_cancelling_records_what_was_not_sent_and_keeps_what_is_in_the_air() -> None:
    desk = Desk(concurrency=2)
    shard = desk.shard("m", ["a", "b", "c", "d"])
    await settle()
    desk.dispatcher.stop("batch_1", LineState.CANCELLED)
    assert sorted(result.custom_id for result in desk.ledger.results) == ["c", "d"]
    assert {result.error_code for result in desk.ledger.results} == {"batch_cancelled"}
    assert not shard.ended.done()
    desk.upstream.answer()
    desk.upstream.answer()
    assert await shard.ended is Ending.DONE
    states = Counter(result.state for result in desk.ledger.results)
    assert states == {LineState.CANCELLED: 2, LineState.SUCCEEDED: 2}


async def test_cancelling_hangs_up_streamed_calls_once_and_keeps_the_others() -> None:
    desk = Desk(concurrency=4)
    shard, other = desk.shard("m", ["a", "b"]), desk.shard("m", ["x"], batch="batch_2", number=1)
    await settle()
    streamed, kept = shard.open_lines.values()
    for run in (streamed, *other.open_lines.values()):
        run.streamed = True
    streamed.generation, streamed.told = "gen-7", Told(Usage(3, 5), 40)
    desk.dispatcher.stop("batch_1", LineState.CANCELLED)
    desk.dispatcher.stop("batch_1", LineState.CANCELLED)  # as every heartbeat does until the end
    await settle()
    assert [settlement.cost for settlement in desk.ledger.settled] == [40]
    (result,) = desk.ledger.results
    assert (result.custom_id, result.state, result.cost) == ("a", LineState.CANCELLED, 40)
    assert result.attempts == (Attempt("abandoned", None, 0, generation_id="gen-7", cost=40, billed="yes"),)
    assert kept.hold is not None
    desk.upstream.answer(match=b"b")
    desk.upstream.answer(match=b"x")
    assert await shard.ended is Ending.DONE
    assert await other.ended is Ending.DONE
    assert {result.state for result in desk.ledger.results[1:]} == {LineState.SUCCEEDED}
    await settle()
    desk.check_books()


async def test_cancelling_does_not_wait_for_lines_that_wait_to_be_tried_again() -> None:
    desk = Desk(script=lambda _: failure(Retry.LATER, retry_after=3600.0))
    shard = desk.shard("m", ["a"])
    await settle()
    desk.dispatcher.stop("batch_1", LineState.CANCELLED)
    assert await shard.ended is Ending.DONE
    assert desk.ledger.results[0].state is LineState.CANCELLED
    assert desk.ledger.in_air == 0


async def test_lines_whose_time_is_over_expire_and_nothing_in_the_air_is_hung_up() -> None:
    """Not even streamed calls, for what is paid is kept; but nothing is sent again."""
    desk = Desk(concurrency=2)
    shard = desk.shard("m", ["a", "b", "c"])
    await settle()
    for run in shard.open_lines.values():
        run.streamed = True
    desk.dispatcher.stop("batch_1", LineState.EXPIRED)
    desk.dispatcher.stop("batch_1", LineState.EXPIRED)  # as every heartbeat does until the end
    await settle()
    (result,) = desk.ledger.results
    assert (result.custom_id, result.state, result.error_code) == ("c", LineState.EXPIRED, "batch_expired")
    desk.upstream.answer(match=b"a")
    desk.upstream.answer(failure(Retry.BACKOFF), match=b"b")
    assert await shard.ended is Ending.DONE
    states = {result.custom_id: result.state for result in desk.ledger.results}
    assert states == {"a": LineState.SUCCEEDED, "b": LineState.EXPIRED, "c": LineState.EXPIRED}
    late = next(result for result in desk.ledger.results if result.custom_id == "b")
    assert [attempt.outcome for attempt in late.attempts] == ["some_code"]
    assert (late.request, result.request) == (b"b", b"c")


async def test_a_batch_that_expired_can_be_cancelled_to_hang_up_what_is_in_the_air() -> None:
    desk = Desk(concurrency=1)
    shard = desk.shard("m", ["a"])
    await settle()
    shard.open_lines[0].streamed = True
    desk.dispatcher.stop("batch_1", LineState.EXPIRED)
    await settle()
    assert not shard.ended.done()
    desk.dispatcher.stop("batch_1", LineState.CANCELLED)
    assert await shard.ended is Ending.DONE
    (result,) = desk.ledger.results
    assert result.state is LineState.CANCELLED


async def test_another_batch_is_not_touched_by_a_cancel() -> None:
    desk = Desk(concurrency=1)
    desk.shard("m", ["a", "b"])
    other = desk.shard("m", ["x"], batch="batch_2", number=1)
    await settle()
    desk.dispatcher.stop("batch_1", LineState.CANCELLED)
    desk.upstream.answer()
    await settle()
    desk.upstream.answer(match=b"x")
    assert await other.ended is Ending.DONE


async def test_draining_begins_nothing_and_gives_back_what_is_left() -> None:
    desk = Desk(concurrency=2)
    shard = desk.shard("m", ["a", "b", "c"])
    await settle()
    desk.dispatcher.drain()
    assert desk.dispatcher.room("m") == 0
    desk.upstream.answer()
    await settle()
    assert not shard.ended.done()
    desk.upstream.answer()
    assert await shard.ended is Ending.GIVE_BACK
    assert len(desk.upstream.calls) == 2
    late = desk.shard("m", ["late"], number=1)
    assert await late.ended is Ending.GIVE_BACK


async def test_giving_up_what_is_in_the_air_leaves_no_line_counted() -> None:
    desk = Desk()
    shard = desk.shard("m", ["a"])
    await settle()
    desk.dispatcher.drain()
    desk.dispatcher.abandon()
    assert await shard.ended is Ending.GIVE_BACK
    assert (desk.ledger.in_air, desk.dispatcher.in_air) == (0, 0)


async def test_a_lost_shard_stops_but_records_what_comes_back() -> None:
    desk = Desk(concurrency=1)
    shard = desk.shard("m", ["a", "b"])
    await settle()
    desk.dispatcher.lose(shard)
    desk.upstream.answer()
    assert await shard.ended is Ending.GIVE_BACK
    assert [result.custom_id for result in desk.ledger.results] == ["a"]


async def test_what_breaks_on_our_side_costs_an_attempt_and_no_place() -> None:
    def script(body: bytes) -> Outcome:
        raise UnicodeEncodeError("ascii", "\xe9", 0, 1, "an answer that nobody foresaw")

    desk = Desk(concurrency=2, script=script, retry=RetrySettings(max_attempts=3, first_delay=0.001))
    shard = desk.shard("m", ["a", "b", "c"])
    assert await shard.ended is Ending.DONE
    assert {result.error_code for result in desk.ledger.results} == {"internal_error"}
    assert (desk.dispatcher.in_air, desk.ledger.in_air, len(desk.upstream.calls)) == (0, 0, 9)


async def test_what_was_tried_goes_with_the_shard_to_the_next_run() -> None:
    desk = Desk(script=lambda _: failure(Retry.BACKOFF, code="overloaded"), retry=RetrySettings(first_delay=3600.0))
    shard = desk.shard("m", ["a"])
    await settle()
    desk.dispatcher.drain()
    assert await shard.ended is Ending.GIVE_BACK
    tried = shard.tried()
    assert (tried[0].failures, [attempt.outcome for attempt in tried[0].attempts]) == (1, ["overloaded"])

    again = Desk(script=lambda _: OK)
    run = ShardRun(shard.claim, [Line(0, "a", b"a")], tried=tried)
    again.dispatcher.add(run)
    await run.ended
    assert [attempt.outcome for attempt in again.ledger.results[0].attempts] == ["overloaded", "ok"]


async def test_a_call_that_is_given_up_is_kept_as_maybe_billed() -> None:
    desk = Desk()
    shard = desk.shard("m", ["a"])
    await settle()
    desk.dispatcher.drain()
    desk.dispatcher.abandon()
    await shard.ended
    (attempt,) = shard.tried()[0].attempts
    assert (attempt.outcome, attempt.billed) == ("abandoned", "maybe")


async def test_a_lane_that_only_waits_to_try_again_says_so() -> None:
    desk = Desk(script=lambda _: failure(Retry.BACKOFF, code="bad_gateway"), retry=RetrySettings(first_delay=3600.0))
    desk.shard("a/b", ["line"])
    await settle()
    reason, seconds = desk.blocked[-1]
    assert reason == Reason("a/b", "retry", "a/b fails (bad_gateway), trying again")
    assert 0 < seconds < 3700
    desk.dispatcher.drain()


def test_a_rest_always_ends_on_uvloop_too() -> None:
    """Its timers are whole milliseconds, and may come before the moment that they were set for."""

    async def rest(number: int) -> None:
        outcomes: list[Outcome] = [failure(Retry.LATER, retry_after=0.001 + number * 0.000037), OK]
        desk = Desk(script=lambda _: outcomes.pop(0))
        await asyncio.wait_for(desk.shard("m", ["line"]).ended, 5)

    async def many() -> None:
        for start in range(0, 600, 50):
            await asyncio.gather(*(rest(number) for number in range(start, start + 50)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(many())


async def test_a_shard_too_many_is_not_taken_when_its_lines_are_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "_MOST_BYTES", 100)
    desk = Desk(concurrency=100)
    shard = desk.shard("m", ["x" * 101])
    assert desk.dispatcher.room("m") == 0
    assert desk.dispatcher.room("another") > 0
    await settle()
    desk.upstream.answer()
    await shard.ended
    await settle()
    assert desk.dispatcher.room("m") > 0


async def test_nothing_is_sent_while_redis_is_away() -> None:
    desk = Desk()
    desk.ledger.healthy = False
    shard = desk.shard("m", ["a"])
    await settle()
    assert desk.upstream.calls == []
    assert desk.dispatcher.room("m") == 0
    desk.ledger.healthy = True
    desk.ledger.on_healthy()
    await settle()
    desk.upstream.answer()
    assert await shard.ended is Ending.DONE


@pytest.mark.parametrize("concurrency", [1, 10, 100])
async def test_room_is_bounded_whatever_waits(concurrency: int) -> None:
    desk = Desk(concurrency=concurrency)
    for number in range(5):
        room = desk.dispatcher.room("m")
        if room <= 0:
            break
        desk.shard("m", [f"{n}" for n in range(room)], number=number)
    assert desk.dispatcher.room("m") <= 0
    assert desk.dispatcher.room("another") == 1
    desk.dispatcher.drain()
    desk.dispatcher.abandon()
    await settle()


async def _until(condition: object) -> None:
    while not condition():  # type: ignore[operator]  # a callable without arguments
        await asyncio.sleep(0)


async def test_an_overloaded_model_is_sent_less_and_not_paused() -> None:
    outcomes = iter([failure(Retry.BACKOFF, status=529)])
    desk = Desk(script=lambda _: next(outcomes, OK))
    shard = desk.shard("m", ["a"])
    assert await shard.ended is Ending.DONE
    assert (desk.slowed, desk.rests) == (["m"], [])
