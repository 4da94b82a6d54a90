"""What the key's own books say may be sent now. Pure: what `GET /key` told in, what must wait out.

    expires_at is past                                 everything, until another key is given
    a management key                                   everything: it can't run completions
    limit_remaining <= 0                               everything, until limit_reset
    effective_budget or one of budgets: remaining <= 0 everything, until resets_at
    free_model_daily_requests.remaining <= 0           the free models, until 00:00 UTC

Source: the schema of `GET /key` (October 2026), "Limits" and "Key budgets". What a spent cap covers is refused with
403 (or 402) until it is reset; resets are at 00:00 UTC, weeks begin on Monday.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import msgspec

from batchmill.openrouter.errors import date_of
from batchmill.openrouter.outcomes import Scope
from batchmill.openrouter.wire import KeyBudget, KeyInfo

CODES: Final = frozenset(
    {
        "authentication",  # a look that was answered says that the key is good
        "key_expired",
        "management_key",
        "key_limit_reached",
        "guardrail_budget_spent",
        "workspace_budget_spent",
        "budget_spent",
        "free_daily_limit",
    }
)
"""The codes of pauses that a look at the key can end: it knows better than the refusal that began them."""

_DECEMBER: Final = 12
_MAX_USD: Final = 10**12  # beyond it a number is damage, not money


class Stop(msgspec.Struct, frozen=True):
    """Nothing of the scope can be sent until then (unix seconds; None: nobody knows), and why, as code and in words."""

    scope: Scope
    code: str
    reason: str
    until: float | None = None


def stops(key: KeyInfo, now: float) -> tuple[Stop, ...]:
    """Return what the key's books stop at an instant (unix seconds), at most one stop a scope: the one that lasts."""
    lasting: dict[Scope, Stop] = {}
    for stop in _found(key, now):
        other = lasting.get(stop.scope)
        if other is None or (other.until is not None and (stop.until is None or stop.until > other.until)):
            lasting[stop.scope] = stop
    return tuple(lasting.values())


def words_of(budget: KeyBudget) -> str:
    """Return a budget in words: `workspace budget of $20.00 (daily), $3.50 remaining, resets 2026-...`."""
    scope = (budget.scope or "unnamed").replace("_", " ")
    name = scope if scope.endswith(("budget", "limit")) else f"{scope} budget"
    parts = [f"{name}{_usd(budget.limit_usd)} ({budget.reset_interval or 'lifetime'})"]
    if budget.remaining_usd is not None:
        parts.append(f"{dollars(budget.remaining_usd)} remaining")
    if budget.resets_at:
        parts.append(f"resets {budget.resets_at}")
    return ", ".join(parts)


def dollars(amount: Decimal) -> str:
    """Return USD as people read them; what can't be money is a question mark."""
    if not _is_money(amount):
        return "$?"
    return f"-${-amount:,.2f}" if amount < 0 else f"${amount:,.2f}"


def next_reset(interval: str | None, now: float) -> float | None:
    """Return when a cap of that interval is reset next (unix seconds); None for one that never is, or unknown ones."""
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match interval:
        case "daily":
            reset = today + timedelta(days=1)
        case "weekly":
            reset = today + timedelta(days=7 - today.weekday())
        case "monthly" if today.month == _DECEMBER:
            reset = today.replace(year=today.year + 1, month=1, day=1)
        case "monthly":
            reset = today.replace(month=today.month + 1, day=1)
        case _:
            return None
    return reset.timestamp()


def _found(key: KeyInfo, now: float) -> Iterator[Stop]:
    expires = date_of(key.expires_at)
    if expires is not None and expires <= now:
        yield Stop(Scope.ACCOUNT, "key_expired", f"the API key expired at {key.expires_at}; give another one")
    if key.is_management_key:
        yield Stop(
            Scope.ACCOUNT, "management_key", "this is a management key, which can't run completions; give another one"
        )
    if _is_spent(key.limit_remaining):
        interval = f" ({key.limit_reset})" if key.limit_reset else ""
        reason = f"the API key's own limit{_usd(key.limit)}{interval} is spent"
        yield Stop(Scope.ACCOUNT, "key_limit_reached", reason, next_reset(key.limit_reset, now))
    layers = [*(key.budgets or ()), *([key.effective_budget] if key.effective_budget else ())]
    yield from (_spent(budget, now) for budget in layers if _is_spent(budget.remaining_usd))
    free = key.free_model_daily_requests
    if free is not None and free.remaining is not None and free.remaining <= 0 and free.limit != 0:
        # an account whose limit is 0 does not exist (50 or 1000): it is an upstream that does not count
        count = f" of {free.limit:,}" if free.limit else ""
        reason = f"the account's free requests{count} of this UTC day are used up"
        yield Stop(Scope.FREE_MODELS, "free_daily_limit", reason, next_reset("daily", now))


def _is_spent(remaining: Decimal | None) -> bool:
    return remaining is not None and _is_money(remaining) and remaining <= 0


def _is_money(amount: Decimal) -> bool:
    return amount.is_finite() and abs(amount) < _MAX_USD


def _spent(budget: KeyBudget, now: float) -> Stop:
    resets = date_of(budget.resets_at)
    code = {"key_limit": "key_limit_reached", "workspace": "workspace_budget_spent"}.get(
        budget.scope or "", "guardrail_budget_spent"
    )
    # one that should have been reset by now is looked at again soon
    return Stop(
        Scope.ACCOUNT, code, f"spent: {words_of(budget)}", resets if resets is not None and resets > now else None
    )


def _usd(amount: Decimal | None) -> str:
    return "" if amount is None else f" of {dollars(amount)}"
