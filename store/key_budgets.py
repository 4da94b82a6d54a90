"""The budgets of API keys: part of the policy in force, which the gate turns away whoever knows an older one of.

A change bumps the policy's version in the same step: from that instant no line passes by the budget as it was before.
"""

from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from batchmill.config.policy import KeyBudget
from batchmill.openrouter.money import to_usd
from batchmill.store import keys, service_keys
from batchmill.store.audit import limit_entry, note
from batchmill.store.clock import now_ms
from batchmill.store.errors import StoreError, UnknownBudgetError
from batchmill.store.transactions import transact

_decode = msgspec.json.Decoder(KeyBudget).decode


def read(found: Sequence[bytes]) -> tuple[KeyBudget, ...]:
    """Return the budgets that stand in the hash, by name. Raises StoreError."""
    try:
        return tuple(sorted(map(_decode, found), key=lambda budget: budget.name))
    except msgspec.DecodeError as error:
        raise StoreError(
            f"the budgets of API keys in Redis can't be used here ({error}): is this batchmill older than the one that "
            "wrote them?"
        ) from error


async def every(redis: Redis, upstream: str) -> dict[str, KeyBudget]:
    """Return the budgets by the id of their key. Raises StoreError."""
    found = await redis.execute_command("HVALS", service_keys.key_budgets(upstream))
    return {budget.key: budget for budget in read(found)}


def put(pipe: Pipeline, upstream: str, budget: KeyBudget) -> None:
    """Add to a transaction that a budget is in force from then on, in the place of that of its name."""
    pipe.execute_command("HSET", service_keys.key_budgets(upstream), budget.name, msgspec.json.encode(budget))
    pipe.execute_command("HINCRBY", keys.books(upstream), "version", 1)


def drop(pipe: Pipeline, upstream: str, name: str) -> None:
    """Add to a transaction that a key has no budget from then on."""
    pipe.execute_command("HDEL", service_keys.key_budgets(upstream), name)
    pipe.execute_command("HINCRBY", keys.books(upstream), "version", 1)


async def raise_limit(redis: Redis, upstream: str, name: str, limit: int, who: str) -> tuple[int, int]:
    """Set the limit (nano-dollars) of a key's budget; return it before and after. Raises UnknownBudgetError."""
    before = 0

    async def change(pipe: Pipeline) -> bool:
        nonlocal before
        known = {budget.name: budget for budget in (await every(redis, upstream)).values()}
        if name not in known:
            raise UnknownBudgetError(name, list(known))
        before = known[name].limit
        put(pipe, upstream, msgspec.structs.replace(known[name], limit_usd=to_usd(limit)))
        note(pipe, upstream, limit_entry(who, name, before, limit, await now_ms(redis)))
        return True

    await transact(redis, service_keys.key_budgets(upstream), change)
    return before, limit
