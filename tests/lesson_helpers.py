"""Somebody who asks the gate and settles, and rules to ask under, for tests of what the books do."""

import itertools
from collections.abc import Sequence

from redis.asyncio import Redis

from batchmill.config.policy import Breaker, Limit
from batchmill.store import keys, settlement
from batchmill.store.gate import Ask, Caller, Candidate, Reply, admit
from batchmill.store.rules import BudgetRule, LimitRule, Rules
from batchmill.store.settlement import Booked, Settlement, Settling
from batchmill.store.suspects import abandon

from .store_helpers import MODEL, UPSTREAM

LEASE = 10.0
UNIT = 60_000  # levels of a bucket in a request or token
FIELDS = ("spent", "held", "suspect", "debt")


class Worker:
    """Asks and settles as a worker process does; `held` are the holds that it has."""

    def __init__(self, redis: Redis, name: str = "worker") -> None:
        self.redis = redis
        self.caller = Caller(UPSTREAM, name, LEASE)
        self.held: list[str] = []
        self._calls = itertools.count(1)
        self._holds = itertools.count(1)

    async def ask(self, rules: Rules, *bounds: int, tokens: int = 1) -> Reply:
        """Ask for lines with these bounds."""
        return await self.ask_again(rules, self.candidates(bounds, tokens), next(self._calls))

    async def ask_again(self, rules: Rules, candidates: tuple[Candidate, ...], call: int) -> Reply:
        """Ask under a number of a call that may have been made before."""
        (reply,) = await admit(self.redis, self.caller, call, [Ask(rules, candidates)])
        taken = [one.hold for place, one in enumerate(candidates) if reply.admitted(place)]
        self.held += [hold for hold in taken if hold not in self.held]
        return reply

    def candidates(self, bounds: Sequence[int], tokens: int = 1) -> tuple[Candidate, ...]:
        numbers = itertools.islice(self._holds, len(bounds))
        return tuple(
            Candidate(f"batch_1.{number}.{self.caller.owner}", bound, tokens)
            for number, bound in zip(numbers, bounds, strict=True)
        )

    async def settle(self, rules: Rules, *settlements: Settlement) -> Booked:
        (booked,) = await settlement.settle(self.redis, self.caller, [Settling(next(self._calls), rules, settlements)])
        return booked

    async def pay(self, rules: Rules, bound: int, cost: int | None, *, tokens: int | None = None) -> None:
        """Settle the oldest hold."""
        await self.settle(rules, Settlement(self.held.pop(0), bound, cost, tokens))

    async def fall_silent(self) -> None:
        """Be as if killed, with the lease over and noticed."""
        await self.redis.execute_command("ZADD", keys.owners(UPSTREAM), "XX", 1, self.caller.owner)
        await abandon(self.redis, UPSTREAM, self.caller.owner)


def budget(name: str, limit: int, window: str = "total", *, ends: int | None = None) -> BudgetRule:
    return BudgetRule(name, keys.budget(UPSTREAM, name, window), limit, 0, ends)


def limited(**rates: float) -> LimitRule:
    name = "_".join(rates)
    return LimitRule(name, keys.limit(UPSTREAM, name, MODEL), Limit(match=MODEL, name=name, **rates))  # type: ignore[arg-type]  # as given


def rules(*rules: BudgetRule | LimitRule, number: int = 1, breaker: Breaker | None = None) -> Rules:
    budgets = tuple(rule for rule in rules if isinstance(rule, BudgetRule))
    limits = tuple(rule for rule in rules if isinstance(rule, LimitRule))
    return Rules(number, 0, MODEL, budgets, limits, breaker or Breaker())


async def sums(redis: Redis, rule: BudgetRule) -> dict[str, int]:
    """Return what a budget's books say; zeros are left out."""
    found = await redis.execute_command("HMGET", rule.key, *FIELDS)
    return {field: int(value) for field, value in zip(FIELDS, found, strict=True) if int(value or 0)}


async def level(redis: Redis, rule: LimitRule, field: str) -> int:
    return int(await redis.execute_command("HGET", rule.key, field) or 0)
