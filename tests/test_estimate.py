"""What a file would cost before anything is spent: sums by model, budgets that stop it, limits that slow it."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Alias, Budget, Limit, Policy, PriceRule
from batchmill.config.settings import Settings
from batchmill.config.strategy import Strategy
from batchmill.config.windows import WindowKind
from batchmill.openrouter.models import ModelFacts
from batchmill.openrouter.outcomes import Usage
from batchmill.producer import InputError, Producer
from batchmill.producer.estimate import OWN, Estimator, Known
from batchmill.producer.finish import Finish, Load, finish_of
from batchmill.producer.lines import Conditions, Priced, Request
from batchmill.producer.pricing import Pricer
from batchmill.producer.sampling import Measured, Point, measure, spread_over
from batchmill.routing.health import Tally
from batchmill.store.batch_index import newest
from batchmill.store.model import LineState, Result
from batchmill.store.statistics import SLOT, Counted, answer_tokens, count

NOON = 1_795_521_600_000  # 2026-11-24T12:00Z
PRICING = b'{"prompt":"0.000004","completion":"0.00001"}'
CHEAP = b'{"prompt":"0.000001","completion":"0.000002"}'
MODELS = {
    "a/b": ModelFacts("a/b", PRICING, 8192, 1000),
    "a/cheap": ModelFacts("a/cheap", CHEAP, 8192, 1000),
    "a/unpriced": ModelFacts("a/unpriced", b'{"prompt":"-1","completion":"-1"}', 8192, 100),
}


def pricer(*, max_cost: int | None = None, **policy: Any) -> Pricer:
    return Pricer(MODELS, Policy(**policy), Conditions(max_cost=max_cost), strict=True)


def request(number: int = 1, model: str = "a/b", **fields: Any) -> Request:
    members = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
    return Request(number, f"line-{number}", model, json.dumps(members).encode())


def estimator(by: Pricer, lines: int = 10, known: Known | None = None, **fields: Any) -> Estimator:
    made = Estimator(by, known or Known(now=NOON), fields.pop("measured", None), fields.pop("keep", frozenset()))
    for number in range(1, lines + 1):
        made.add(request(number, **fields))
    return made


def bound_of(by: Pricer, line: Request) -> int:
    found = by.price(line)
    assert isinstance(found, Priced)
    return found.bound


def test_a_line_costs_its_prompt_and_a_usual_answer_and_at_most_its_bound() -> None:
    by, line = pricer(), request(max_tokens=500)
    found = estimator(by, 10, max_tokens=500).estimate(places=1)
    (model,) = found.models
    prompt = len(line.body) // 4
    assert (model.lines, model.prompt_tokens, model.completion_tokens) == (10, 10 * prompt, 3000)
    assert found.likely == model.likely == 10 * (prompt * 4000 + 300 * 10_000)
    assert found.worst == model.worst == 10 * bound_of(by, line)
    assert not model.observed


def test_observed_answers_count_as_far_as_the_limit_lets_them() -> None:
    known = Known(now=NOON, answers={"a/b": 700})
    assert estimator(pricer(), 1, known, max_tokens=900).estimate(places=1).models[0].completion_tokens == 700
    (model,) = estimator(pricer(), 1, known, max_tokens=50).estimate(places=1).models
    assert (model.completion_tokens, model.observed) == (50, True)


def test_a_routed_line_counts_where_it_would_go_and_at_most_what_its_dearest_road_costs() -> None:
    by = pricer(aliases=(Alias(name="fast", models=("a/b", "a/cheap"), strategy=Strategy.COST),))
    line = request(model="fast", max_tokens=100)
    priced = by.price(line)
    assert isinstance(priced, Priced)
    found = estimator(by, 3, model="fast", max_tokens=100).estimate(places=1)
    assert [(each.model, each.lines) for each in found.models] == [("a/cheap", 3)]
    assert found.worst == 3 * max(fare.bound for fare in priced.fares)


def test_weights_deal_lines_out_by_their_shares() -> None:
    alias = Alias(name="fast", models=("a/b", "a/cheap"), strategy=Strategy.WEIGHTED, weights=(3.0, 1.0))
    found = estimator(pricer(aliases=(alias,)), 1000, model="fast").estimate(places=1)
    dealt = {each.model: each.lines for each in found.models}
    assert dealt["a/b"] == pytest.approx(750, abs=10)


def test_an_unpriced_model_is_named_and_can_not_run_at_openrouter() -> None:
    found = estimator(pricer(), 2, model="a/unpriced").estimate(places=1)
    assert (found.lines, found.bad_count, found.unpriced) == (0, 2, {"a/unpriced": 2})
    loose = Pricer(MODELS, Policy(), Conditions(), strict=False)
    elsewhere = estimator(loose, 2, model="nobody/nothing").estimate(places=1)
    assert (elsewhere.lines, elsewhere.likely, elsewhere.unpriced) == (2, None, {"nobody/nothing": 2})


def test_a_budget_stops_the_lines_whose_bound_finds_no_room_beside_what_the_others_cost() -> None:
    line = request(max_tokens=1000)
    bound = bound_of(pricer(), line)
    likely = len(line.body) // 4 * 4000 + 300 * 10_000
    room = 4 * likely + bound  # so five lines fit: four spent, and the bound of the fifth
    budget = Budget(name="daily", limit_usd=Decimal(1), window=WindowKind.DAY)
    known = Known(now=NOON, free={"daily": room})
    found = estimator(pricer(budgets=(budget,)), 9, known, max_tokens=1000).estimate(places=1)
    (told,) = found.budgets
    assert (found.fits, told.stopped, told.lines, told.free) == (5, 4, 9, room)
    assert told.resets_ms == NOON + 12 * 3_600_000
    own = estimator(pricer(max_cost=room), 9, max_tokens=1000).estimate(places=1)
    assert [(each.name, each.stopped, each.resets_ms) for each in own.budgets] == [(OWN, 4, None)]


LOADS = [Load("a/b", 600, 60_000, 2000.0), Load("a/cheap", 400, 40_000, 1000.0)]


@pytest.mark.parametrize(
    ("limit", "places", "finish"),
    [
        (None, 100, Finish(16.0, "100 lines in the air")),
        (Limit(match="*", requests_per_minute=60), 100, Finish(594.0, "limit all: 60 requests a minute")),
        (Limit(match="*", requests_per_minute=60, shared=True), 100, Finish(994.0, "limit all: 60 requests a minute")),
        (Limit(match="*", tokens_per_minute=6000), 100, Finish(594.0, "limit all: 6,000 tokens a minute")),
        (Limit(match="a/b", max_concurrency=2), 100, Finish(600.0, "limit a-b: 2 in the air")),
        (Limit(match="a/b", requests_per_day=250), 100, Finish(129_600.0, "limit a-b: 250 requests a day")),
    ],
)
def test_the_slowest_of_what_holds_lines_up_sets_the_end(limit: Limit | None, places: int, finish: Finish) -> None:
    policy = Policy(limits=(limit,) if limit else ())
    assert finish_of(LOADS, policy, {}, places=places, now_ms=NOON) == finish


def test_what_was_sent_today_leaves_less_of_a_day_and_nobody_knows_without_anything() -> None:
    policy = Policy(limits=(Limit(match="a/b", name="one", requests_per_day=600),))
    assert finish_of([Load("a/b", 600, 0)], policy, {}, places=1, now_ms=NOON) == Finish(
        0.0, "limit one: 600 requests a day"
    )
    found = finish_of([Load("a/b", 600, 0)], policy, {("one", "a/b"): 1}, places=1, now_ms=NOON)
    assert found is not None
    assert found.seconds == 43_200
    assert finish_of([Load("a/b", 600, 0)], Policy(limits=()), {}, places=1, now_ms=NOON) is None


def result(cost: int | None, *, tokens: int = 10, state: LineState = LineState.SUCCEEDED) -> Result:
    return Result(0, "line-0", "a/b", state, usage=Usage(1, tokens), cost=cost, latency_ms=400)


def test_a_sample_is_spread_over_the_file() -> None:
    assert spread_over(100, 4) == [12, 37, 62, 87]
    assert spread_over(3, 10) == [0, 1, 2]
    assert spread_over(0, 10) == []


def test_a_sample_scales_what_was_guessed_and_a_perfect_one_leaves_no_range() -> None:
    points = [Point("a/b", guess, result(guess // 2)) for guess in (1000, 3000, 2000)]
    found = measure(points)["a/b"]
    assert (found.lines, found.ratio, found.error, found.guessed) == (3, Decimal("0.5"), Decimal(0), True)
    assert found.total(100, 80_000) == 40_000
    assert found.ends(100, 80_000) == (40_000, 40_000)
    assert (found.latency_ms, found.completion_tokens) == (400, 10)


def test_the_range_of_a_sample_is_two_standard_errors() -> None:
    found = measure([Point("a/b", None, result(cost)) for cost in (100, 300)])["a/b"]
    assert (found.guessed, found.ratio, found.error) == (False, Decimal(200), Decimal(100))
    assert found.ends(10, None) == (0, 4000)
    assert measure([Point("a/b", 100, result(100))])["a/b"].ends(1, 1000) == (500, 2000)


def test_a_failed_line_of_a_sample_costs_what_it_cost_and_one_without_a_word_says_nothing() -> None:
    points = [Point("a/b", 100, result(100)), Point("a/b", 100, result(None, state=LineState.FAILED))]
    assert measure(points)["a/b"].ratio == Decimal("0.5")
    assert measure([Point("a/b", 100, result(None))]) == {}


def test_a_sample_moves_costs_budgets_and_times() -> None:
    measured = {"a/b": Measured(lines=5, ratio=Decimal("0.5"), error=Decimal("0.1"), guessed=True, latency_ms=1000.0)}
    plain = estimator(pricer(max_cost=10**9), 10).estimate(places=2)
    found = estimator(pricer(max_cost=10**9), 10, measured=measured, keep=frozenset((0, 9))).estimate(places=2)
    assert plain.likely is not None
    assert found.likely == plain.likely // 2
    assert (found.low, found.high) == (plain.likely * 3 // 10, plain.likely * 7 // 10)
    assert found.budgets[0].likely == plain.budgets[0].likely // 2
    assert found.finish == Finish(5.0, "2 lines in the air")
    assert [each.number for each in found.chosen] == [1, 10]


async def test_answers_are_known_once_a_model_gave_enough_of_them(redis: Redis) -> None:
    (seconds, _) = await redis.execute_command("TIME")
    slot, at = int(seconds) // SLOT, int(seconds) * 1000
    for model, calls in (("a/b", 20), ("a/cheap", 19)):
        tally = Tally()
        for _ in range(calls):
            tally.answered(100, None, 33)
        tally.failed()
        await count(redis, "up", [Counted(model, slot, at, {"p": tally})])
    assert await answer_tokens(redis, "up", ["a/b", "a/cheap", "a/none"]) == {"a/b": 33}


@pytest.fixture
def settings_with_prices(settings: Settings) -> Settings:
    policy = Policy(
        prices=(PriceRule(match="*", prompt=Decimal(4), completion=Decimal(10)),),
        budgets=(Budget(name="all", limit_usd=Decimal("0.01")),),
    )
    return msgspec.structs.replace(settings, policy=policy)


async def test_a_file_is_estimated_and_nothing_is_enqueued(
    redis: Redis, settings_with_prices: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "lines.jsonl"
    good = json.dumps({"model": "a/b", "prompt": "Hello", "max_tokens": 200})
    path.write_text("\n".join([good] * 600 + ["{", good]))
    found = await Producer(redis, settings_with_prices).estimate(path, keep={0, 600})
    assert (found.lines, found.bad_count, found.bad[0].number) == (601, 1, 601)
    assert [each.number for each in found.chosen] == [1, 602]
    assert 0 < found.fits < 601
    assert found.budgets[0].name == "all"
    assert await newest(redis, 1) == []
    with pytest.raises(InputError, match="can't be read"):
        await Producer(redis, settings_with_prices).estimate(tmp_path / "none.jsonl")


async def test_without_consent_nothing_is_enqueued_and_what_is_there_needs_none(
    redis: Redis, settings: Settings
) -> None:
    producer, asked = Producer(redis, settings), []

    async def refuse() -> None:
        asked.append(1)
        raise RuntimeError("no")

    lines = [{"model": "a/b", "prompt": "Hello"}]
    with pytest.raises(RuntimeError):
        await producer.submit(lines, consent=refuse)
    assert await newest(redis, 1) == []
    await producer.submit(lines)
    assert (await producer.submit(lines, consent=refuse)).reused
    assert asked == [1]
