"""The simulator's rate caps: by model pattern as providers have them, and the platform's own on free models."""

from collections.abc import Callable
from fnmatch import fnmatchcase

from batchmill.openrouter.simulator.catalogue import Model
from batchmill.openrouter.simulator.options import SimulatorOptions
from batchmill.openrouter.simulator.refusals import Refusal, platform_limited, upstream_limited

_MINUTE = 60
_DAY = 86_400


class _Window:
    """How many calls came in the current window of the clock; windows start at multiples of their length in UTC."""

    __slots__ = ("count", "length", "limit", "start")

    def __init__(self, limit: int, length: int) -> None:
        self.limit = limit
        self.length = length
        self.start = 0.0
        self.count = 0

    def full(self, now: float) -> bool:
        if now >= self.end or now < self.start:
            self.start = now - now % self.length
            self.count = 0
        return self.count >= self.limit

    @property
    def end(self) -> float:
        return self.start + self.length


class Caps:
    """Decides whether a call may pass, and counts it when it does. A refused call counts nowhere."""

    def __init__(self, options: SimulatorOptions, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._patterns = {pattern: _Window(limit, _MINUTE) for pattern, limit in options.rpm.items()}
        self._free_minute = _Window(options.free_rpm, _MINUTE) if options.free_rpm else None
        self._free_day = _Window(options.free_daily, _DAY) if options.free_daily else None
        self._max_in_flight = options.max_in_flight
        self._matching: dict[str, list[_Window]] = {}

    @property
    def free_used_today(self) -> int:
        """Calls of free models that passed since midnight UTC."""
        if self._free_day is None:
            return 0
        self._free_day.full(self._clock())
        return self._free_day.count

    def admit(self, model: Model, in_flight: int) -> Refusal | None:
        """Return the 429 that a call meets, or None and count it. `in_flight` counts the call itself."""
        if self._max_in_flight is not None and in_flight > self._max_in_flight:
            return upstream_limited(model.id, model.endpoints[0].provider)
        now = self._clock()
        windows = self._windows(model.id)
        for window in windows:
            if window.full(now):
                return upstream_limited(model.id, model.endpoints[0].provider, max(1, int(window.end - now) + 1))
        if model.free:
            refusal = self._admit_free(now)
            if refusal:
                return refusal
        for window in windows:
            window.count += 1
        return None

    def _admit_free(self, now: float) -> Refusal | None:
        day, minute = self._free_day, self._free_minute
        if day is not None and day.full(now):
            return platform_limited(
                "Rate limit exceeded: free-models-per-day-high-balance.",
                "openrouter_free_tier_daily",
                day.limit,
                day.end,
                now,
            )
        if minute is not None and minute.full(now):
            return platform_limited(
                "Rate limit exceeded: free-models-per-min.",
                "openrouter_free_models_per_min",
                minute.limit,
                minute.end,
                now,
            )
        for window in (day, minute):
            if window is not None:
                window.count += 1
        return None

    def _windows(self, model_id: str) -> list[_Window]:
        windows = self._matching.get(model_id)
        if windows is None:
            windows = [window for pattern, window in self._patterns.items() if fnmatchcase(model_id, pattern)]
            self._matching[model_id] = windows
        return windows
