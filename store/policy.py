"""The policy in force: as the file of an operator says, with the budgets that somebody raised since, and the limits
that somebody tuned.

apply (a file) ──► document + weights + version ◄── raise, tune (a command, or the API)
                          │
                          └─ live ──► every caller of the gate; the gate refuses one that has an older version

A raise lasts until a file names another limit for that budget than the one which was raised; so does a change of a
rate limit.
"""

from collections.abc import Callable
from decimal import Decimal

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from batchmill.config.policy import BATCH_PREFIX, KEY_PREFIX, Budget, KeyBudget, Limit, Policy, check_limit
from batchmill.openrouter.money import to_nano, to_usd
from batchmill.store import key_budgets, keys, service_keys
from batchmill.store.audit import Entry, limit_entry, note
from batchmill.store.clock import now_ms
from batchmill.store.errors import StoreError, UnknownBudgetError, UnknownLimitError
from batchmill.store.transactions import transact

BUILT_IN = "built in"


class LivePolicy(msgspec.Struct, frozen=True):
    """The policy in force, its version, and where it comes from; `declared` are the limits of raised budgets (nano).

    `tuned` are the rate limits that somebody changed, as the file declares them.
    """

    version: int
    policy: Policy
    source: str
    declared: dict[str, int] = {}
    tuned: dict[str, Limit] = {}


class Raised(msgspec.Struct, frozen=True):
    """A limit that was changed, in nano-dollars."""

    name: str
    before: int
    after: int


class _Raise(msgspec.Struct, frozen=True):
    limit_usd: Decimal
    declared_usd: Decimal


class _Tuned(msgspec.Struct, frozen=True):
    limit: Limit
    declared: Limit


class _Document(msgspec.Struct, frozen=True):
    source: str = BUILT_IN
    policy: Policy = Policy()  # as the file says
    raised: dict[str, _Raise] = {}
    tuned: dict[str, _Tuned] = {}

    def declared(self, name: str) -> Decimal | None:
        """Return the limit that the file names for a budget."""
        return next((budget.limit_usd for budget in self.policy.budgets if budget.name == name), None)

    def limit(self, name: str) -> Limit | None:
        """Return the rate limit of that name as the file declares it."""
        return next((limit for limit in self.policy.limits if limit.name == name), None)

    def in_force(self, version: int, of_keys: tuple[KeyBudget, ...] = ()) -> LivePolicy:
        """Return the policy with what was raised and tuned, and with the budgets of API keys."""
        budgets = (*map(self._raised, self.policy.budgets), *of_keys)
        limits = tuple(self._tuned(limit) for limit in self.policy.limits)
        return LivePolicy(
            version,
            msgspec.structs.replace(self.policy, budgets=budgets, limits=limits),
            self.source,
            {name: to_nano(known.declared_usd) for name, known in self.raised.items()},
            {name: known.declared for name, known in self.tuned.items()},
        )

    def _raised(self, budget: Budget) -> Budget:
        known = self.raised.get(budget.name)
        return msgspec.structs.replace(budget, limit_usd=known.limit_usd) if known else budget

    def _tuned(self, limit: Limit) -> Limit:
        known = self.tuned.get(limit.name)
        return known.limit if known else limit


Change = Callable[[_Document], tuple[_Document, Entry | None]]


async def apply(redis: Redis, upstream: str, policy: Policy, source: str) -> LivePolicy:
    """Put the policy of a file in force everywhere, from this instant; the same policy again changes nothing."""

    def change(before: _Document) -> tuple[_Document, Entry | None]:
        after = _Document(source, policy)
        raised = {name: known for name, known in before.raised.items() if after.declared(name) == known.declared_usd}
        tuned = {name: known for name, known in before.tuned.items() if after.limit(name) == known.declared}
        if (before.policy, before.raised, before.tuned) == (policy, raised, tuned) and before.source != BUILT_IN:
            return before, None
        return msgspec.structs.replace(after, raised=raised, tuned=tuned), Entry(
            who=source, what="policy.applied", at=0, detail={"budgets": _limits(policy)}
        )

    return await _write(redis, upstream, change)


async def live(redis: Redis, upstream: str) -> LivePolicy:
    """Return the policy in force; the built-in one, version 0, when nobody applied any. Raises StoreError."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("GET", keys.policy(upstream))
        pipe.execute_command("HGET", keys.books(upstream), "version")
        pipe.execute_command("HVALS", service_keys.key_budgets(upstream))
        document, version, of_keys = await pipe.execute()
    return _read(document).in_force(int(version or 0), key_budgets.read(of_keys))


async def raise_budget(redis: Redis, upstream: str, name: str, limit: int, who: str) -> Raised:
    """Set the limit (nano-dollars) of a budget, or of a batch that has one; it may be lower than before.

    What is spent or held already stays so: a limit below it stops what was not sent yet. Raises UnknownBudgetError,
    and ValueError for a limit that no budget can have.
    """
    check_limit(to_usd(limit))
    await redis.execute_command("DEL", keys.budget_refused(upstream, name))  # who waited is to ask again
    if name.startswith(KEY_PREFIX):
        return Raised(name, *await key_budgets.raise_limit(redis, upstream, name, limit, who))
    if name.startswith(BATCH_PREFIX):
        return await _raise_batch(redis, upstream, name, limit, who)
    before = 0

    def change(document: _Document) -> tuple[_Document, Entry | None]:
        nonlocal before
        declared = document.declared(name)
        if declared is None:
            raise UnknownBudgetError(name, [budget.name for budget in document.policy.budgets])
        known = document.raised.get(name)
        before = to_nano(known.limit_usd if known else declared)
        raised = {other: kept for other, kept in document.raised.items() if other != name}
        if to_usd(limit) != declared:
            raised[name] = _Raise(to_usd(limit), declared)
        return msgspec.structs.replace(document, raised=raised), limit_entry(who, name, before, limit)

    await _write(redis, upstream, change)
    return Raised(name, before, limit)


async def tune_limit(
    redis: Redis, upstream: str, name: str, change_of: Callable[[Limit], Limit], who: str
) -> tuple[Limit, Limit]:
    """Change the numbers of a rate limit in the whole fleet; return it as it was and as it is.

    What was used of it stays used. Raises UnknownLimitError, and what `change_of` raises.
    """
    seen: list[Limit] = []

    def change(document: _Document) -> tuple[_Document, Entry | None]:
        declared = document.limit(name)
        if declared is None:
            raise UnknownLimitError(name, [limit.name for limit in document.policy.limits])
        known = document.tuned.get(name)
        before = known.limit if known else declared
        after = change_of(before)
        seen[:] = [before, after]
        tuned = {other: kept for other, kept in document.tuned.items() if other != name}
        if after != declared:
            tuned[name] = _Tuned(after, declared)
        if before == after:
            return document, None
        return msgspec.structs.replace(document, tuned=tuned), _tune_entry(who, before, after)

    await _write(redis, upstream, change)
    before, after = seen
    return before, after


async def _raise_batch(redis: Redis, upstream: str, batch_id: str, limit: int, who: str) -> Raised:
    budget, batch = keys.batch_budget(upstream, batch_id), keys.batch(batch_id)
    before = 0

    async def set_limit(pipe: Pipeline) -> bool:
        nonlocal before
        found = await redis.execute_command("HGET", budget, "limit")
        if found is None:
            raise UnknownBudgetError(batch_id, [])
        before = int(found)
        pipe.execute_command("HSET", budget, "limit", limit)
        pipe.execute_command("HINCRBY", keys.books(upstream), "version", 1)
        note(pipe, upstream, limit_entry(who, batch_id, before, limit, await now_ms(redis)))
        return True

    async def show_limit(pipe: Pipeline) -> bool:
        pipe.execute_command("HSET", batch, "max_cost", limit)
        return bool(await redis.execute_command("HEXISTS", batch, "state"))

    await transact(redis, budget, set_limit)
    await transact(redis, batch, show_limit)
    return Raised(batch_id, before, limit)


async def _write(redis: Redis, upstream: str, change: Change) -> LivePolicy:
    """Replace the document by what a change makes of it, unless it makes no entry: then there was none."""
    found = _Document().in_force(0)

    async def replace(pipe: Pipeline) -> bool:
        nonlocal found
        before = _read(await redis.execute_command("GET", keys.policy(upstream)))
        version = int(await redis.execute_command("HGET", keys.books(upstream), "version") or 0)
        of_keys = key_budgets.read(await redis.execute_command("HVALS", service_keys.key_budgets(upstream)))
        after, entry = change(before)
        found = after.in_force(version, of_keys)
        if entry is None:
            return False
        pipe.execute_command("HINCRBY", keys.books(upstream), "version", 1)
        pipe.execute_command("SET", keys.policy(upstream), msgspec.json.encode(after))
        pipe.execute_command("DEL", keys.weights(upstream))
        for project in after.policy.projects:
            pipe.execute_command("HSET", keys.weights(upstream), project.name, project.weight)
        note(pipe, upstream, msgspec.structs.replace(entry, at=await now_ms(redis)))
        return True

    replies = await transact(redis, keys.policy(upstream), replace)
    return msgspec.structs.replace(found, version=int(replies[0])) if replies else found


def _read(document: bytes | None) -> _Document:
    if document is None:
        return _Document()
    try:
        return msgspec.json.decode(document, type=_Document)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"the policy in Redis can't be used here ({error}): is this batchmill older than the one that wrote it?"
        ) from error


def _tune_entry(who: str, before: Limit, after: Limit) -> Entry:
    changed = [field for field in Limit.__struct_fields__ if getattr(before, field) != getattr(after, field)]
    told = {field: {"before": getattr(before, field), "after": getattr(after, field)} for field in changed}
    return Entry(who=who, what="limit.changed", at=0, detail={"limit": before.name, **told})


def _limits(policy: Policy) -> dict[str, str]:
    return {budget.name: str(budget.limit_usd) for budget in policy.budgets}
