"""Why a candidate stands where it stands, in words with numbers. Pure."""

from datetime import UTC, datetime
from typing import Final

from batchmill.openrouter.money import dollars
from batchmill.routing.health import FOR_EVER, ModelHealth

NOTHING_KNOWN: Final = "nothing is known yet of how it does"
PROBED: Final = "its breaker lets a few probes through"

_MS = 1000
_SECOND = 1
_TEN_SECONDS = 10
_MINUTE = 60
_HOUR = 3600
_DAY = 86_400
_ALL = 100.0
_NEARLY_ALL = 99.9


def of_health(health: ModelHealth) -> str:
    """Return what is known of how a model does: what the fleet saw, else what its endpoints state."""
    known = seen(health) if health.calls else stated(health) or NOTHING_KNOWN
    return f"{known}; {PROBED}" if health.half_open else known


def seen(health: ModelHealth) -> str:
    """Return what the fleet saw: "0.8 s median over 212 calls in 60 s, 99 % succeed"."""
    calls = f"{health.calls:,} call" if health.calls == 1 else f"{health.calls:,} calls"
    over = f"{calls} in {window(health.seconds)}" if health.seconds else calls
    took = f"over {over}" if health.latency_ms is None else f"{seconds(health.latency_ms)} median over {over}"
    limited = f", {health.limited:,} more met a limit of the upstream" if health.limited else ""
    return f"{took}, {percent((health.calls - health.failures) / health.calls)} succeed{limited}"


def stated(health: ModelHealth) -> str | None:
    """Return what a model's endpoints state of themselves; None when they state nothing."""
    parts = []
    if health.stated_latency_ms is not None:
        parts.append(f"{seconds(health.stated_latency_ms)} to the first token")
    if health.stated_tokens_per_second is not None:
        parts.append(f"{health.stated_tokens_per_second:.0f} tokens/s")
    if health.uptime is not None:
        parts.append(f"{percent(health.uptime)} up")
    return f"its endpoints state {', '.join(parts)}; no calls seen yet" if parts else None


def of_breaker(until: int) -> str:
    """Return that a model's breaker is open, and until when (ms of the Redis clock)."""
    if until >= FOR_EVER:
        return "an operator tripped its breaker, so it comes last"
    at = datetime.fromtimestamp(until / _MS, UTC).strftime("%H:%M:%S")
    return f"its breaker is open until {at} UTC, so it comes last"


def of_estimate(estimate: int | None) -> str:
    """Return what a line is likely to cost (nano-dollars)."""
    return "nobody knows what it is likely to cost" if estimate is None else f"about {dollars(estimate)}"


def seconds(ms: float) -> str:
    """Return milliseconds as seconds: 0.34 s, 1.2 s, 12 s."""
    took = ms / _MS
    return f"{took:.2f} s" if took < _SECOND else f"{took:.1f} s" if took < _TEN_SECONDS else f"{took:.0f} s"


def window(length: int) -> str:
    """Return the length of a window (seconds): 60 s, 5 min, 1 h, 1 day."""
    if length >= _DAY and length % _DAY == 0:
        days = length // _DAY
        return f"{days} day" if days == 1 else f"{days} days"
    if length >= _HOUR and length % _HOUR == 0:
        return f"{length // _HOUR} h"
    if length > _MINUTE and length % _MINUTE == 0:
        return f"{length // _MINUTE} min"
    return f"{length} s"


def percent(share: float) -> str:
    """Return a share (0 to 1) in per cent; 100 % means all."""
    value = share * _ALL
    if _NEARLY_ALL < value < _ALL:
        value = _NEARLY_ALL
    return f"{value:.1f} %" if value < _ALL and round(value, 1) != round(value) else f"{value:.0f} %"
