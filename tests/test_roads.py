"""Routed lines: which road they take, what sends them to the next one, and that each call has its own gate pass."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable

import pytest

from batchmill.config.policy import EVERY_TROUBLE, Trouble
from batchmill.config.settings import RetrySettings
from batchmill.config.strategy import Strategy
from batchmill.openrouter.outcomes import Billed, Fault, Outcome, Retry, Scope
from batchmill.routing.candidates import Considered
from batchmill.store.gate import Reply, Why
from batchmill.store.lanes import Claim, Ending
from batchmill.store.model import Fare, Line, LineState, Result, Road, Route, Terms
from batchmill.workers.gatekeeper import Question
from batchmill.workers.journey import payload
from batchmill.workers.line import LineRun, ShardRun

from .workers_helpers import OK, Desk, admit_all, failure, no_budget, refusal, settle

LANE = "fast#00000000"
ROADS = ("a/one", "b/two", "c/three")
FAILED: Outcome = failure(Retry.BACKOFF, code="server_error")


def route(*models: str, strategy: Strategy = Strategy.ORDER, attempts: int = 3, **fields: object) -> Route:
    roads = tuple(Road(model, max_price=b'{"prompt":%d}' % number) for number, model in enumerate(models or ROADS))
    given = {"fallback_on": EVERY_TROUBLE, "members": b'"model":"fast"', "max_attempts": attempts, **fields}
    return Route("fast", strategy, roads, **given)  # type: ignore[arg-type]  # the struct's own fields


class Town(Desk):
    """A desk whose upstream answers by the model that it is asked for."""

    def __init__(self, script: Callable[[str], Outcome] = lambda _: OK, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.by_model = script
        self.upstream.send = self.send  # type: ignore[method-assign]
        self.dispatcher._flights._send = self.send

    async def send(self, run: LineRun) -> Outcome:
        body = payload(run)
        self.bodies.append(body)
        self.asked.append(json.loads(body)["model"])
        return self.by_model(self.asked[-1])

    def routed(self, lines: int, by: Route, *, bounds: tuple[int, ...] = (100, 200, 300)) -> ShardRun:
        fares = tuple(Fare(bounds[place], 10 + place, bounds[place] // 2) for place in range(len(by.roads)))
        claim = Claim("upstream", LANE, f"batch_1.0.{lines}", "run-1", "1")
        own = [Line(index, f"line-{index}", b'{"messages":[]}', fares=fares) for index in range(lines)]
        shard = ShardRun(claim, own, terms=Terms(route=by, capped=True))
        self.dispatcher.add(shard)
        return shard

    async def over(self, shard: ShardRun) -> list[Result]:
        assert await asyncio.wait_for(shard.ended, 5) is Ending.DONE
        await settle()
        self.check_books()
        return self.ledger.results


def shut(*models: str, why: Why = Why.BREAKER) -> Callable[[Question], Reply]:
    """Refuse these models for good, and admit the others."""
    return lambda question: refusal(why, wait=3_600_000) if question.rules.model in models else admit_all(question)


async def test_a_routed_line_goes_to_its_first_road_with_that_ones_model_price_and_bound() -> None:
    town = Town()
    (result,) = await town.over(town.routed(1, route()))
    (body,) = town.bodies
    assert json.loads(body) == {"messages": [], "model": "a/one", "provider": {"max_price": {"prompt": 0}}}
    (question,) = town.gate.questions
    assert (question.rules.model, question.runs[0].bound, question.runs[0].tokens) == ("a/one", 100, 10)
    assert (result.model, result.state, result.routed and result.routed.chosen) == (
        "a/one",
        LineState.SUCCEEDED,
        "a/one",
    )


async def test_a_failing_road_is_left_for_the_next_which_is_held_anew_at_its_own_price() -> None:
    town = Town(lambda model: OK if model == "b/two" else FAILED)
    (result,) = await town.over(town.routed(1, route()))
    assert town.asked == ["a/one", "b/two"]
    assert [(one.rules.model, one.runs[0].line.fares) for one in town.gate.questions][1][0] == "b/two"
    assert [(settled.bound, settled.cost) for settled in town.ledger.settled] == [(100, 0), (200, 700)]
    assert [(attempt.outcome, attempt.model) for attempt in result.attempts] == [("server_error", "a/one"), ("ok", "m")]
    assert result.routed is not None
    assert (result.routed.asked, result.routed.chosen) == ("fast", "b/two")
    assert "it failed (server_error)" in result.routed.considered[0].reason


async def test_no_line_is_tried_more_often_than_it_may_over_all_roads() -> None:
    town = Town(lambda _: FAILED)
    (result,) = await town.over(town.routed(1, route(attempts=2)))
    assert town.asked == ["a/one", "b/two"]
    assert (result.state, result.error_code, result.model) == (LineState.FAILED, "server_error", "b/two")


async def test_when_every_road_has_failed_they_are_tried_again() -> None:
    town = Town(lambda _: FAILED)
    await town.over(town.routed(1, route("a/one", "b/two", attempts=5)))
    assert town.asked == ["a/one", "b/two", "a/one", "b/two", "a/one"]


@pytest.mark.parametrize("code", ["context_length_exceeded", "moderation", "no_endpoints", "model_not_found"])
async def test_what_the_line_is_refused_for_by_one_model_another_may_take(code: str) -> None:
    no: Outcome = failure(Retry.NEVER, code=code, fault=Fault.CALLER, status=400)
    town = Town(lambda model: no if model == "a/one" else FAILED)
    await town.over(town.routed(1, route("a/one", "b/two", attempts=4)))
    assert town.asked == ["a/one", "b/two", "b/two", "b/two"]


async def test_a_request_that_nobody_can_read_fails_at_once() -> None:
    town = Town(lambda _: failure(Retry.NEVER, code="invalid_request", fault=Fault.CALLER, status=400))
    (result,) = await town.over(town.routed(1, route()))
    assert (town.asked, result.error_code) == (["a/one"], "invalid_request")
    assert result.request == b'{"messages":[],"model":"fast"}'  # as it was handed in


async def test_a_failure_that_is_no_reason_to_move_on_is_tried_again_where_it_was() -> None:
    answers = [OK, FAILED]
    town = Town(lambda _: answers.pop())
    await town.over(town.routed(1, route(fallback_on=(Trouble.CONTEXT,))))
    assert town.asked == ["a/one", "a/one"]


async def test_an_open_breaker_is_passed_over_and_told() -> None:
    town = Town()
    town.gate.script = shut("a/one")
    results = await town.over(town.routed(8, route()))
    assert Counter(town.asked) == {"b/two": 8}
    assert all(result.routed and "breaker" in result.routed.considered[0].reason for result in results)


@pytest.mark.parametrize("strategy", [Strategy.ORDER, Strategy.COST])
async def test_a_limit_is_waited_for_where_the_order_matters(strategy: Strategy) -> None:
    town = Town()
    town.gate.script = shut("a/one", why=Why.SHARE)
    shard = town.routed(3, route(strategy=strategy))
    await settle()
    assert (town.asked, shard.ended.done()) == ([], False)
    town.dispatcher.drain()
    await settle()
    town.check_books()


@pytest.mark.parametrize("by", [route(strategy=Strategy.ROUND_ROBIN), route(fallback_on=(Trouble.LIMIT,))])
async def test_a_limit_is_passed_over_by_those_who_spread_and_where_it_is_a_reason(by: Route) -> None:
    town = Town()
    town.gate.script = shut("a/one", why=Why.SHARE)
    await town.over(town.routed(6, by))
    assert set(town.asked) <= {"b/two", "c/three"}


async def test_a_model_without_room_in_its_budget_leaves_the_line_to_a_cheaper_one() -> None:
    town = Town()
    town.gate.script = lambda question: no_budget(question) if question.rules.model == "a/one" else admit_all(question)
    await town.over(town.routed(3, route()))
    assert Counter(town.asked) == {"b/two": 3}


async def test_when_no_road_fits_into_the_budget_the_batch_starves_and_asks_again() -> None:
    town = Town()
    refused = Counter[str]()

    def script(question: Question) -> Reply:
        refused[question.rules.model] += 1
        return no_budget(question) if min(refused.get(model, 0) for model in ROADS) < 2 else admit_all(question)

    town.gate.script = script
    await town.over(town.routed(2, route()))
    assert {(reason.scope, reason.kind) for reason, _ in town.blocked} == {("batch_1", "budget")}
    assert min(refused[model] for model in ROADS) >= 2


async def test_a_refusal_by_the_upstream_rests_that_model_and_lines_go_on_elsewhere() -> None:
    limit: Outcome = failure(Retry.LATER, code="rate_limit_exceeded", fault=Fault.LIMIT, status=429, retry_after=60.0)
    town = Town(lambda model: limit if model == "a/one" else OK)
    await town.over(town.routed(4, route(strategy=Strategy.ROUND_ROBIN), bounds=(100, 100, 100)))
    assert [model for model, *_ in town.rests] == ["a/one"] * len(town.rests)
    assert town.rests


async def test_a_line_that_waits_for_its_only_road_does_not_hold_up_those_that_have_others() -> None:
    """The first line failed on a/one; b/two, its other road, is shut. The others find a/one open."""
    first = [FAILED]
    town = Town(lambda _: first.pop() if first else OK, concurrency=1)
    town.gate.script = shut("b/two", why=Why.BREAKER)
    shard = town.routed(4, route("a/one", "b/two"))
    await settle()
    for _ in range(50):
        await settle()
    assert town.asked.count("a/one") >= 4
    assert not shard.ended.done()
    assert len(town.ledger.results) == 3
    town.gate.script = admit_all
    valve = town.dispatcher._lanes[LANE].valve("b/two")
    valve.learn(refusal(Why.LIMIT, wait=0), 1, town.gate.wake)
    assert len(await town.over(shard)) == 4


async def test_a_cancelled_batch_leaves_no_line_behind_on_any_road() -> None:
    town = Town(lambda _: FAILED)
    town.gate.script = shut(*ROADS[1:])
    shard = town.routed(3, route())
    await settle()
    town.dispatcher.stop("batch_1", LineState.CANCELLED)
    assert await asyncio.wait_for(shard.ended, 5) is Ending.DONE
    await settle()
    town.check_books()
    assert {result.state for result in town.ledger.results} <= {LineState.CANCELLED, LineState.FAILED}


async def test_a_call_that_was_given_up_stays_unknown_at_the_price_of_its_own_road() -> None:
    town = Town()
    town.gate.script = shut("a/one")
    blocker: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    async def never(_: LineRun) -> Outcome:
        return await blocker

    town.dispatcher._flights._send = never
    town.routed(1, route())
    await settle()
    town.dispatcher.drain()
    town.dispatcher.abandon()
    await settle()
    (settled,) = town.ledger.settled
    assert (settled.bound, settled.cost) == (200, None)


async def test_round_robin_gives_each_road_its_turn() -> None:
    town = Town(concurrency=3)
    await town.over(town.routed(300, route(strategy=Strategy.ROUND_ROBIN)))
    assert Counter(town.asked) == {"a/one": 100, "b/two": 100, "c/three": 100}


async def test_cost_takes_the_cheapest_for_each_line() -> None:
    town = Town()
    await town.over(town.routed(5, route(strategy=Strategy.COST), bounds=(300, 100, 200)))
    assert Counter(town.asked) == {"b/two": 5}


async def test_unfit_models_are_told_with_the_result() -> None:
    town = Town()
    unfit = (Considered("d/four", "its context has room for 100 tokens"),)
    (result,) = await town.over(town.routed(1, route(unfit=unfit)))
    assert result.routed is not None
    assert result.routed.considered[-1] == unfit[0]


async def test_an_account_that_is_refused_is_refused_on_every_road() -> None:
    no: Outcome = failure(
        Retry.ACCOUNT, code="authentication", fault=Fault.ACCOUNT, status=401, scope=Scope.ACCOUNT, retry_after=0.01
    )
    answers = [OK, no]
    town = Town(lambda _: answers.pop(), retry=RetrySettings())
    await town.over(town.routed(1, route()))
    assert [scope for _, scope, _ in town.rests] == ["refused"]


async def test_a_paid_failure_counts_in_the_lines_cost() -> None:
    paid: Outcome = failure(Retry.BACKOFF, code="server_error", billed=Billed.YES, cost=40)
    town = Town(lambda model: OK if model == "b/two" else paid)
    (result,) = await town.over(town.routed(1, route()))
    assert result.cost == 740


async def test_why_routed_lines_wait_is_told_to_those_who_ask_by_what_they_asked_for() -> None:
    town = Town()
    town.gate.script = lambda question: refusal(Why.SHARE, wait=3_600_000)
    town.routed(1, route(strategy=Strategy.ROUND_ROBIN))
    await settle()
    assert {(reason.scope, reason.kind) for reason, _ in town.blocked} == {("fast", "share")}
    town.dispatcher.drain()


async def test_a_failed_line_that_wanted_live_tokens_says_so_when_it_is_handed_back() -> None:
    town = Town(lambda _: failure(Retry.NEVER, code="invalid_request", fault=Fault.CALLER, status=400))
    claim = Claim("upstream", "m", "batch_1.0.1", "run-1", "1")
    shard = ShardRun(claim, [Line(0, "zero", b'{"model":"m"}', 1, 1, live=True)])
    town.dispatcher.add(shard)
    (result,) = await town.over(shard)
    assert result.request == b'{"model":"m","stream_to":true}'


async def test_a_line_that_leaves_the_way_to_the_gate_opens_its_valve_to_the_others() -> None:
    """As one that the answer cache answers: nobody asks the gate for it, so nobody hears from it."""
    town = Town()
    town.gate.script = lambda _: None
    town.routed(3, route("a/one"))
    await settle()
    lane = town.dispatcher._lanes[LANE]
    lane.valve("a/one").width = 3
    town.routed(2, route("a/one"))
    await settle()
    assert lane._stalled
    lane.answered("a/one", 1)
    assert lane.may_ask
    lane.asked, lane.valve("a/one").asked = 3, 3
    town.dispatcher.drain()
