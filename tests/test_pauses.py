"""What the fleet learns from refusals: which scope rests, for how long, and how much less is sent."""

import pytest
from redis.asyncio import Redis

from batchmill.openrouter.outcomes import Failure, Retry, Scope
from batchmill.store import keys, pauses
from batchmill.store.gate import Ask, Caller, Candidate, Reply, Why, admit
from batchmill.store.pauses import Pause
from batchmill.store.rules import Rulebook
from batchmill.store.settlement import Outcome, Settlement, Settling, settle
from batchmill.workers import journey

from .workers_helpers import failure

CALLER = Caller("upstream", "worker-1", 15.0)
calls = iter(range(1, 10_000))


async def refuse(redis: Redis, seconds: float | None, *, scope: str = "a/b", cut: bool = False) -> Pause:
    return await pauses.pause(redis, "upstream", "a/b", scope, "limited", seconds=seconds, cut=cut)


async def ask(redis: Redis, model: str, count: int = 1) -> Reply:
    rules = Rulebook("upstream").rules(model, "default", None, 0)
    call = next(calls)
    lines = tuple(Candidate(f"batch_1.{index}.c{call}", 0, 1) for index in range(count))
    return (await admit(redis, CALLER, call, [Ask(rules, lines)]))[0]


async def end(redis: Redis, scope: str = "a/b") -> None:
    """Let a pause be over."""
    await redis.execute_command("HSET", keys.pauses("upstream"), scope, "1|limited")


async def share(redis: Redis) -> float:
    return float(await redis.execute_command("HGET", keys.model("upstream", "a/b"), "share") or 0)


async def test_a_pause_holds_the_model_up_as_long_as_it_was_said(redis: Redis) -> None:
    assert await refuse(redis, 60.0) == Pause(60.0, begun=True)
    reply = await ask(redis, "a/b")
    assert (reply.looked, reply.why) == (0, Why.PAUSE)
    assert 0 < reply.wait <= 60_000
    assert (await ask(redis, "c/d")).looked == 1
    await end(redis)
    assert (await ask(redis, "a/b")).looked == 1


@pytest.mark.parametrize("told", [None, 60.0])
async def test_refusals_of_one_volley_are_one_pause_and_one_cut(redis: Redis, told: float | None) -> None:
    await ask(redis, "a/b", 9)
    begun = [(await refuse(redis, told, cut=True)).begun for _ in range(20)]
    assert begun == [True] + [False] * 19
    assert await share(redis) == pytest.approx(7.0)


async def test_a_longer_word_from_the_upstream_counts_even_in_a_pause(redis: Redis) -> None:
    await refuse(redis, 100.0)
    longer = await refuse(redis, 3000.0)
    assert (longer.begun, longer.seconds > 2000) == (False, True)
    shorter = await refuse(redis, 2.0)
    assert shorter.seconds > 2000


async def test_untold_pauses_grow_and_a_success_forgets_them(redis: Redis) -> None:
    seen = []
    for _ in range(8):
        seen.append((await refuse(redis, None)).seconds)
        await end(redis)
    assert seen == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    rules = Rulebook("upstream").rules("a/b", "default", None, 0)
    success = Settlement("batch_1.0.unknown", 0, 0, 1, Outcome.ANSWERED)
    await settle(redis, CALLER, [Settling(1, rules, (success,))])
    assert (await refuse(redis, None)).seconds == 1.0


@pytest.mark.parametrize(
    ("told", "rests", "free"),
    [
        (failure(Retry.LATER, scope=Scope.MODEL), {"a/b:free"}, {"c/d:free", "c/d"}),
        (failure(Retry.LATER, scope=Scope.FREE_MODELS), {"a/b:free", "c/d:free"}, {"c/d"}),
        (failure(Retry.LATER, scope=Scope.ACCOUNT), {"a/b:free", "c/d:free", "c/d"}, set()),
        (failure(Retry.ACCOUNT, scope=Scope.ACCOUNT), {"a/b:free", "c/d:free", "c/d"}, set()),
    ],
)
async def test_a_refusal_rests_exactly_its_scope(redis: Redis, told: Failure, rests: set[str], free: set[str]) -> None:
    await refuse(redis, 60.0, scope=journey.scope_of("a/b:free", told))
    replies = {model: await ask(redis, model) for model in sorted(rests | free)}
    assert {model for model, reply in replies.items() if reply.why is Why.PAUSE} == rests


async def test_a_share_is_cut_from_what_is_in_the_air_and_never_to_nothing(redis: Redis) -> None:
    await ask(redis, "a/b", 9)
    await refuse(redis, 60.0, cut=True)
    assert await share(redis) == pytest.approx(7.0)
    for _ in range(20):
        await end(redis)
        await refuse(redis, 60.0, cut=True)
    assert await share(redis) == 1.0


async def test_a_share_grows_by_one_a_round(redis: Redis) -> None:
    await ask(redis, "a/b", 9)
    await refuse(redis, 60.0, cut=True)
    rules = Rulebook("upstream").rules("a/b", "default", None, 0)
    for number in range(1, 8):
        success = Settlement(f"batch_1.{number}.unknown", 0, 0, 1, Outcome.ANSWERED)
        await settle(redis, CALLER, [Settling(number, rules, (success,))])
    assert 7.8 < await share(redis) <= 8.0


async def test_pauses_that_are_over_are_forgotten_and_an_operators_is_not(redis: Redis) -> None:
    await refuse(redis, 60.0)
    await end(redis, "c/d")
    await redis.execute_command("HSET", keys.pauses("upstream"), "op:e/f", "-1|operator")
    await pauses.drop_over(redis, "upstream")
    assert set(await redis.execute_command("HKEYS", keys.pauses("upstream"))) == {b"a/b", b"op:e/f"}
