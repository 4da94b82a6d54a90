"""Rate limits over HTTP: how full their buckets are, and new numbers for one, in the whole fleet at once."""

import msgspec
from msgspec import UNSET, UnsetType

from batchmill.config.policy import Count, Limit
from batchmill.service import problems
from batchmill.service.context import Service
from batchmill.service.control.common import pause_shape
from batchmill.service.control.shapes import Limits, LimitUse
from batchmill.service.identity import Identity
from batchmill.store import gauges, policy
from batchmill.store.errors import UnknownLimitError
from batchmill.store.gauges import LimitGauge


class LimitChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New numbers for a limit; what is left out stays as it is, null takes a rule away."""

    requests_per_minute: Count | UnsetType | None = UNSET
    tokens_per_minute: Count | UnsetType | None = UNSET
    requests_per_day: Count | UnsetType | None = UNSET
    max_concurrency: Count | UnsetType | None = UNSET

    def of(self, limit: Limit) -> Limit:
        """Return the limit with these numbers. Raises ValueError when it would limit nothing any more."""
        given = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not UNSET}
        return msgspec.structs.replace(limit, **given)


async def limits(service: Service, identity: Identity) -> Limits:
    """Return each limit, once for each model that used it lately, or once when all share it."""
    gauged = await limit_gauges(service)
    tuned = (await policy.live(service.redis, service.upstream)).tuned
    shapes = [limit_shape(gauge, tuned=gauge.limit.name in tuned) for gauge in gauged]
    return Limits(data=tuple(seen_by(identity, shape) for shape in shapes))


async def change_rates(service: Service, identity: Identity, name: str, change: LimitChange) -> Limits:
    """Give a limit new numbers, which stay through restarts until the config file itself names others for it.

    Raises ApiError: 404 for no such limit, 400 for a limit that would limit nothing.
    """
    try:
        await policy.tune_limit(service.redis, service.upstream, name, change.of, identity.who)
    except UnknownLimitError as error:
        raise problems.not_found(f"No limit found with name '{name}'.") from error
    except ValueError as error:
        raise problems.invalid(str(error), code="invalid_value") from error
    service.moments.forget()
    found = await gauges.limits(service.redis, service.upstream)
    tuned = (await policy.live(service.redis, service.upstream)).tuned
    return Limits(data=tuple(limit_shape(one, tuned=name in tuned) for one in found if one.limit.name == name))


def seen_by(identity: Identity, use: LimitUse) -> LimitUse:
    """Return a limit as far as it is theirs to see: how much of it is used tells a project that others are at work."""
    if identity.project is None:
        return use
    return msgspec.structs.replace(use, requests_now=None, tokens_now=None, requests_today=None, in_air=None)


async def limit_gauges(service: Service) -> list[LimitGauge]:
    """Return the buckets as they were a moment ago."""
    return await service.moments.get(("limits",), lambda: gauges.limits(service.redis, service.upstream))


def limit_shape(gauge: LimitGauge, *, tuned: bool = False) -> LimitUse:
    """Return a limit as it is told."""
    limit = gauge.limit
    return LimitUse(
        name=limit.name,
        match=tuple(limit.match),
        scope=gauge.scope,
        shared=limit.shared,
        requests_now=None if gauge.requests is None else int(gauge.requests),
        requests_per_minute=limit.requests_per_minute,
        requests_capacity=None if limit.requests_per_minute is None else limit.request_capacity,
        tokens_now=None if gauge.tokens is None else int(gauge.tokens),
        tokens_per_minute=limit.tokens_per_minute,
        tokens_capacity=None if limit.tokens_per_minute is None else limit.token_capacity,
        requests_today=gauge.day_count,
        requests_per_day=limit.requests_per_day,
        in_air=gauge.in_air,
        max_concurrency=limit.max_concurrency,
        burst_seconds=limit.burst_seconds,
        pauses=tuple(pause_shape(pause) for pause in gauge.pauses),
        tuned=tuned,
    )
