"""How fast and how dependable a model is, as one number each, with who says so. Pure."""

from collections.abc import Mapping
from typing import Final

import msgspec

from batchmill.routing.health import ModelHealth

FLEET: Final = "fleet"
STATED: Final = "stated"
ANSWER_TOKENS: Final = 300
"""Of the answer whose time is worked out from what endpoints state: time to the first token, and tokens a second."""

POOR: Final = 0.5
"""A share of calls or of uptime below which a model does not count as available."""

Health = Mapping[str, ModelHealth]
_PRIOR_CALLS: Final = 20  # what a stated uptime weighs against the fleet's own calls


class Figure(msgspec.Struct, frozen=True):
    """A number, and whether the fleet measured it or the endpoints state it."""

    value: float
    source: str


def answer_ms(health: ModelHealth | None) -> Figure | None:
    """Return how long an answer takes (ms): the fleet's median, else what follows from what endpoints state."""
    if health is None:
        return None
    if health.latency_ms is not None:
        return Figure(health.latency_ms, FLEET)
    if health.stated_latency_ms is None or not health.stated_tokens_per_second:
        return None
    return Figure(health.stated_latency_ms + 1000 * ANSWER_TOKENS / health.stated_tokens_per_second, STATED)


def first_token_ms(health: ModelHealth | None) -> Figure | None:
    """Return the median time to the first token (ms)."""
    if health is None:
        return None
    return _measured(health.first_token_ms, health.stated_latency_ms)


def tokens_per_second(health: ModelHealth | None) -> Figure | None:
    """Return how fast tokens come once they come."""
    if health is None:
        return None
    return _measured(health.tokens_per_second, health.stated_tokens_per_second)


def success(health: ModelHealth | None) -> Figure | None:
    """Return the share of calls (0 to 1) that the providers did not fail; a stated uptime counts like some calls."""
    if health is None or (not health.calls and health.uptime is None):
        return None
    if not health.calls:
        return Figure(health.uptime or 0.0, STATED)
    good = health.calls - health.failures
    if health.uptime is None:
        return Figure(good / health.calls, FLEET)
    return Figure((good + health.uptime * _PRIOR_CALLS) / (health.calls + _PRIOR_CALLS), FLEET)


def trouble(health: ModelHealth | None) -> str | None:
    """Return in words why a model can't be counted on now; None when it can, or when nobody knows."""
    if health is None:
        return None
    if health.open:
        return "its breaker is open"
    share = success(health)
    if share is not None and share.value < POOR:
        return f"{100 * share.value:.0f} % succeed"
    return None


def _measured(seen: float | None, stated: float | None) -> Figure | None:
    if seen is not None:
        return Figure(seen, FLEET)
    return None if stated is None else Figure(stated, STATED)
