"""When somebody is to be alerted, and whom to tell: the policy's tables [alerts] and [[webhooks]].

A webhook's secret is never here: the table names the variable of the environment that has it.
"""

import re
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from batchmill.config.credentials import KEY
from batchmill.config.rules import Rule, check_money, check_name
from batchmill.config.urls import is_url

Minutes = Annotated[float, msgspec.Meta(gt=0, le=10_080)]

_MAX_USD: Final = 9_000_000
_NANO_DIGITS: Final = 9
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class AlertKind(StrEnum):
    """What an alert is about; also the type of the event that a webhook gets."""

    BUDGET_WARNING = "budget.warning"
    BUDGET_CRITICAL = "budget.critical"
    BUDGET_EXHAUSTED = "budget.exhausted"
    BUDGET_FORECAST = "budget.forecast"  # it will be exceeded before its window ends, at this pace
    CREDITS_LOW = "credits.low"
    ACCOUNT_REFUSED = "account.refused"  # the credits are used up, the key is invalid ...
    BREAKER_OPEN = "breaker.open"  # for long
    SUSPECTS_OUTSTANDING = "suspects.outstanding"
    BOUND_BREACHED = "bound.breached"


EVERY_ALERT = tuple(AlertKind)


class Alerts(Rule, frozen=True):
    """From when on somebody is to be alerted; `warning` and `critical` are shares of a budget's limit."""

    warning: Decimal = Decimal("0.8")
    critical: Decimal = Decimal("0.95")
    forecast: bool = True
    breaker_open_minutes: Minutes = 10.0
    credits_low_usd: Decimal = Decimal(5)
    suspects_over_usd: Decimal = Decimal(1)

    def __post_init__(self) -> None:
        if not (self.warning.is_finite() and self.critical.is_finite() and 0 < self.warning <= self.critical <= 1):
            raise ValueError(
                "alerts: warning and critical must be shares of a budget above 0 and up to 1, warning not above "
                f"critical; not {self.warning} and {self.critical}"
            )
        check_money("alerts.credits_low_usd", self.credits_low_usd, _MAX_USD, _NANO_DIGITS)
        check_money("alerts.suspects_over_usd", self.suspects_over_usd, _MAX_USD, _NANO_DIGITS)


class Webhook(Rule, frozen=True):
    """Where alerts are sent, signed with what the variable `secret_env` holds (Standard Webhooks: whsec_...)."""

    url: str
    secret_env: str
    name: str = ""
    events: tuple[AlertKind, ...] = EVERY_ALERT

    def __post_init__(self) -> None:
        if not is_url(self.url, ("http", "https")):
            raise ValueError("webhooks.url is not an http(s) URL; e.g. https://example.com/hooks/batchmill")
        parts = urlsplit(self.url)
        if "@" in parts.netloc:
            raise ValueError("webhooks.url holds a user or password; what proves who we are is the signature")
        if not self.name:
            msgspec.structs.force_setattr(self, "name", re.sub(r"[^A-Za-z0-9_.-]+", "-", parts.netloc))
        check_name("webhook", self.name)
        if not _VARIABLE.fullmatch(self.secret_env) or self.secret_env == KEY:
            raise ValueError(
                f"webhook '{self.name}': secret_env must name a variable of the environment that holds the secret and "
                "nothing else; e.g. BATCHMILL_WEBHOOK_SECRET"
            )
        if not self.events:
            raise ValueError(f"webhook '{self.name}': events names none; leave it out for all of them")
