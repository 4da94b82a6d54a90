"""What the same calls would have cost elsewhere: exact, with evidence, and nothing that was not seen."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from batchmill.config.policy import Limit, Policy, PriceRule, Routing
from batchmill.openrouter.models import ModelFacts, Reasoning
from batchmill.openrouter.money import to_nano
from batchmill.openrouter.prices import Billable, cost
from batchmill.spend.ledger import Source, UsageRecord
from batchmill.spend.recommendations import Advice, Findings, Kind, Terms, best_of, book_for, priced, read, recommend
from batchmill.spend.usage import cost_of

from .shelf_helpers import facts, shelf

NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp() * 1000)
DAY = 86_400_000
TODAY = date(2026, 11, 24)
USED = facts("acme/used", parameters=("tools",))  # $1 in, $4 out
CHEAP = facts("acme/cheap", "0.0000001", "0.0000004", parameters=("tools",))  # a tenth of it
TIERED = {
    "input_cache_read": "0.0000001",
    "request": "0.00001",
    "overrides": [
        {"min_prompt_tokens": 1000, "prompt": "0.000002"},
        {"utc_start": 900, "utc_end": 1700, "completion": "0.000008"},
        {"utc_days": ["monday"], "completion": "0.000003"},
    ],
}


def call(prompt: int = 1000, completion: int = 100, **fields: Any) -> UsageRecord:
    usual: dict[str, Any] = {"at": NOON, "hold": "h", "project": "p", "batch": "b", "index": 0, "model": "acme/used"}
    paid = to_nano(Decimal(prompt) / 1_000_000 + Decimal(4 * completion) / 1_000_000)
    return UsageRecord(**(usual | {"prompt_tokens": prompt, "completion_tokens": completion, "cost": paid} | fields))


def found(records: list[UsageRecord], *models: ModelFacts, **terms: Any) -> Findings:
    of = shelf(*models)
    return recommend(of, read(of, records), Terms(today=TODAY, **terms))


def only(records: list[UsageRecord], *models: ModelFacts, **terms: Any) -> Advice:
    (advice,) = found(records, *models, **terms).advice
    return advice


def test_a_cheaper_model_that_can_take_the_calls_saves_the_difference_to_the_nano_dollar() -> None:
    advice = only([call(), call(3000, 7)], USED, CHEAP)
    (option,) = advice.options
    assert (option.kind, option.item.id, option.requests) == (Kind.MODEL, "acme/cheap", 2)
    assert advice.today == Decimal("0.004428")
    assert option.cost == Decimal("0.0004428")
    assert option.saving == 3_985_200
    assert (advice.usage.context, advice.usage.answer, advice.total.paid) == (3007, 100, 4_428_000)


@given(
    calls=st.lists(
        st.tuples(
            st.integers(1, 3000), st.integers(0, 500), st.integers(0, 3000), st.integers(0, 7 * DAY), st.integers(0, 99)
        ),
        min_size=1,
        max_size=30,
    )
)
@example(calls=[(1000, 1, 0, 0, 0), (1001, 1, 0, 0, 0)])  # on either side of a step
def test_the_sum_of_cells_is_the_sum_of_calls_under_prices_by_length_hour_and_day(
    calls: list[tuple[int, int, int, int, int]],
) -> None:
    tiered = facts("acme/tiered", pricing=TIERED)
    records = [
        call(prompt, answer, cached_tokens=min(cached, prompt), at=NOON + late, reasoning_tokens=min(thought, answer))
        for prompt, answer, cached, late, thought in calls
    ]
    of = shelf(USED, tiered)
    (usage,) = read(of, records).models.values()
    price = of.items[1].price.price
    expected = Decimal(0)
    for one in records:
        used = Billable(
            prompt_tokens=one.prompt_tokens,
            completion_tokens=one.completion_tokens,
            cached_tokens=one.cached_tokens,
            reasoning_tokens=one.reasoning_tokens,
        )
        expected += cost(price, used, datetime.fromtimestamp(one.at / 1000, UTC)) or 0
    assert cost_of(price, usage.cells.values()) == expected
    assert len(usage.cells) <= 8 * 2 * 3, "memory goes by days and prices, not by calls"


def test_nothing_is_recommended_that_lacks_what_was_used() -> None:
    lacking = [
        facts("a/deaf", "0", "0.0000001"),
        facts("a/short", "0", "0.0000001", parameters=("tools",), context_length=1099),
        facts("a/nobody-knows-how-long", "0", "0.0000001", parameters=("tools",), context_length=None),
        facts("a/terse", "0", "0.0000001", parameters=("tools",), max_completion_tokens=99),
        facts("a/silent", "0", "0.0000001", parameters=()),
        facts("a/gone", "0", "0.0000001", parameters=("tools",), expires="2026-11-01"),
        facts("a/excluded", "0", "0.0000001", parameters=("tools",)),
        facts("a/router", "0", "0.0000001", parameters=("tools",), tokenizer="Router"),
        facts("~a/alias", "0", "0.0000001", parameters=("tools",)),
        facts("a/unpriced", "-1", "0.0000001", parameters=("tools",)),
        facts("a/thinker", "0", "0.0000001", parameters=("tools",), reasoning=Reasoning(mandatory=True)),
    ]
    policy = Policy(routing=Routing(exclude_models=("a/excluded",)))
    advice = only([call()], USED, *lacking, policy=policy)
    assert advice.options == ()
    assert (advice.considered, advice.fitting) == (len(lacking), 0)
    assert (advice.needs, advice.told) == (frozenset({"tools"}), False)
    just = facts("a/just", "0", "0.0000001", parameters=("tools",), context_length=1100, max_completion_tokens=100)
    assert [one.item.id for one in only([call()], USED, just).options] == ["a/just"]


def test_what_somebody_says_that_lines_need_takes_the_place_of_the_upper_bound() -> None:
    plain = facts("a/plain", "0.0000001", "0.0000004")
    assert only([call()], USED, plain).options == ()
    advice = only([call()], USED, plain, needs=frozenset())
    assert [one.item.id for one in advice.options] == ["a/plain"]
    assert (advice.needs, advice.told) == (frozenset(), True)


def test_thinking_is_needed_only_where_calls_thought() -> None:
    used = msgspec.structs.replace(USED, reasoning=Reasoning(efforts=("high",)))
    assert [one.item.id for one in only([call()], used, CHEAP).options] == ["acme/cheap"]
    assert only([call(reasoning_tokens=1)], used, CHEAP).options == ()


def test_a_price_that_has_fallen_is_no_saving_and_neither_is_what_is_no_token() -> None:
    dear = only([call(cost=5_000_000)], USED, CHEAP)  # paid more than its tokens cost today
    assert (dear.basis, dear.options[0].saving) == (Decimal("0.0014"), 1_260_000)
    cheap = only([call(cost=1_000_000)], USED, CHEAP)  # or less: a cheaper endpoint
    assert (cheap.basis, cheap.options[0].saving) == (Decimal("0.001"), 860_000)
    assert only([call(cost=140_000)], USED, CHEAP).options == (), "what was paid is what it would cost there"


def test_a_free_model_takes_no_more_calls_a_day_than_its_cap() -> None:
    free = facts("acme/used:free", "0", "0", parameters=("tools",))
    policy = Policy(limits=(Limit(name="free", match=("*:free",), requests_per_day=2, shared=True),))
    records = [call(), call(), call(), call(at=NOON + DAY)]
    (option,) = only(records, USED, free, policy=policy).options
    assert (option.kind, option.requests, option.cost) == (Kind.FREE, 3, Decimal(0))
    assert option.saving == 3 * 1_400_000
    assert any("2 calls of free models go a day; 1 calls of busier days" in caveat for caveat in option.caveats)


def test_a_batch_entry_says_how_it_is_called() -> None:
    batch = facts("acme/used:batch", "0.0000005", "0.000002", parameters=("tools",))
    (option,) = only([call()], USED, batch).options
    assert (option.kind, option.saving) == (Kind.BATCH, 700_000)
    assert "within 24 hours" in option.caveats[0]


def test_caching_saves_at_most_what_the_uncached_tokens_cost_more() -> None:
    used = facts("acme/used", parameters=("tools",), pricing={"input_cache_read": "0.0000001"})
    caching = only([call(cached_tokens=400)], used).caching
    assert caching is not None
    assert (caching.uncached, caching.for_million, caching.most) == (600, Decimal("0.9"), 540_000)
    assert only([call(cached_tokens=1000)], used).caching is None
    assert only([call()], USED).caching is None, "it has no price for cached tokens"


def test_cached_tokens_go_at_the_other_s_cache_price_or_as_plain_ones() -> None:
    caches = facts("a/caches", "0.0000005", "0", parameters=("tools",), pricing={"input_cache_read": "0.00000005"})
    plain = facts("a/plain", "0.0000005", "0", parameters=("tools",))
    costs = {one.item.id: one.cost for one in only([call(cached_tokens=1000)], USED, caches, plain).options}
    assert costs == {"a/caches": Decimal("0.00005"), "a/plain": Decimal("0.0005")}


def test_a_cache_price_of_nothing_is_none() -> None:
    named = facts("a/named", "0.0000005", "0", parameters=("tools",), pricing={"input_cache_read": "0"})
    (option,) = only([call(cached_tokens=1000)], USED, named).options
    assert option.cost == Decimal("0.0005")
    assert only([call(model="a/named")], named).caching is None


def test_caveats_tell_what_is_not_in_the_sum() -> None:
    thoughtful = facts("a/t", "0", "0.000001", parameters=("tools",), reasoning=Reasoning(default_enabled=True))
    told = {
        "tokenizer": only([call()], USED, facts("a/t", "0", "0.000001", parameters=("tools",), tokenizer="T")),
        "does not think: 9": only([call(reasoning_tokens=9)], USED, CHEAP, needs=frozenset()),
        "think longer": only([call(reasoning_tokens=9)], USED, thoughtful, needs=frozenset()),
        "thinks unless": only([call()], USED, thoughtful),
        "may be removed after 2027-01-01": only([call()], USED, msgspec.structs.replace(CHEAP, expires="2027-01-01")),
    }
    for words, advice in told.items():
        assert [words in caveat for caveat in advice.options[0].caveats] == [True], words
    assert only([call()], USED, CHEAP).options[0].caveats == ()


def test_what_nobody_knows_is_left_out_and_counted() -> None:
    records = [
        call(),
        call(0, 0, hold="lost", source=Source.SUSPECT, cost=7),
        call(outcome="provider_error", cost=3),
        call(0, 0, cost=2),
    ]
    findings = found(records, USED, CHEAP)
    assert (findings.unusable.requests, findings.unusable.paid) == (3, 12)
    assert findings.advice[0].total.requests == 1


def test_a_call_that_was_suspect_counts_as_what_it_was_reconciled_to_on_its_own_day() -> None:
    suspects = [call(0, 0, hold=hold, source=Source.SUSPECT, outcome="lost", cost=90) for hold in ("late", "looked up")]
    corrections = [
        call(0, 0, at=NOON + DAY, hold="looked up", source=Source.RECONCILED, outcome="lost", cost=5),  # no tokens told
        call(at=NOON + DAY, hold="late", source=Source.RECONCILED, cost=60),
        call(at=NOON + 2 * DAY, hold="late", source=Source.RECONCILED, cost=50),  # once more
        call(at=NOON + DAY, hold="of days before", source=Source.RECONCILED),
    ]
    findings = found([call(), *suspects, *corrections], USED, CHEAP)
    (advice,) = findings.advice
    assert (findings.unusable.requests, findings.unusable.paid) == (1, 5)
    assert (advice.total.requests, advice.total.prompt, advice.total.paid) == (2, 2000, 1_400_050)
    assert list(advice.usage.days()) == [NOON // DAY]
    book = book_for(shelf(USED), NOON + DAY)
    for record in [*suspects, *corrections, call(at=NOON + DAY)]:
        book.add(record)
    book.settle()
    assert [usage.total.paid for usage in book.models.values()] == [50]


def test_a_model_outside_of_the_catalogue_is_named_and_a_router_counts_as_what_answered() -> None:
    advice = only([call(model="x/own")], USED, CHEAP)
    assert "no such model" in (advice.unknown or "")
    assert (advice.options, advice.caching) == ((), None)
    told = only([call(model="x/own")], USED, CHEAP, needs=frozenset())
    assert {one.item.id for one in told.options} == {"acme/cheap"}
    router = facts("openrouter/auto", "-1", "-1", tokenizer="Router")
    findings = found([call(model="openrouter/auto", served="acme/used"), call(model="acme/used:floor")], USED, router)
    assert [(one.usage.model, one.total.requests) for one in findings.advice] == [("acme/used", 2)]


def test_all_options_are_ranked_by_size_and_few_of_each_kind_kept() -> None:
    free = facts("a/x:free", "0", "0", parameters=("tools",))
    half = facts("a/half", "0.0000005", "0.000002", parameters=("tools",))
    findings = found([call(), call(model="acme/cheap", cost=140_000)], USED, CHEAP, half, free)
    savings = [option.saving for _, option in findings.ranked()]
    assert savings == sorted(savings, reverse=True)
    assert [one.item.id for one in best_of(findings.advice[0].options, 1)] == ["a/x:free", "acme/cheap"]


def test_the_operator_s_prices_go_before_listed_ones() -> None:
    rule = PriceRule(match=("acme/cheap",), prompt=Decimal(9), completion=Decimal(9))
    policy = Policy(prices=(rule,))
    models = priced({USED.id: USED, CHEAP.id: CHEAP}, policy)
    assert only([call()], *models.values(), policy=policy).options == ()
