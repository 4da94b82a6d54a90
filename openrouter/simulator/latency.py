"""How long the simulator's answers take, as a distribution that a draw in [0, 1) picks from."""

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
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


class Latencies:
    """How long each model's calls take: the first pattern that matches, otherwise `latency`."""

    def __init__(self, latency: str, by_pattern: Mapping[str, str]) -> None:
        """Raises ConfigError for a spec that `parse_latency` can't read."""
        self.spec = latency
        self.specs = dict(by_pattern)
        self._otherwise = parse_latency(latency)
        self._patterns = {pattern: parse_latency(spec) for pattern, spec in by_pattern.items()}
        self._known: dict[str, Latency] = {}

    def of(self, model: str) -> Latency:
        """Return what goes for this model."""
        latency = self._known.get(model)
        if latency is None:
            matching = (each for pattern, each in self._patterns.items() if fnmatchcase(model, pattern))
            latency = self._known[model] = next(matching, self._otherwise)
        return latency

    def with_all(self, latency: str) -> "Latencies":
        """Return these with another latency for the models that no pattern matches."""
        return Latencies(latency, self.specs)

    def with_model(self, model: str, latency: str | None) -> "Latencies":
        """Return these with this latency for a model or pattern, before all patterns; None: with none of its own."""
        others = {pattern: spec for pattern, spec in self.specs.items() if pattern != model}
        return Latencies(self.spec, others if latency is None else {model: latency, **others})
