"""What went wrong elsewhere, a test each: the table of `docs/guarantees.md` says where.

A worker here is no process, only somebody who asks the gate and settles, under its own name.
"""

import asyncio
from decimal import Decimal

import fakeredis
import msgspec
import pytest
import structlog
from redis.asyncio import Redis

from batchmill.config.policy import Breaker, Budget, Limit, Policy
from batchmill.openrouter.outcomes import Usage
from batchmill.store import keys, settlement
from batchmill.store.clock import now_ms
from batchmill.store.epoch import Seen, tend
from batchmill.store.gate import Caller, Reply, Why
from batchmill.store.lanes import Claim
from batchmill.store.model import Line
from batchmill.store.pauses import pause
from batchmill.store.policy import LivePolicy, apply, raise_budget
from batchmill.store.rules import LimitRule, Rulebook, Rules
from batchmill.store.settlement import Booked, Outcome, Settlement, Settling
from batchmill.store.suspects import leave, release, suspects
from batchmill.workers import booking
from batchmill.workers.gatekeeper import Gatekeeper, Question
from batchmill.workers.line import Hold, LineRun, ShardRun

from .lesson_helpers import LEASE, UNIT, Worker, budget, level, limited, rules, sums
from .store_helpers import MODEL, UPSTREAM
from .waiting import wait_until
from .workers_helpers import OK

HOUR = 3_600_000
CLAIM = Claim(UPSTREAM, MODEL, "batch_1.0.1", "run", "0")
UNTOLD = msgspec.structs.replace(OK, cost=None, usage=Usage())


async def test_a_hold_stands_beside_the_spend_and_never_on_it(redis: Redis) -> None:
    day = budget("day", 100)
    given, worker = rules(day), Worker(redis)
    await worker.ask(given, 60)
    assert await sums(redis, day) == {"held": 60}
    await worker.pay(given, 60, 7)
    assert await sums(redis, day) == {"spent": 7}
    assert (await worker.ask(given, 93)).why is Why.NOTHING  # all that was not spent is free again
    await worker.pay(given, 93, 0)
    assert await sums(redis, day) == {"spent": 7}


async def test_who_asks_at_once_is_not_given_the_same_room_twice(redis: Redis) -> None:
    day = budget("day", 100)
    workers = [Worker(redis, f"worker-{number}") for number in range(25)]
    replies = await asyncio.gather(*(worker.ask(rules(day), 10, 10) for worker in workers))
    assert sum(len(worker.held) for worker in workers) == 10
    assert {reply.why for reply in replies} == {Why.NOTHING, Why.BUDGET}
    assert await sums(redis, day) == {"held": 100}


async def test_a_line_takes_from_all_its_budgets_or_from_none(redis: Redis) -> None:
    wide, narrow, rate = budget("wide", 1000), budget("narrow", 5), limited(requests_per_minute=60, burst_seconds=60)
    reply = await Worker(redis).ask(rules(wide, narrow, rate), 6)
    assert (reply.why, reply.which, reply.skipped) == (Why.BUDGET, 2, (0,))
    assert not await redis.exists(wide.key, narrow.key, rate.key)


async def test_a_line_that_one_limit_refuses_takes_nothing_from_another(redis: Redis) -> None:
    """Two places, ten requests: the third that is refused a place must not use up a request."""
    rate, places = limited(requests_per_minute=10, burst_seconds=60), limited(max_concurrency=2)
    day, worker = budget("day", 100), Worker(redis)
    given = rules(day, rate, places)
    assert (await worker.ask(given, 1, 1, 1)).looked == 2
    left = await level(redis, rate, "requests")
    for _ in range(5):
        assert (await worker.ask(given, 1)).why is Why.LIMIT
    assert await level(redis, rate, "requests") == left
    assert await sums(redis, day) == {"held": 2}


async def test_what_is_billed_beyond_a_bound_is_booked_on_every_budget(redis: Redis) -> None:
    day, all_time = budget("day", 100), budget("all", 1000)
    given, worker = rules(day, all_time), Worker(redis)
    await worker.ask(given, 10)
    await worker.pay(given, 10, 45)
    for each in (day, all_time):
        assert await sums(redis, each) == {"spent": 10, "debt": 35}
    assert await redis.execute_command("HGET", keys.books(UPSTREAM), "bound_breaches") == b"1"
    assert (await worker.ask(given, 56)).why is Why.BUDGET  # the gate counts debt
    assert (await worker.ask(given, 55)).why is Why.NOTHING


async def test_a_refused_big_line_drains_nothing(redis: Redis) -> None:
    bucket = limited(tokens_per_minute=60, burst_seconds=60)
    given, worker = rules(bucket), Worker(redis)
    await worker.ask(given, 0, tokens=50)
    before = await level(redis, bucket, "tokens")
    for _ in range(3):
        assert (await worker.ask(given, 0, tokens=40)).why is Why.LIMIT
    assert await level(redis, bucket, "tokens") == before
    assert (await worker.ask(given, 0, tokens=10)).why is Why.NOTHING


async def test_a_line_dearer_than_the_whole_bucket_goes_when_it_is_full(redis: Redis) -> None:
    bucket = limited(tokens_per_minute=60, burst_seconds=60)
    given, worker = rules(bucket), Worker(redis)
    assert (await worker.ask(given, 0, tokens=200)).why is Why.NOTHING
    assert await level(redis, bucket, "tokens") == -140 * UNIT  # and is paid back by those who come after it
    reply = await worker.ask(given, 0, tokens=1)
    assert reply.why is Why.LIMIT
    assert 139_000 <= reply.wait <= 141_000


async def test_silence_frees_the_places_but_never_the_money(redis: Redis) -> None:
    day, places = budget("day", 100), limited(max_concurrency=1)
    given, dead, other = rules(day, places), Worker(redis, "dead"), Worker(redis, "other")
    await dead.ask(given, 70)
    assert (await other.ask(given, 30)).why is Why.LIMIT
    await dead.fall_silent()
    assert await sums(redis, day) == {"suspect": 70}
    assert (await other.ask(given, 31)).why is Why.BUDGET
    assert (await other.ask(given, 30)).why is Why.NOTHING


async def test_a_hold_is_the_line_s_own_bound_and_pins_nobody(redis: Redis) -> None:
    """Neither is a hold cut to what is left, nor does a line that is too dear stand in the way of others."""
    day = budget("day", 100)
    given, worker = rules(day), Worker(redis)
    reply = await worker.ask(given, 40, 1_000_000, 40, 40, 20)
    assert (reply.looked, reply.skipped, reply.why) == (5, (1, 3), Why.BUDGET)
    assert await sums(redis, day) == {"held": 100}


async def test_a_cap_below_any_guess_pins_nobody(redis: Redis) -> None:
    """A tenth of a cent, and lines of a third of that: nobody's default comes into it."""
    tiny = budget("tiny", 1_000_000)
    reply = await Worker(redis).ask(rules(tiny), *[333_333] * 4)
    assert (reply.skipped, await sums(redis, tiny)) == ((3,), {"held": 999_999})


async def test_a_call_that_lands_after_the_reset_is_booked_in_its_own_window(redis: Redis) -> None:
    ends = await now_ms(redis) + HOUR
    monday, tuesday = budget("day", 100, "mon", ends=ends), budget("day", 100, "tue", ends=ends)
    before, after, worker = rules(monday, number=1), rules(tuesday, number=2), Worker(redis)
    await worker.ask(before, 80)
    assert (await worker.ask(after, 100)).why is Why.NOTHING
    await worker.pay(before, 80, 75)
    assert await sums(redis, monday) == {"spent": 75}
    assert await sums(redis, tuesday) == {"held": 100}


async def test_a_new_window_is_empty_without_anybody_s_doing(redis: Redis) -> None:
    now = await now_ms(redis)
    full, fresh = budget("day", 100, "mon", ends=now + HOUR), budget("day", 100, "tue", ends=now + HOUR)
    worker = Worker(redis)
    await worker.ask(rules(full), 100)
    await worker.pay(rules(full), 100, 100)
    assert (await worker.ask(rules(full), 1)).why is Why.BUDGET
    over = budget("day", 100, "mon", ends=now - 1)
    assert (await worker.ask(rules(over), 1)).why is Why.WINDOW  # who is late is told so, and given nothing
    assert (await worker.ask(rules(fresh, number=2), 100)).why is Why.NOTHING


async def test_a_call_that_is_repeated_holds_and_books_once(redis: Redis) -> None:
    day = budget("day", 100)
    given, worker = rules(day), Worker(redis)
    candidates = worker.candidates([30, 30])
    first = await worker.ask_again(given, candidates, 1)
    assert await worker.ask_again(given, candidates, 1) == first
    assert await sums(redis, day) == {"held": 60}
    settling = Settling(1, given, tuple(Settlement(hold, 30, 10) for hold in worker.held))
    assert await settlement.settle(redis, worker.caller, [settling, settling]) == [Booked(True), Booked(False)]
    assert await sums(redis, day) == {"spent": 20}


@pytest.fixture
async def flight() -> tuple[LineRun, Hold]:
    """A line in the air, with the hold that it has."""
    shard = ShardRun(CLAIM, [Line(0, "line-0", b"{}", bound=50, tokens=20)])
    return shard.open_lines[0], Hold("batch_1.0.a", rules())


async def test_an_answer_whose_cost_nobody_told_frees_nothing(redis: Redis, flight: tuple[LineRun, Hold]) -> None:
    silent = booking.priced(UNTOLD, None)
    told = booking.settlement(*flight, silent)
    assert (told.cost, told.bound, told.generation) == (None, 50, "gen-1")
    day = budget("day", 100)
    given, worker = rules(day), Worker(redis)
    await worker.ask(given, 50)
    await worker.pay(given, 50, told.cost)
    assert await sums(redis, day) == {"suspect": 50}


async def test_a_call_that_was_given_up_keeps_its_money(redis: Redis, flight: tuple[LineRun, Hold]) -> None:
    assert booking.unknown(*flight).cost is None
    day = budget("day", 100)
    given, worker = rules(day), Worker(redis)
    await worker.ask(given, 50, 20)
    await worker.pay(given, 50, None)
    assert await sums(redis, day) == {"held": 20, "suspect": 50}
    assert await leave(redis, UPSTREAM, worker.caller.owner) == 1
    assert await sums(redis, day) == {"suspect": 70}


async def test_a_late_bill_is_booked_whatever_became_of_its_hold(redis: Redis) -> None:
    day = budget("day", 100)
    given, worker = rules(day), Worker(redis)
    await worker.ask(given, 30, 20)
    thirty, twenty = worker.held
    await worker.fall_silent()
    assert await release(redis, UPSTREAM, [twenty], "ann") == [twenty]
    assert await sums(redis, day) == {"suspect": 30}
    await worker.settle(given, Settlement(thirty, 30, 11), Settlement(twenty, 20, 12))
    assert await sums(redis, day) == {"spent": 11, "debt": 12}
    assert await suspects(redis, UPSTREAM) == []


async def test_unused_tokens_come_back_to_each_bucket_they_came_from(redis: Redis) -> None:
    buckets = [limited(tokens_per_minute=rate, burst_seconds=60) for rate in (600, 60)]
    wide, narrow = (
        LimitRule(name, keys.limit(UPSTREAM, name, MODEL), bucket.limit)
        for name, bucket in zip(("wide", "narrow"), buckets, strict=True)
    )
    given, worker = rules(wide, narrow), Worker(redis)
    for bucket in (wide, narrow):
        await half_fill(redis, bucket)
    await worker.ask(given, 0, tokens=25)
    taken = [await level(redis, bucket, "tokens") for bucket in (wide, narrow)]
    await worker.pay(given, 0, 0, tokens=5)
    for bucket, before in zip((wide, narrow), taken, strict=True):
        assert before + 20 * UNIT <= await level(redis, bucket, "tokens") < before + 25 * UNIT
    await worker.ask(given, 0, tokens=5)
    before = await level(redis, wide, "tokens")
    await worker.pay(given, 0, 0, tokens=40)  # what was used beyond the reservation is owed
    assert before - 35 * UNIT <= await level(redis, wide, "tokens") < before - 30 * UNIT


async def half_fill(redis: Redis, rule: LimitRule) -> None:
    """Have a bucket be half full for a while: where one is full, refill is lost, and a return may not bring it back."""
    half = rule.limit.token_capacity * UNIT // 2
    await redis.execute_command("HSET", rule.key, "tokens", half, "at", await now_ms(redis))
    await redis.execute_command("EXPIRE", rule.key, 60)


async def test_no_counter_outlives_its_use(redis: Redis) -> None:
    ends = await now_ms(redis) + HOUR
    day, bucket = budget("day", 100, "2026-11-24", ends=ends), limited(tokens_per_minute=60)
    given, worker = rules(day, bucket), Worker(redis)
    await worker.ask(given, 1)
    for name in (day.key, bucket.key, keys.model(UPSTREAM, MODEL)):
        assert HOUR / 1000 < await redis.ttl(name) < 42 * 24 * 3600, name


async def test_a_changed_rule_keeps_what_was_used(redis: Redis) -> None:
    limit = Limit(match=MODEL, name="slow", requests_per_minute=10, burst_seconds=60)
    day = Budget(name="day", limit_usd=Decimal("0.00000001"))
    worker, book = Worker(redis), Rulebook(UPSTREAM)

    async def ask_under(live: LivePolicy, bound: int) -> Reply:
        book.learn(live)
        return await worker.ask(book.rules(MODEL, "default", None, await now_ms(redis)), bound)

    given = await apply(redis, UPSTREAM, Policy(limits=(limit,), budgets=(day,)), "a.toml")
    for _ in range(10):
        assert (await ask_under(given, 1)).why is Why.NOTHING
    faster = Limit(match=MODEL, name="slow", requests_per_minute=12, burst_seconds=60)
    given = await apply(redis, UPSTREAM, Policy(limits=(faster,), budgets=(day,)), "a.toml")
    assert (await ask_under(given, 0)).why is Why.LIMIT
    assert (await ask_under(given, 1)).why is Why.BUDGET
    await raise_budget(redis, UPSTREAM, "day", 11, "ann")
    assert (await worker.ask(book.rules(MODEL, "default", None, 0), 1)).why is Why.POLICY


async def fail(worker: Worker, given: Rules, outcome: Outcome, times: int) -> bool:
    """Have calls end so; return whether that tripped the breaker."""
    await worker.ask(given, *[0] * times)
    ended = [Settlement(hold, 0, 0, 0, outcome) for hold in worker.held]
    worker.held = []
    return (await worker.settle(given, *ended)).tripped


async def test_a_breaker_that_opens_for_one_worker_is_open_for_all(redis: Redis) -> None:
    given = rules(breaker=Breaker(min_calls=4))
    assert await fail(Worker(redis, "first"), given, Outcome.FAILED, 4)
    reply = await Worker(redis, "second").ask(given, 0)
    assert reply.why is Why.BREAKER
    assert reply.wait > 0


async def test_only_the_provider_s_faults_open_a_breaker(redis: Redis) -> None:
    given, worker = rules(breaker=Breaker(min_calls=4)), Worker(redis)
    assert not await fail(worker, given, Outcome.NOTHING, 100)
    assert (await worker.ask(given, 0)).why is Why.NOTHING


async def test_a_later_refusal_lengthens_a_pause_and_never_shortens_it(redis: Redis) -> None:
    async def refused(seconds: float) -> float:
        return (await pause(redis, UPSTREAM, MODEL, MODEL, "429", seconds=seconds, cut=False)).seconds

    assert await refused(5.0) == 5.0
    assert await refused(60.0) == 60.0
    assert await refused(1.0) > 59.0
    reply = await Worker(redis).ask(rules(), 0)
    assert (reply.why, reply.which) == (Why.PAUSE, 1)
    assert reply.wait > 59_000


async def test_books_that_lost_their_spend_stop_everybody(redis: Redis) -> None:
    day = budget("day", 100)
    given, worker, other = rules(day), Worker(redis), Worker(redis, "other")
    seen = (await tend(redis, worker.caller, Seen())).seen
    await worker.ask(given, 100)
    await worker.pay(given, 100, 100)
    await redis.flushall()  # as a cache would do that expired, or a restore of yesterday
    assert (await tend(redis, worker.caller, seen)).alarm
    assert (await other.ask(given, 1)).why is Why.ALARM


class Desk:
    """One question, asked once; what the gate says is kept."""

    def __init__(self, gatekeeper: Gatekeeper, run: LineRun) -> None:
        self.gatekeeper, self.run = gatekeeper, run
        self.replies: list[Reply] = []

    def questions(self) -> list[Question]:
        return [self.gatekeeper.question(self.gatekeeper.rules(MODEL, "default", None), [self.run])]

    def told(self, question: Question, reply: Reply) -> None:
        self.replies.append(reply)


async def test_without_redis_nothing_passes(flight: tuple[LineRun, Hold]) -> None:
    server = fakeredis.FakeServer()
    gatekeeper = Gatekeeper(fakeredis.FakeAsyncRedis(server=server), Caller(UPSTREAM, "worker", LEASE))
    desk = Desk(gatekeeper, flight[0])
    task = asyncio.create_task(gatekeeper.run(desk))
    gatekeeper.wake()
    await wait_until(lambda: len(desk.replies) == 1, "the first answer")
    server.connected = False
    with structlog.testing.capture_logs() as logs:
        gatekeeper.wake()
        await wait_until(lambda: any(entry["event"] == "redis.away" for entry in logs), "the outage is noticed")
    assert len(desk.replies) == 1
    server.connected = True
    await wait_until(lambda: len(desk.replies) == 2, "it goes on by itself")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
