"""What the simulated key may spend: its own limit with the windows that it resets in, and `GET /key` as it tells it."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal

import msgspec

from batchmill.openrouter.money import to_usd
from batchmill.openrouter.simulator import refusals
from batchmill.openrouter.simulator.refusals import Refusal

Reset = Literal["daily", "weekly", "monthly"]

_UNCAPPED = 1_000_000  # what an account without a cap on free models is told: the field is never absent


class KeyLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key's own cap in USD; `reset` tells when its spend starts anew (00:00 UTC, Mondays), None: never."""

    limit_usd: Decimal
    reset: Reset | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what is no amount."""
        check_amount(self.limit_usd)


def check_amount(usd: Decimal) -> None:
    """Raise ValueError for what can't be an amount of money; msgspec has no bounds for a Decimal."""
    if not (usd.is_finite() and usd >= 0):
        raise ValueError("an amount in USD must be a number, 0 or more")


class Spending:
    """What was billed, by UTC day, in nano-dollars."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._days: Counter[date] = Counter()

    def add(self, nano: int) -> None:
        """Count a bill, now."""
        self._days[self.today] += nano

    def since(self, reset: Reset | None) -> Decimal:
        """Return the USD of the current window."""
        start = window_start(self.today, reset)
        return to_usd(sum(nano for day, nano in self._days.items() if start is None or day >= start))

    @property
    def today(self) -> date:
        """The UTC day."""
        return datetime.fromtimestamp(self._clock(), UTC).date()


def window_start(today: date, reset: Reset | None) -> date | None:
    """Return the first day of a window; None for the one that has no beginning."""
    match reset:
        case "daily":
            return today
        case "weekly":
            return today - timedelta(days=today.weekday())
        case "monthly":
            return today.replace(day=1)
    return None


def resets_at(today: date, reset: Reset | None) -> str | None:
    """Return the instant at which a window's spend is zero again, as OpenRouter writes it."""
    match reset:
        case "daily":
            day = today + timedelta(days=1)
        case "weekly":
            day = today + timedelta(days=7 - today.weekday())
        case "monthly":
            day = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        case _:
            return None
    return datetime.combine(day, time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_limit(limit: KeyLimit | None, spending: Spending) -> Refusal | None:
    """Return the 403 of a key whose limit is spent. As OpenRouter's it is soft: what is in the air may overshoot it."""
    if limit is None:
        return None
    spent = spending.since(limit.reset)
    if spent < limit.limit_usd:
        return None
    return refusals.key_limit_spent(limit.reset, limit.limit_usd, spent, resets_at(spending.today, limit.reset))


def key_data(limit: KeyLimit | None, spending: Spending, free_used: int, free_limit: int | None) -> dict[str, Any]:
    """Return the `data` of `GET /key`."""
    budget = None if limit is None else _budget(limit, spending)
    free_limit = _UNCAPPED if free_limit is None else free_limit
    return {
        "label": "sk-or-v1-sim...ulated",
        "limit": limit and limit.limit_usd,
        "limit_remaining": budget and budget["remaining_usd"],
        "limit_reset": limit and limit.reset,
        "usage": spending.since(None),
        "usage_daily": spending.since("daily"),
        "usage_weekly": spending.since("weekly"),
        "usage_monthly": spending.since("monthly"),
        "byok_usage": 0,
        "byok_usage_daily": 0,
        "byok_usage_weekly": 0,
        "byok_usage_monthly": 0,
        "include_byok_in_limit": False,
        "is_free_tier": False,
        "is_management_key": False,
        "is_provisioning_key": False,
        "free_model_daily_requests": {
            "used": free_used,
            "limit": free_limit,
            "remaining": max(0, free_limit - free_used),
        },
        "budgets": [budget] if budget else [],
        "effective_budget": budget,
        "creator_user_id": refusals.USER_ID,
        "organization_id": None,
        "workspace_id": None,
        "expires_at": None,
        "allowed_data_regions": ["global"],
        "rate_limit": {"interval": "10s", "requests": -1, "note": "This field is deprecated"},
    }


def _budget(limit: KeyLimit, spending: Spending) -> dict[str, Any]:
    spent = spending.since(limit.reset)
    return {
        "scope": "key_limit",
        "limit_usd": limit.limit_usd,
        "spend_usd": spent,
        "remaining_usd": limit.limit_usd - spent,
        "reset_interval": limit.reset,
        "resets_at": resets_at(spending.today, limit.reset),
        "include_byok": False,
        "guardrail_id": None,
        "budget_id": None,
    }
