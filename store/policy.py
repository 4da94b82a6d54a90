"""The policy in force: as the file of an operator says, with the limits that somebody raised since.

apply (a file) ──► document + weights + version ◄── raise (a command)
                          │
                          └─ live ──► every caller of the gate; the gate refuses one that has an older version

A raise lasts until a file names another limit for that budget than the one which was raised.
"""

from collections.abc import Callable
from decimal import Decimal

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from batchmill.config.policy import BATCH_PREFIX, KEY_PREFIX, Budget, KeyBudget, Policy, check_limit
from batchmill.openrouter.money import to_nano, to_usd
from batchmill.store import key_budgets, keys, service_keys
from batchmill.store.audit import Entry, note
from batchmill.store.clock import now_ms
from batchmill.store.errors import StoreError, UnknownBudgetError
from batchmill.store.transactions import transact

BUILT_IN = "built in"


class LivePolicy(msgspec.Struct, frozen=True):
    """The policy in force, its version, and where it comes from; `declared` are the limits of raised budgets (nano)."""

    version: int
    policy: Policy
    source: str
    declared: dict[str, int] = {}


class Raised(msgspec.Struct, frozen=True):
    """A limit that was changed, in nano-dollars."""

    name: str
    before: int
    after: int


class _Raise(msgspec.Struct, frozen=True):
    limit_usd: Decimal
    declared_usd: Decimal


class _Document(msgspec.Struct, frozen=True):
    source: str = BUILT_IN
    policy: Policy = Policy()  # as the file says
    raised: dict[str, _Raise] = {}

    def declared(self, name: str) -> Decimal | None:
        """Return the limit that the file names for a budget."""
        return next((budget.limit_usd for budget in self.policy.budgets if budget.name == name), None)

    def in_force(self, version: int, of_keys: tuple[KeyBudget, ...] = ()) -> LivePolicy:
        """Return the policy with what was raised, and with the budgets of API keys."""
        budgets = (*map(self._raised, self.policy.budgets), *of_keys)
        policy = msgspec.structs.replace(self.policy, budgets=budgets)
        return LivePolicy(
            version, policy, self.source, {name: to_nano(known.declared_usd) for name, known in self.raised.items()}
        )

    def _raised(self, budget: Budget) -> Budget:
        known = self.raised.get(budget.name)
        return msgspec.structs.replace(budget, limit_usd=known.limit_usd) if known else budget


Change = Callable[[_Document], tuple[_Document, Entry | None]]


async def apply(redis: Redis, upstream: str, policy: Policy, source: str) -> LivePolicy:
    """Put the policy of a file in force everywhere, from this instant; the same policy again changes nothing."""

    def change(before: _Document) -> tuple[_Document, Entry | None]:
        after = _Document(source, policy)
        raised = {name: known for name, known in before.raised.items() if after.declared(name) == known.declared_usd}
        if (before.policy, before.raised) == (policy, raised) and before.source != BUILT_IN:
            return before, None
        return msgspec.structs.replace(after, raised=raised), Entry(
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
        return msgspec.structs.replace(document, raised=raised), _raise_entry(who, name, before, limit)

    await _write(redis, upstream, change)
    return Raised(name, before, limit)


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
        note(pipe, upstream, _raise_entry(who, batch_id, before, limit, await now_ms(redis)))
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


def _raise_entry(who: str, name: str, before: int, after: int, at: int = 0) -> Entry:
    detail = {"budget": name, "before_usd": str(to_usd(before)), "after_usd": str(to_usd(after))}
    return Entry(who=who, what="budget.raised", at=at, detail=detail)


def _limits(policy: Policy) -> dict[str, str]:
    return {budget.name: str(budget.limit_usd) for budget in policy.budgets}
