"""A refusal of the upstream rests exactly what it names, for the whole fleet."""

import pytest
from redis.asyncio import Redis

from batchmill.openrouter.outcomes import Failure, Retry, Scope
from batchmill.store import pauses
from batchmill.store.gate import Ask, Caller, Candidate, Reply, Why, admit
from batchmill.store.rules import Rulebook
from batchmill.workers import journey

from .workers_helpers import failure

CALLER = Caller("upstream", "worker-1", 15.0)
calls = iter(range(1, 10_000))


async def ask(redis: Redis, model: str) -> Reply:
    rules = Rulebook("upstream").rules(model, "default", None, 0)
    call = next(calls)
    return (await admit(redis, CALLER, call, [Ask(rules, (Candidate(f"batch_1.0.c{call}", 0, 1),))]))[0]


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
    scope = journey.scope_of("a/b:free", told)
    await pauses.pause(redis, "upstream", "a/b:free", scope, "limited", seconds=60.0, cut=False)
    replies = {model: await ask(redis, model) for model in sorted(rests | free)}
    assert {model for model, reply in replies.items() if reply.why is Why.PAUSE} == rests
