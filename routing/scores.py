"""How good a model's health is, as numbers that strategies compare. Pure; what nobody knows is said to be unknown.

Floats are right here: these are times and shares, never money.
"""

from typing import Final

from batchmill.routing.health import ModelHealth

PRIOR_SUCCESS: Final = 0.98  # of a model of which nobody knows how often it succeeds
PRIOR_CALLS: Final = 2  # how many calls the prior is worth, so that one early failure does not condemn a model
TYPICAL_OUTPUT: Final = 300  # tokens of an answer, to compare what endpoints state with what was measured
PRIOR_TOKENS_PER_SECOND: Final = 50.0  # of an endpoint that states its latency alone

_LEAST_SUCCESS = 0.01  # so that no time becomes infinite
_MS = 1000


def success_rate(health: ModelHealth) -> float:
    """Return the share of calls that are likely to succeed: what was seen, and the stated uptime where little was."""
    prior = PRIOR_SUCCESS if health.uptime is None else min(max(health.uptime, 0.0), 1.0)
    succeeded = max(health.calls - health.failures, 0)
    return (succeeded + PRIOR_CALLS * prior) / (health.calls + PRIOR_CALLS)


def call_ms(health: ModelHealth) -> float | None:
    """Return how long a call takes (ms): the median that was measured, else what the endpoints state; None: unknown.

    Endpoints state the time until the first token, so that of a typical answer is added.
    """
    if health.calls and health.latency_ms is not None:
        return health.latency_ms
    if health.stated_latency_ms is None:
        return None
    speed = health.stated_tokens_per_second or PRIOR_TOKENS_PER_SECOND
    return health.stated_latency_ms + TYPICAL_OUTPUT / speed * _MS


def until_success_ms(took_ms: float, success: float) -> float:
    """Return the time until a call has succeeded (ms): each failure costs about as long as a call."""
    return took_ms / max(success, _LEAST_SUCCESS)
