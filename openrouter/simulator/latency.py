"""How long the simulator's answers take, as a distribution that a draw in [0, 1) picks from."""

import math
from collections.abc import Callable
from statistics import NormalDist

from batchmill.config.errors import ConfigError

Latency = Callable[[float], float]  # a draw in [0, 1) -> seconds

REALISTIC = "lognormal:1200:0.6"  # milliseconds: a short answer of a mid-sized model

_NORMAL = NormalDist()
_EDGE = 1e-12  # the normal distribution's quantiles are infinite at 0 and 1
_LONGEST_MS = 3_600_000.0


def quantile(draw: float) -> float:
    """Return the standard normal quantile of a draw in [0, 1)."""
    return _NORMAL.inv_cdf(min(max(draw, _EDGE), 1 - _EDGE))


def parse_latency(spec: str) -> Latency:
    """Read `200`, `uniform:100:300` or `lognormal:200:0.5` (median and sigma); all in milliseconds.

    Raises ConfigError, which says what would be right.
    """
    kind, _, rest = spec.strip().partition(":")
    try:
        numbers = [float(part) for part in (rest.split(":") if rest else [kind])]
    except ValueError:
        numbers = []
    if not all(math.isfinite(number) and 0 <= number <= _LONGEST_MS for number in numbers):
        numbers = []
    match kind, numbers:
        case _, [fixed] if not rest:
            return lambda _: fixed / 1000
        case "uniform", [low, high] if low <= high:
            return lambda draw: (low + (high - low) * draw) / 1000
        case "lognormal", [median, sigma]:
            return lambda draw: min(median * math.exp(min(sigma * quantile(draw), 50.0)), _LONGEST_MS) / 1000
    raise ConfigError(
        f"latency '{spec}' can't be read; use milliseconds such as 200, uniform:100:300 or lognormal:200:0.5"
    )
