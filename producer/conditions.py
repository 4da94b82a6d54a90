"""On what conditions lines run, as callers say it; and the prices and budgets that they meet at that moment."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

import msgspec
from redis.asyncio import Redis

from batchmill.config.policy import KeyBudget, check_limit
from batchmill.config.settings import Settings
from batchmill.config.strategy import Strategy
from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError
from batchmill.openrouter.money import to_nano
from batchmill.producer.errors import InputError, PricesUnknownError
from batchmill.producer.lines import Conditions, Wish
from batchmill.producer.own_members import make_wish
from batchmill.producer.pricing import Pricer
from batchmill.store import policy
from batchmill.store.catalogue import models_of
from batchmill.store.health import health_of
from batchmill.store.model import Priority
from batchmill.store.statistics import models_seen

_PROJECT = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # as in the config file
_TAG_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LONGEST_TAG = 128  # characters of a value
_MOST_TAGS = 8  # each set of tags is a row of every day's roll-up


def conditions_of(
    max_cost: Decimal | str | int | None = None,
    priority: Priority | str = Priority.NORMAL,
    project: str = "default",
    tags: Mapping[str, str] | None = None,
    *,
    cache: bool = False,
    key: str | None = None,
) -> Conditions:
    """Return the conditions as a value. Raises InputError."""
    try:
        turn = Priority(priority)
    except ValueError:
        raise InputError(f"no priority {priority!r}; there are {', '.join(Priority)}") from None
    if not _PROJECT.fullmatch(project):
        raise InputError(f"no project can be named {project!r}: up to 64 letters, digits and . _ - make a name")
    return Conditions(
        project=project,
        priority=turn,
        max_cost=None if max_cost is None else _nano_of(max_cost),
        tags=_tags_of(tags or {}),
        cache=cache,
        key=key,
    )


def wish_of_batch(fallback: Iterable[str], strategy: Strategy | str | None) -> Wish | None:
    """Return a batch's own fallbacks and strategy as a value, None for none. Raises InputError."""
    if isinstance(fallback, str):
        raise InputError("fallback is a list of models or aliases, not one string")
    try:
        order = None if strategy is None else Strategy(strategy)
    except ValueError:
        raise InputError(f"no strategy {strategy!r}; there are {', '.join(Strategy)}") from None
    try:
        return make_wish(tuple(fallback), order)
    except ValueError as error:
        raise InputError(str(error)) from None


async def pricer_for(redis: Redis, settings: Settings, conditions: Conditions) -> Pricer:
    """Return what prices lines at this moment. Raises PricesUnknownError when nobody can tell what must be known.

    The rules are those in force; those of the settings' file, when nobody has put any in force yet.
    """
    try:
        models = await models_of(redis, settings)
    except (UpstreamUnavailableError, UpstreamRefusedError) as error:
        raise PricesUnknownError(
            f"what models cost can't be read from {settings.upstream_name} ({error}), so nothing was enqueued; "
            "try again when it answers"
        ) from error
    in_force = await policy.live(redis, settings.upstream_name)
    rules = in_force.policy
    if in_force.source == policy.BUILT_IN and settings.policy is not None:
        of_keys = tuple(budget for budget in rules.budgets if isinstance(budget, KeyBudget))
        rules = msgspec.structs.replace(settings.policy, budgets=(*settings.policy.budgets, *of_keys))
    today = datetime.now(UTC).date().isoformat()
    seen = await models_seen(redis, settings.upstream_name)
    health = await health_of(redis, settings.upstream_name, seen) if seen else {}
    return Pricer(models, rules, conditions, strict=settings.speaks_openrouter, today=today, health=health)


def _tags_of(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Return tags as the ledger has them: sorted, for the same tags are the same row of a report."""
    if not isinstance(tags, Mapping):
        raise InputError(f"tags are a mapping of keys to values, not {type(tags).__name__}")
    if len(tags) > _MOST_TAGS:
        raise InputError(f"a batch can have {_MOST_TAGS} tags, not {len(tags)}")
    for key, value in tags.items():
        if not isinstance(key, str) or not _TAG_KEY.fullmatch(key):
            raise InputError(f"no tag can be named {key!r}: up to 64 letters, digits and . _ - make a key")
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TAG or not value.isprintable():
            raise InputError(f"tag {key}: a value is 1 to {_LONGEST_TAG} printable characters, not {value!r}")
    return tuple(sorted(f"{key}={value}" for key, value in tags.items()))


def _nano_of(max_cost: Decimal | str | int) -> int:
    """Return USD as nano-dollars, exactly."""
    if isinstance(max_cost, bool) or not isinstance(max_cost, Decimal | str | int):
        raise InputError(f"max_cost must be a Decimal, a string or an integer, not {type(max_cost).__name__}")
    try:
        usd = Decimal(max_cost)
        check_limit(usd)
    except (InvalidOperation, ValueError):
        raise InputError(
            f"no batch can have a budget of {max_cost} dollars; give a number like 0.25, nine decimal places at most"
        ) from None
    return to_nano(usd)
