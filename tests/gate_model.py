"""The gate in plain Python: budgets, holds and buckets as they must be, for the machine in `test_gate_machine.py`."""

from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec
from redis.asyncio import Redis

from batchmill.config.policy import NANO, Budget, KeyBudget, Limit, Policy
from batchmill.config.windows import WindowKind
from batchmill.store import keys
from batchmill.store.rules import BudgetRule, Rules
from batchmill.store.suspects import Suspect

from .gate_helpers import DAY, Held, Sums
from .store_helpers import UPSTREAM

Hashes = dict[str, dict[str, str]]

UNIT = 60_000
MODELS = ("maker/large", "maker/small")
KEY = "0123456789ab"
GRAIN = 32  # of bucket.lua: peaks that differ by less than this part of the bucket count as one


def policy_of(every: int, large: int, of_key: int, rate: int, concurrency: int) -> Policy:
    return Policy(
        budgets=(
            Budget(name="all", limit_usd=Decimal(every) / NANO),
            Budget(name="large", limit_usd=Decimal(large) / NANO, window=WindowKind.HOUR, models=MODELS[0]),
            KeyBudget(name="key:ci", limit_usd=Decimal(of_key) / NANO, window=WindowKind.DAY, key=KEY),
        ),
        limits=(
            Limit(name="requests", match="*", requests_per_minute=rate, burst_seconds=1, max_concurrency=concurrency),
            Limit(name="tokens", match="*", tokens_per_minute=60_000, burst_seconds=1, shared=True),
            Limit(name="day", match=MODELS[1], requests_per_day=20),
        ),
    )


@dataclass
class Window:
    """A budget in one window; `ceiling` is its limit, or what was booked already when that was lowered."""

    limit: int
    spent: int = 0
    held: int = 0
    suspect: int = 0
    debt: int = 0
    ceiling: int = 0

    @property
    def sums(self) -> Sums:
        return Sums(self.spent, self.held, self.suspect, self.debt)

    @property
    def promised(self) -> int:
        return self.spent + self.held + self.suspect

    @property
    def room(self) -> int:
        return self.limit - sum(self.sums)

    def book(self, cost: int, reserved: int) -> None:
        self.spent += min(cost, reserved)
        self.debt += max(0, cost - reserved)


@dataclass
class Hold:
    """A hold, where it is (held, suspect, closed or settled), and what it was closed with."""

    held: Held
    owner: str
    at: int
    place: str = "held"
    spent: int = 0
    debt: int = 0
    used: int | None = None  # tokens, once they are known


@dataclass
class Bucket:
    """One limit: what it let through (ms, hold), and the widest that its rates were."""

    limit: Limit
    widest: Limit
    admitted: list[Hold] = field(default_factory=list)
    requests: int = 0  # level, in units
    at: int = 0

    def refill(self, now: int) -> int:
        rate, full = self.limit.requests_per_minute or 0, self.limit.request_capacity * UNIT
        if not self.admitted:
            return full
        return min(full, self.requests + max(0, now - self.at) * rate)

    def today(self, now: int) -> int:
        return sum(hold.at // DAY == now // DAY for hold in self.admitted)

    def in_air(self) -> int:
        return sum(hold.place == "held" for hold in self.admitted)

    def level(self, now: int, *, returned: bool) -> int:
        """Return the level of the tokens now, had only what was used been reserved, or had nothing come back."""
        rate, full = self.limit.tokens_per_minute or 0, self.limit.token_capacity * UNIT
        level, at = full, now
        for hold in self.admitted:
            level = min(full, level + max(0, hold.at - at) * rate)
            known = hold.used if returned else None
            level -= (hold.held.tokens if known is None else known) * UNIT
            at = hold.at
        return min(full, level + (now - at) * rate)

    def refuses(self, now: int, tokens: int) -> bool:
        """Whether the limit stops a line that it would stop even if no tokens had come back... or may stop it."""
        limit = self.limit
        return bool(
            (limit.requests_per_day and self.today(now) >= limit.requests_per_day)
            or (limit.max_concurrency and self.in_air() >= limit.max_concurrency)
            or (limit.requests_per_minute and self.refill(now) < UNIT)
        )

    def check_level(self, told: dict[str, str], now: int) -> None:
        """What was not used is back, but for refill that was lost; by that, it may be a little less."""
        full, rate = self.limit.token_capacity * UNIT, self.limit.tokens_per_minute or 0
        level = min(full, float(told["tokens"]) + (now - int(told["at"])) * rate)
        exact = self.level(now, returned=True)
        assert exact - full / GRAIN <= level <= exact

    def check_rates(self) -> None:
        """Promise 5: over any window no more than capacity and what the rate gave, but for lines dearer than all."""
        wide = self.widest
        for first, start in enumerate(self.admitted):
            tokens = 0
            for requests, hold in enumerate(self.admitted[first:], start=1):
                passed = hold.at - start.at
                if wide.requests_per_minute:
                    gave = wide.request_capacity * UNIT + passed * wide.requests_per_minute
                    assert requests * UNIT <= gave
                if wide.tokens_per_minute and hold.held.tokens <= wide.token_capacity:
                    tokens += hold.held.tokens if hold.used is None else hold.used
                    assert tokens * UNIT <= wide.token_capacity * UNIT + passed * wide.tokens_per_minute


class Model:
    """Everything that the books should say."""

    def __init__(self) -> None:
        self.windows: dict[str, Window] = {}
        self.buckets: dict[str, Bucket] = {}
        self.holds: dict[str, Hold] = {}
        self.leases: dict[str, int] = {}
        self.breaches = 0

    def learn(self, rules: Rules, own_limit: int) -> None:
        """Know the windows and buckets of these rules, with their limits of now."""
        for budget in rules.budgets:
            self.limit(budget, own_limit)
        for rule in rules.limits:
            bucket = self.buckets.setdefault(rule.key, Bucket(rule.limit, rule.limit))
            bucket.limit = rule.limit
            if (rule.limit.requests_per_minute or 0) > (bucket.widest.requests_per_minute or 0):
                bucket.widest = rule.limit

    def limit(self, budget: BudgetRule, own_limit: int) -> None:
        limit = own_limit if budget.limit is None else budget.limit
        window = self.windows.setdefault(budget.key, Window(limit, ceiling=limit))
        window.limit = limit
        window.ceiling = max(limit, window.promised)

    def room(self, rules: Rules) -> int:
        return min(self.windows[budget.key].room for budget in rules.budgets)

    def stopped(self, rules: Rules, tokens: int, now: int) -> tuple[bool, bool]:
        """Whether a limit must stop a line, and whether one may: tokens may have come back in part."""
        must = may = False
        for rule in rules.limits:
            bucket = self.buckets[rule.key]
            must = must or bucket.refuses(now, tokens)
            if rule.limit.tokens_per_minute:
                needed = min(tokens, rule.limit.token_capacity) * UNIT
                must = must or bucket.level(now, returned=True) < needed
                may = may or bucket.level(now, returned=False) < needed
        return must, must or may

    def admit(self, held: Held, owner: str, now: int) -> None:
        hold = self.holds[held.hold] = Hold(held, owner, now)
        for budget in held.rules.budgets:
            self.windows[budget.key].held += held.bound
        for rule in held.rules.limits:
            bucket = self.buckets[rule.key]
            bucket.requests = bucket.refill(now) - UNIT
            bucket.at = now
            bucket.admitted.append(hold)

    def touched(self, hold: Hold) -> list[Window]:
        return [self.windows[budget.key] for budget in hold.held.rules.budgets]

    def settle(self, hold: Hold, cost: int | None, used: int | None) -> None:
        """Book the end of a call, late or not."""
        bound = hold.held.bound
        if hold.place == "held":
            for window in self.touched(hold):
                window.held -= bound
            hold.used = used
            if cost is None:
                self.doubt(hold)
                return
            self.breaches += cost > bound
            for window in self.touched(hold):
                window.book(cost, bound)
        elif cost is None:
            return
        elif hold.place == "suspect":
            for window in self.touched(hold):
                window.suspect -= bound
                window.book(cost, bound)
        else:
            more = cost - hold.spent - hold.debt
            for window in self.touched(hold):
                window.debt += max(more, -hold.debt)
                window.spent += min(0, more + hold.debt)
        hold.place = "settled"

    def doubt(self, hold: Hold) -> None:
        """Make a suspect of what was held, unless it is no money."""
        hold.place = "suspect" if hold.held.bound else "closed"
        for window in self.touched(hold):
            window.suspect += hold.held.bound

    def abandon(self, owner: str) -> int:
        gone = [hold for hold in self.holds.values() if hold.owner == owner and hold.place == "held"]
        for hold in gone:
            for window in self.touched(hold):
                window.held -= hold.held.bound
            self.doubt(hold)
        self.leases.pop(owner, None)
        return len(gone)

    def close(self, suspect: Suspect, cost: int) -> None:
        hold = self.holds[suspect.hold]
        for window in self.touched(hold):
            window.suspect -= hold.held.bound
            window.book(cost, hold.held.bound)
        hold.spent, hold.debt = min(cost, hold.held.bound), max(0, cost - hold.held.bound)
        hold.place = "closed"

    def at(self, place: str) -> set[str]:
        """Return the holds at a place; what was closed without money is nowhere."""
        return {name for name, hold in self.holds.items() if hold.place == place}


async def check_books(redis: Redis, model: Model, owners: Collection[str], models: Collection[str], now: int) -> None:
    """Compare all that is in Redis with the model."""
    holds = [keys.holds(UPSTREAM, owner) for owner in {*owners, *(hold.owner for hold in model.holds.values())}]
    wanted = [*holds, *model.windows, *model.buckets, *(keys.model(UPSTREAM, name) for name in models)]
    wanted += [make(UPSTREAM) for make in (keys.books, keys.suspects, keys.closed)]
    async with redis.pipeline(transaction=False) as pipe:
        for key in wanted:
            pipe.execute_command("HGETALL", key)
        found = await pipe.execute()
    books = {
        key: {name.decode(): value.decode() for name, value in pairs.items()}
        for key, pairs in zip(wanted, found, strict=True)
    }
    _check_money(books, model)
    held = {name for key in holds for name in books[key] if name.startswith("batch_")}
    _check_holds(books, model, held)
    for name in models:
        in_air = sum(hold.place == "held" and hold.held.rules.model == name for hold in model.holds.values())
        assert int(books[keys.model(UPSTREAM, name)].get("in_air", 0)) == in_air
    for key, bucket in model.buckets.items():
        assert int(books[key].get("in_air", 0)) == bucket.in_air()
        bucket.check_rates()
        if bucket.limit.tokens_per_minute and bucket.admitted:
            bucket.check_level(books[key], now)


def _check_money(books: Hashes, model: Model) -> None:
    for key, window in model.windows.items():
        assert Sums(*(int(books[key].get(name, 0)) for name in Sums._fields)) == window.sums
        assert min(window.sums) >= 0
        assert window.promised <= window.ceiling
        window.ceiling = max(window.limit, min(window.ceiling, window.promised))
    assert int(books[keys.books(UPSTREAM)].get("bound_breaches", 0)) == model.breaches


def _check_holds(books: Hashes, model: Model, held: set[str]) -> None:
    assert held == model.at("held")
    found = books[keys.suspects(UPSTREAM)]
    assert set(found) == model.at("suspect")
    for name, entry in found.items():
        assert int(msgspec.json.decode(entry)["amount"]) == model.holds[name].held.bound
    assert set(books[keys.closed(UPSTREAM)]) == {name for name in model.at("closed") if model.holds[name].held.bound}
