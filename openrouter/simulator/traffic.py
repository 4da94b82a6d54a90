"""What the simulator's endpoints did lately, for the statistics that `GET /models/{author}/{slug}/endpoints` shows.

Counted as the official SDK's schema has it: uptime is the share of minutes in which at least 80 % of the attempts
succeeded, of the minutes with 10 or more attempts; what was rate-limited or the caller's fault does not count.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence

import msgspec

FIRST_TOKEN_SHARE = 0.3
"""Of a call's time: what passes before a stream's first words."""

_MINUTE = 60
_UPTIME_MINUTES = {"uptime_last_5m": 5, "uptime_last_30m": 30, "uptime_last_1d": 24 * 60}
_ENOUGH = 10  # attempts, for a minute to count
_GOOD = 0.8  # share of them
_DOWN = 50  # percent of the last five minutes
_DOWN_STATUS = -2  # what OpenRouter's negative values mean is documented nowhere; this one is the simulator's choice
_RECENT_SECONDS = 30 * _MINUTE
_KEPT_SAMPLES = 2_000  # of an endpoint; the latest
_PERCENTS = (50, 75, 90, 99)

Percentiles = dict[str, float]


class EndpointTraffic(msgspec.Struct, frozen=True):
    """One endpoint's numbers. Uptimes in percent, None without enough calls; `latency` is the time to the first token
    in seconds, as the example of OpenRouter's schema has it (its text says milliseconds), `throughput` in tokens a
    second.
    """

    uptimes: dict[str, float | None]
    status: int
    latency: Percentiles | None
    throughput: Percentiles | None


class Sample(msgspec.Struct, frozen=True):
    """One answer: when it ended (unix seconds), how long it took (seconds), and its completion tokens."""

    at: float
    seconds: float
    tokens: int


class Traffic:
    """Keeps a day of every endpoint; an endpoint is known by its model's id and its tag."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._attempts: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
        self._failures: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
        self._samples: defaultdict[tuple[str, str], deque[Sample]] = defaultdict(lambda: deque(maxlen=_KEPT_SAMPLES))

    def answered(self, model: str, tag: str, seconds: float, tokens: int) -> None:
        """Count an answer."""
        self._count(self._attempts[model, tag])
        self._samples[model, tag].append(Sample(self._clock(), seconds, tokens))

    def failed(self, model: str, tag: str) -> None:
        """Count a fault of the provider."""
        self._count(self._attempts[model, tag])
        self._count(self._failures[model, tag])

    def of(self, model: str, tag: str) -> EndpointTraffic:
        """Return an endpoint's numbers now."""
        uptimes = {name: self._uptime(model, tag, minutes) for name, minutes in _UPTIME_MINUTES.items()}
        lately = uptimes["uptime_last_5m"]
        recent = [each for each in self._samples.get((model, tag), ()) if each.at > self._clock() - _RECENT_SECONDS]
        generating = [each for each in recent if each.seconds > 0]
        return EndpointTraffic(
            uptimes,
            _DOWN_STATUS if lately is not None and lately < _DOWN else 0,
            _percentiles([each.seconds * FIRST_TOKEN_SHARE for each in recent]),
            _percentiles([each.tokens / (each.seconds * (1 - FIRST_TOKEN_SHARE)) for each in generating]),
        )

    def _count(self, minutes: Counter[int]) -> None:
        minute = int(self._clock()) // _MINUTE
        minutes[minute] += 1
        oldest = next(iter(minutes))
        if oldest <= minute - _UPTIME_MINUTES["uptime_last_1d"]:
            del minutes[oldest]

    def _uptime(self, model: str, tag: str, minutes: int) -> float | None:
        attempts: Counter[int] = self._attempts.get((model, tag), Counter())
        failures: Counter[int] = self._failures.get((model, tag), Counter())
        since = int(self._clock()) // _MINUTE - minutes
        busy = [minute for minute, count in attempts.items() if minute > since and count >= _ENOUGH]
        if not busy:
            return None
        good = [minute for minute in busy if 1 - failures[minute] / attempts[minute] >= _GOOD]
        return round(100 * len(good) / len(busy), 3)


def _percentiles(numbers: Sequence[float]) -> Percentiles | None:
    if not numbers:
        return None
    ordered = sorted(numbers)
    return {f"p{percent}": round(ordered[(len(ordered) - 1) * percent // 100], 6) for percent in _PERCENTS}
