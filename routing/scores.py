"""How good a model's health is, as numbers that are never unknown: what routing compares. Pure.

`performance` tells what is known, and who says so; here the rest is filled with priors. Floats are right: these are
times and shares, never money.
"""

from typing import Final

from batchmill.routing.health import ModelHealth

PRIOR_SUCCESS: Final = 0.98  # of a model of which nobody knows how often it succeeds
PRIOR_CALLS: Final = 2  # how many calls the prior is worth, so that one early failure does not condemn a model

_LEAST_SUCCESS = 0.01  # so that no time becomes infinite


def success_rate(health: ModelHealth) -> float:
    """Return the share of calls that are likely to succeed: what was seen, and the stated uptime where little was."""
    prior = PRIOR_SUCCESS if health.uptime is None else min(max(health.uptime, 0.0), 1.0)
    succeeded = max(health.calls - health.failures, 0)
    return (succeeded + PRIOR_CALLS * prior) / (health.calls + PRIOR_CALLS)


def until_success_ms(took_ms: float, success: float) -> float:
    """Return the time until a call has succeeded (ms): each failure costs about as long as a call."""
    return took_ms / max(success, _LEAST_SUCCESS)
