"""How long lines take at least, by the limits they are under and by how many may be in the air. Pure.

Each limit, and each place in the air, gives a time below which nothing gets; the longest of them is the answer. Other
batches that wait are not counted, nor failures, pauses and breakers.
"""

from collections.abc import Mapping, Sequence

import msgspec

from batchmill.config.policy import Limit, Policy

_MINUTE = 60
_DAY = 86_400
_THOUSAND = 1000


class Load(msgspec.Struct, frozen=True):
    """The lines of one model: how many, their likely tokens in all, and a call's time (ms; None: nobody knows)."""

    model: str
    lines: int
    tokens: int
    latency_ms: float | None = None


class Finish(msgspec.Struct, frozen=True):
    """Seconds until the last line is done, and what it is that sets them."""

    seconds: float
    because: str


def finish_of(
    loads: Sequence[Load], policy: Policy, used_today: Mapping[tuple[str, str], int], *, places: int, now_ms: int
) -> Finish | None:
    """Return when the lines are done at the earliest; None when no limit and no time of a call is known.

    `used_today` are the requests of this UTC day by limit and scope, `places` how many lines may be in the air.
    """
    found = _in_the_air(loads, places)
    buckets: dict[tuple[str, str], tuple[Limit, list[Load]]] = {}
    for load in loads:
        for limit in policy.limits_for(load.model):
            buckets.setdefault((limit.name, limit.scope_of(load.model)), (limit, []))[1].append(load)
    for place, (limit, under) in buckets.items():
        found += _under(limit, under, used_today.get(place, 0), now_ms)
    return max(found, key=lambda each: each.seconds, default=None)


def _in_the_air(loads: Sequence[Load], places: int) -> list[Finish]:
    timed = [load for load in loads if load.latency_ms is not None and load.lines]
    if not timed:
        return []
    longest = max(load.latency_ms or 0.0 for load in timed)
    busy = sum(load.lines * (load.latency_ms or 0.0) for load in timed)
    return [Finish(max(busy / places, longest) / _THOUSAND, f"{places:,} lines in the air")]


def _under(limit: Limit, loads: Sequence[Load], used: int, now_ms: int) -> list[Finish]:
    lines, tokens = sum(load.lines for load in loads), sum(load.tokens for load in loads)
    found = []
    if limit.requests_per_minute is not None:
        seconds = max(0, lines - limit.request_capacity) * _MINUTE / limit.requests_per_minute
        found.append(Finish(seconds, f"limit {limit.name}: {limit.requests_per_minute:,} requests a minute"))
    if limit.tokens_per_minute is not None:
        seconds = max(0, tokens - limit.token_capacity) * _MINUTE / limit.tokens_per_minute
        found.append(Finish(seconds, f"limit {limit.name}: {limit.tokens_per_minute:,} tokens a minute"))
    if limit.requests_per_day is not None:
        seconds = _days(lines, limit.requests_per_day, used, now_ms)
        found.append(Finish(seconds, f"limit {limit.name}: {limit.requests_per_day:,} requests a day"))
    if limit.max_concurrency is not None:
        found += [
            Finish(each.seconds, f"limit {limit.name}: {limit.max_concurrency:,} in the air")
            for each in _in_the_air(loads, limit.max_concurrency)
        ]
    return found


def _days(lines: int, a_day: int, used: int, now_ms: int) -> float:
    """Return the seconds until the UTC day begins in which the last line may go."""
    left = lines - max(0, a_day - used)
    if left <= 0:
        return 0.0
    until_midnight = _DAY - now_ms / _THOUSAND % _DAY
    return until_midnight + (-(-left // a_day) - 1) * _DAY
