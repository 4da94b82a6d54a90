"""What a call's end means for the money, as a table."""

import msgspec
import pytest

from batchmill.config.policy import Breaker
from batchmill.openrouter.bounds import MAX_NANO
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Fault, Retry, Usage
from batchmill.store.lanes import Claim
from batchmill.store.ledger import Source, UsageRecord
from batchmill.store.model import Line
from batchmill.store.rules import Rules
from batchmill.store.settlement import Outcome, Settlement
from batchmill.workers import booking
from batchmill.workers.line import Hold, LineRun, ShardRun, Told

from .workers_helpers import failure

PRICED = b'{"prompt":"0.000001","completion":"0.000002"}'
USAGE = Usage(1000, 10)


def hold(**breaker: float) -> Hold:
    return Hold("h", Rules(1, 0, "m", (), (), Breaker(**breaker)))  # type: ignore[arg-type]  # the struct's own fields


@pytest.fixture
async def run() -> LineRun:
    shard = ShardRun(Claim("upstream", "m", "batch_1.0.1", "run-1", "1"), [])
    return LineRun(Line(0, "zero", b"{}", bound=5_000_000, tokens=2000), shard)


def money(settled: Settlement) -> Settlement:
    """Return it without what the ledger is told."""
    return msgspec.structs.replace(settled, record=None)


def answer(cost: int | None, usage: Usage = USAGE) -> Answer:
    return Answer(body=b"{}", model="m", usage=usage, cost=cost, latency_ms=1500, generation_id="gen-1")


def test_the_upstreams_own_cost_goes_before_ours() -> None:
    told = answer(7)
    assert booking.priced(told, PRICED) is told


def test_without_a_told_cost_the_tokens_cost_what_the_price_says() -> None:
    assert booking.priced(answer(None), PRICED).cost == 1_000_000 + 20_000


@pytest.mark.parametrize(
    ("usage", "pricing"),
    [
        (Usage(), PRICED),
        (USAGE, None),
        (USAGE, b'{"prompt":"-1","completion":"-1"}'),
        (USAGE, b"no price at all"),
    ],
)
def test_what_can_not_be_priced_stays_unknown_and_the_answer_is_kept(usage: Usage, pricing: bytes | None) -> None:
    priced = booking.priced(answer(None, usage), pricing)
    assert isinstance(priced, Answer)
    assert (priced.cost, priced.body) == (None, b"{}")


async def test_a_call_that_was_given_up_costs_what_its_stream_had_told_or_nobody_knows(run: LineRun) -> None:
    run.generation = "gen-1"
    assert money(booking.unknown(run, hold())) == Settlement("h", 5_000_000, None, generation="gen-1")
    run.told = Told(USAGE, 40)
    assert money(booking.unknown(run, hold())) == Settlement("h", 5_000_000, 40, 1010, generation="gen-1")
    run.told = Told(USAGE, None)
    assert booking.unknown(run, hold()).cost is None


def test_a_failure_is_priced_by_its_tokens_too() -> None:
    assert booking.priced(failure(Retry.NEVER, usage=USAGE), PRICED).cost == 1_020_000


def test_a_price_beyond_what_the_books_can_count_is_the_most_that_they_can() -> None:
    assert booking.priced(answer(None, Usage(2**50, 1)), PRICED).cost == MAX_NANO


async def test_an_answer_costs_what_was_told(run: LineRun) -> None:
    settled = booking.settlement(run, hold(), answer(7))
    assert money(settled) == Settlement("h", 5_000_000, 7, 1010, Outcome.ANSWERED, False, "gen-1")


async def test_an_answer_without_a_cost_is_suspect_where_a_price_was_promised(run: LineRun) -> None:
    settled = booking.settlement(run, hold(), answer(None, Usage()))
    assert (settled.cost, settled.tokens, settled.generation) == (None, None, "gen-1")


@pytest.mark.parametrize(
    ("ended", "cost", "tokens"),
    [
        (failure(Retry.LATER, billed=Billed.NO), 0, 0),
        (failure(Retry.BACKOFF, billed=Billed.MAYBE), None, None),
        (failure(Retry.BACKOFF, billed=Billed.MAYBE, cost=9), 9, None),
        (failure(Retry.NEVER, billed=Billed.YES, cost=9, usage=Usage(3, 4)), 9, 7),
        (failure(Retry.NEVER, billed=Billed.YES), None, None),
    ],
)
async def test_a_failure_costs_nothing_only_when_that_is_known(
    run: LineRun, ended: Failure, cost: int | None, tokens: int | None
) -> None:
    settled = booking.settlement(run, hold(), ended)
    assert (settled.cost, settled.tokens) == (cost, tokens)


@pytest.mark.parametrize("fault", list(Fault))
async def test_only_the_providers_faults_feed_the_breaker(run: LineRun, fault: Fault) -> None:
    settled = booking.settlement(run, hold(), failure(Retry.NEVER, fault=fault))
    assert settled.outcome is (Outcome.FAILED if fault is Fault.PROVIDER else Outcome.NOTHING)


async def test_a_failure_is_known_by_the_generation_that_was_seen_in_the_air(run: LineRun) -> None:
    run.generation = "gen-air"
    maybe = failure(Retry.BACKOFF, billed=Billed.MAYBE)
    assert booking.settlement(run, hold(), maybe).generation == "gen-air"
    assert money(booking.unknown(run, hold())) == Settlement("h", 5_000_000, None, generation="gen-air")


@pytest.mark.parametrize(("after", "slow"), [(1.0, True), (2.0, False)])
async def test_slow_calls_are_told_to_the_breaker_that_asks(run: LineRun, after: float, slow: bool) -> None:
    assert booking.settlement(run, hold(slow_seconds=after), answer(7)).slow is slow
    assert not booking.settlement(run, hold(), answer(7)).slow


async def test_the_ledger_is_told_whose_call_it_was_and_what_it_took(run: LineRun) -> None:
    told = booking.settlement(run, hold(), answer(7), user_key=b"key").record
    assert told == UsageRecord(
        at=0, hold="h", project="default", batch="batch_1", index=0, custom_id="zero", asked="m", model="m",
        served="m", generation="gen-1", prompt_tokens=1000, completion_tokens=10, cost=7, latency_ms=1500,
    )  # fmt: skip
    assert booking.settlement(run, hold(), answer(7), computed=True).record.source is Source.COMPUTED
    unknown = booking.settlement(run, hold(), answer(None)).record
    assert (unknown.source, unknown.cost, unknown.outcome) == (Source.SUSPECT, 5_000_000, "ok")
    assert booking.unknown(run, hold()).record.outcome == "abandoned"


async def test_a_failure_that_cost_nothing_is_no_usage(run: LineRun) -> None:
    assert booking.settlement(run, hold(), failure(Retry.NEVER, billed=Billed.NO)).record is None
    maybe = booking.settlement(run, hold(), failure(Retry.NEVER, billed=Billed.MAYBE)).record
    assert (maybe.source, maybe.outcome) == (Source.SUSPECT, failure(Retry.NEVER).code)


def test_a_user_is_told_only_as_a_hash_under_a_key() -> None:
    body = b'{"messages":[{"role":"user"}],"user": "ann"}'
    told = booking.user_of(body, b"one")
    assert told is not None
    assert len(told) == 32
    assert "ann" not in told
    assert told == booking.user_of(body, b"one") != booking.user_of(body, b"two")
    for other in (b'{"messages":[{"role":"user"}]}', b'{"user":7}', b'{"user": broken'):
        assert booking.user_of(other, b"one") is None
    assert booking.user_of(body, None) is None
