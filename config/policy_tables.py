"""The policy as it stands in the TOML file; whatever can't be meant is told with its place."""

from collections.abc import Mapping
from typing import Any

import msgspec

from batchmill.config.alerting import Alerts, Webhook
from batchmill.config.errors import ConfigError
from batchmill.config.policy import FREE, Alias, Breaker, Budget, Limit, Policy, PriceRule, Project, Routing
from batchmill.config.spelling import nearest

KINDS: dict[str, type[msgspec.Struct]] = {
    "limits": Limit,
    "budgets": Budget,
    "prices": PriceRule,
    "projects": Project,
    "breaker": Breaker,
    "aliases": Alias,
    "routing": Routing,
    "alerts": Alerts,
    "webhooks": Webhook,
}
TABLES = tuple(KINDS)


class _Tables(msgspec.Struct, kw_only=True):
    limits: tuple[Limit, ...] = ()
    budgets: tuple[Budget, ...] = ()
    prices: tuple[PriceRule, ...] = ()
    projects: tuple[Project, ...] = ()
    breaker: Breaker = Breaker()
    aliases: tuple[Alias, ...] = ()
    routing: Routing = Routing()
    alerts: Alerts = Alerts()
    webhooks: tuple[Webhook, ...] = ()


def read_policy(table: Mapping[str, Any], source: str) -> Policy | None:
    """Return the policy of a file whose numbers with a point are Decimals; None when it has no table of one.

    Raises ConfigError, whose message names the table and the key.
    """
    own = {name: table[name] for name in TABLES if name in table}
    if not own:
        return None
    try:
        tables = msgspec.convert(own, _Tables)
        limits = tables.limits
        if all(limit.name != FREE.name for limit in limits):
            limits = (*limits, FREE)
        return Policy(
            limits=limits,
            budgets=tables.budgets,
            prices=tables.prices,
            projects=tables.projects,
            breaker=tables.breaker,
            aliases=tables.aliases,
            routing=tables.routing,
            alerts=tables.alerts,
            webhooks=tables.webhooks,
        )
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{source}: {_unknown_key(own) or error}") from error


def _unknown_key(table: Mapping[str, Any]) -> str | None:
    for name, value in table.items():
        known = KINDS[name].__struct_fields__
        for place, entry in _entries(name, value):
            for key in entry:
                if key not in known:
                    return f"unknown key '{place}.{key}'{nearest(key, known)}"
    return None


def _entries(name: str, value: object) -> list[tuple[str, dict[str, Any]]]:
    """Return each table that stands under a name, and where it stands."""
    if isinstance(value, dict):
        return [(name, value)]
    found = enumerate(value) if isinstance(value, list) else ()
    return [(f"{name}[{index}]", entry) for index, entry in found if isinstance(entry, dict)]
