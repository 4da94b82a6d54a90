"""The rules that a line must pass, made of the policy for one model, project and moment.

A budget's window has its calendar id in its key, so that a reset needs no job; the gate checks that the window is now.
"""

from functools import cached_property

import msgspec

from batchmill.config.policy import Breaker, Budget, Limit, Policy
from batchmill.config.windows import window_at
from batchmill.store import keys
from batchmill.store.policy import BUILT_IN, LivePolicy
from batchmill.store.scripts import Argument

FREE = ":free"
_SCOPES = ("account", "refused")
_MOST_KEPT = 10_000  # sets of rules a process remembers: what is older is made anew, under another number


class BudgetRule(msgspec.Struct, frozen=True):
    """One budget in the window that is now. `limit` None: it stands in Redis, as that of a batch."""

    name: str
    key: str
    limit: int | None
    first: int = 0
    ends: int | None = None


class LimitRule(msgspec.Struct, frozen=True):
    """One limit, with the bucket that the model draws from."""

    name: str
    key: str
    limit: Limit


class Rules(msgspec.Struct, frozen=True, dict=True):
    """Everything that lines of one model and project (and batch, if it is capped) pass at one moment."""

    number: int
    version: int
    model: str
    budgets: tuple[BudgetRule, ...]
    limits: tuple[LimitRule, ...]
    breaker: Breaker

    @cached_property
    def scopes(self) -> tuple[str, ...]:
        """The scopes whose pauses hold up the model."""
        return (*scopes_over(self.model), f"op:{self.model}")

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The budgets' windows, then the limits' buckets."""
        return (*(budget.key for budget in self.budgets), *(limit.key for limit in self.limits))

    @cached_property
    def gate_arguments(self) -> tuple[Argument, ...]:
        """What `gate.lua` is told of the rules, from their text on."""
        text = "\n".join((self.model, str(len(self.budgets)), *self.keys))
        told: list[Argument] = [text, self.breaker.probes, len(self.scopes), len(self.budgets), len(self.limits)]
        told += self.scopes
        for budget in self.budgets:
            told += (_or_none(budget.limit), budget.first, _or_none(budget.ends))
        for rule in self.limits:
            limit = rule.limit
            told += (_or_none(limit.requests_per_minute), limit.request_capacity)
            told += (_or_none(limit.tokens_per_minute), limit.token_capacity)
            told += (_or_none(limit.requests_per_day), _or_none(limit.max_concurrency))
        return tuple(told)


def scopes_over(model: str) -> tuple[str, ...]:
    """Return every scope that a refusal of could hold up the model."""
    return (model, *_SCOPES, FREE) if model.endswith(FREE) else (model, *_SCOPES)


class Rulebook:
    """The rules of one upstream, made when they are first needed and again when policy or window change."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self._made: dict[tuple[str, str, str | None, str | None], Rules] = {}
        self._numbers: dict[tuple[str, tuple[str, ...]], int] = {}
        self._last = 0
        self.policy = LivePolicy(0, Policy(), BUILT_IN)

    def learn(self, policy: LivePolicy) -> None:
        """Make rules by this policy from now on."""
        self.policy = policy
        self._made.clear()

    def turn(self) -> None:
        """Make rules for the windows that are now: one has turned."""
        self._made.clear()

    def rules(self, model: str, project: str, capped: str | None, now_ms: int, key: str | None = None) -> Rules:
        """Return the rules for lines of a model and project; `capped` is the batch, if it has a budget of its own.

        `key` is the API key that handed them over: the policy in force knows whether it has a budget.
        """
        asked = (model, project, capped, key)
        made = self._made.get(asked)
        if made is None:
            if len(self._made) > _MOST_KEPT:
                self._made.clear()
            made = self._made[asked] = self._make(model, project, capped, now_ms, key)
        return made

    def _make(self, model: str, project: str, capped: str | None, now_ms: int, key: str | None) -> Rules:
        policy = self.policy.policy
        budgets = [self._budget(budget, now_ms) for budget in policy.budgets_for(model, project, key)]
        if capped:
            budgets.append(BudgetRule(capped, keys.batch_budget(self.upstream, capped), None))
        limits = [
            LimitRule(limit.name, keys.limit(self.upstream, limit.name, limit.scope_of(model)), limit)
            for limit in policy.limits_for(model)
        ]
        names = (*(budget.key for budget in budgets), "", *(limit.key for limit in limits))
        number = self._numbers.get((model, names))
        if number is None:
            if len(self._numbers) > _MOST_KEPT:
                self._numbers.clear()
            self._last += 1
            number = self._numbers[model, names] = self._last
        return Rules(number, self.policy.version, model, tuple(budgets), tuple(limits), policy.breaker)

    def _budget(self, budget: Budget, now_ms: int) -> BudgetRule:
        window = window_at(budget.window, budget.timezone, now_ms)
        key = keys.budget(self.upstream, budget.name, window.id)
        return BudgetRule(budget.name, key, budget.limit, window.start_ms, window.end_ms)


def _or_none(number: int | None) -> Argument:
    return "" if number is None else number
