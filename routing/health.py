"""How models do: what the fleet saw of them lately and what their endpoints say of themselves, as plain values.

calls ──► Tally, by provider and slot of time ──► Traffic of a window ─┐
endpoints' own words ─────────────────────────► Stated ────────────────┼──► ModelHealth
the model's breaker ───────────────────────────────────────────────────┘
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from statistics import median
from typing import Final

import msgspec

from batchmill.routing.histogram import Counts, add, bucket_of, quantiles

ENOUGH: Final = 20
"""Calls in a window from which something is concluded."""

FOR_EVER: Final = 1 << 53
"""`ModelHealth.open` of a breaker that an operator tripped: until it is reset."""

_DOWN_BELOW = 0.5  # of its minutes
_MOST_TOKENS = 1 << 31  # of one answer: an upstream may tell anything, and sums must fit a whole number of Redis
_THOUSAND = 1000


class Window(IntEnum):
    """How far back one looks, in seconds. What came just before a window's beginning may be left out, never added."""

    MINUTE = 60
    FIVE_MINUTES = 300
    HOUR = 3600
    DAY = 86_400


class Spread(msgspec.Struct, frozen=True):
    """How times are spread, in milliseconds, each within 5 % of the truth."""

    p50: float
    p90: float
    p99: float


class Tally(msgspec.Struct):
    """Calls that are being counted. `calls` were answered, or failed by the provider's fault; `limited` are apart.

    Times and tokens are those of answers. `generating_ms` is from the first token on where that was seen, else the
    whole call; `tokens` are what came meanwhile.
    """

    calls: int = 0
    failures: int = 0
    limited: int = 0
    tokens: int = 0
    generating_ms: int = 0
    latency: Counts = {}
    first_token: Counts = {}

    def answered(self, latency_ms: int, first_token_ms: int | None, tokens: int) -> None:
        """Count an answer with this many completion tokens."""
        self.calls += 1
        bucket = bucket_of(latency_ms)
        self.latency[bucket] = self.latency.get(bucket, 0) + 1
        if first_token_ms is not None:
            bucket = bucket_of(first_token_ms)
            self.first_token[bucket] = self.first_token.get(bucket, 0) + 1
        if tokens > 0:
            self.tokens += min(tokens, _MOST_TOKENS)
            self.generating_ms += max(1, latency_ms - (first_token_ms or 0))

    def failed(self) -> None:
        """Count a fault of the provider."""
        self.calls += 1
        self.failures += 1

    def refused(self) -> None:
        """Count a call that came too early for a limit of the upstream."""
        self.limited += 1


def tallied(tallies: Iterable[Tally]) -> Tally:
    """Return what was counted in any of these."""
    total = Tally()
    for one in tallies:
        total.calls += one.calls
        total.failures += one.failures
        total.limited += one.limited
        total.tokens += one.tokens
        total.generating_ms += one.generating_ms
        add(total.latency, one.latency)
        add(total.first_token, one.first_token)
    return total


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What the fleet saw of one model, or of one provider of it, in a window of `seconds`.

    `at` is when the youngest of it was counted (ms of the Redis clock, 0: nothing was), `age` how many seconds ago.
    `providers` are those that answered or failed, by name; the name is empty for calls of which nobody knows.
    """

    model: str
    seconds: int
    calls: int = 0
    failures: int = 0
    limited: int = 0
    latency: Spread | None = None
    first_token: Spread | None = None
    tokens_per_second: float | None = None
    at: int = 0
    age: float | None = None
    providers: Mapping[str, "Traffic"] = {}
    source: str = "fleet"

    @property
    def success_rate(self) -> float | None:
        """The share of calls (0 to 1) that the provider did not fail; None without a call."""
        return None if not self.calls else 1 - self.failures / self.calls


def traffic_of(model: str, window: Window, tally: Tally, *, at: int, now: int) -> Traffic:
    """Return what was counted in a window, without its providers. Times in ms of the Redis clock."""
    return Traffic(
        model=model,
        seconds=int(window),
        calls=tally.calls,
        failures=tally.failures,
        limited=tally.limited,
        latency=_spread(tally.latency),
        first_token=_spread(tally.first_token),
        tokens_per_second=tally.tokens * _THOUSAND / tally.generating_ms if tally.generating_ms else None,
        at=at,
        age=None if not at else max(0, now - at) / _THOUSAND,
    )


def _spread(counts: Counts) -> Spread | None:
    return Spread(*quantiles(counts, 0.5, 0.9, 0.99)) if counts else None


class EndpointHealth(msgspec.Struct, frozen=True, array_like=True):
    """What one endpoint of a model says of itself. `uptime` is a share (0 to 1); None: it does not say.

    `latency_ms` is the median time to the first token, as OpenRouter measures it.
    """

    provider: str
    tag: str = ""
    status: int | None = None
    uptime: float | None = None
    latency_ms: float | None = None
    tokens_per_second: float | None = None

    @property
    def down(self) -> bool:
        """Whether it says that it does not serve: a status below 0 (which ones mean what is not documented)."""
        return (self.status or 0) < 0 or (self.uptime is not None and self.uptime < _DOWN_BELOW)


class Stated(msgspec.Struct, frozen=True, array_like=True):
    """What the endpoints of a model said at a moment (ms of the Redis clock)."""

    at: int
    endpoints: tuple[EndpointHealth, ...]

    @property
    def uptime(self) -> float | None:
        """That of the best endpoint which serves: where one fails, the upstream itself goes on to the next."""
        known = [one.uptime for one in self._serving if one.uptime is not None]
        if known:
            return max(known)
        return 0.0 if self.endpoints and all(one.down for one in self.endpoints) else None

    @property
    def latency_ms(self) -> float | None:
        """The median over the endpoints that serve: nobody knows which of them a call will get."""
        known = [one.latency_ms for one in self._serving if one.latency_ms is not None]
        return median(known) if known else None

    @property
    def tokens_per_second(self) -> float | None:
        """As `latency_ms`."""
        known = [one.tokens_per_second for one in self._serving if one.tokens_per_second is not None]
        return median(known) if known else None

    @property
    def _serving(self) -> tuple[EndpointHealth, ...]:
        return tuple(one for one in self.endpoints if not one.down) or self.endpoints


class ModelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one moment. None, or no calls: nobody knows.

    `calls` and `failures` (of the provider) are those of the fleet in the youngest window that has enough of them,
    `seconds` long, and `limited` what the upstream's limits refused meanwhile, which is in neither. Times in
    milliseconds, medians; `uptime` is a share (0 to 1) that the model's endpoints state. `stated_latency_ms` is to the
    first token, `latency_ms` to the last. `open` says until when (ms of the Redis clock) its breaker lets nothing
    through, 0 for one that lets something; `half_open` that it lets a few probes. `measured_at` and `stated_at` say
    when the youngest of either came (ms of the Redis clock), 0: never.
    """

    model: str
    calls: int = 0
    failures: int = 0
    seconds: int = 0
    latency_ms: float | None = None
    first_token_ms: float | None = None
    tokens_per_second: float | None = None
    uptime: float | None = None
    stated_latency_ms: float | None = None
    stated_tokens_per_second: float | None = None
    open: int = 0
    limited: int = 0
    half_open: bool = False
    measured_at: int = 0
    stated_at: int = 0


def youngest(calls: Sequence[int]) -> int:
    """Return the place of the first window with enough calls to conclude something, given the calls of each window.

    The windows go from the shortest to the longest. Where none has enough, it is the shortest that has all there are.
    """
    enough = min(ENOUGH, max(calls))
    return next(place for place, number in enumerate(calls) if number >= enough)


def health_from(seen: Traffic, stated: Stated | None, *, open_until: int = 0, half_open: bool = False) -> ModelHealth:
    """Return a model's health from what was seen of it in the youngest window, what it states, and its breaker."""
    return ModelHealth(
        model=seen.model,
        calls=seen.calls,
        failures=seen.failures,
        seconds=seen.seconds if seen.calls or seen.limited else 0,
        limited=seen.limited,
        latency_ms=seen.latency.p50 if seen.latency else None,
        first_token_ms=seen.first_token.p50 if seen.first_token else None,
        tokens_per_second=seen.tokens_per_second,
        uptime=stated.uptime if stated else None,
        stated_latency_ms=stated.latency_ms if stated else None,
        stated_tokens_per_second=stated.tokens_per_second if stated else None,
        open=open_until,
        half_open=half_open,
        measured_at=seen.at,
        stated_at=stated.at if stated else 0,
    )
