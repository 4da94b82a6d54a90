"""Numbers, money and times as people read them."""

from datetime import datetime

from batchmill.openrouter.money import dollars
from batchmill.store.model import BatchStatus

_MINUTE = 60
_HOUR = 3600


def cost_of(status: BatchStatus) -> str:
    """Return what a batch cost so far, and when not all of it was told, how much is untold."""
    if not status.uncosted:
        return dollars(status.cost)
    if not status.cost:
        return "not told by the upstream"
    return f"{dollars(status.cost)} and {status.uncosted:,} lines whose cost was not told"


def duration(seconds: float) -> str:
    """Return a duration: 9.4 s, 3:05, 2:03:05."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    minutes, rest = divmod(whole % _HOUR, _MINUTE)
    return f"{whole // _HOUR}:{minutes:02}:{rest:02}" if whole >= _HOUR else f"{minutes}:{rest:02}"


def lines(count: int) -> str:
    """Return a number of lines in words."""
    return f"{count:,} line" if count == 1 else f"{count:,} lines"


def moment(unix_seconds: float) -> str:
    """Return a time as the local clock shows it."""
    return datetime.fromtimestamp(unix_seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def share(part: int, whole: int) -> str:
    """Return a share in per cent, rounded down so that 100 % means all."""
    return f"{100 * part // whole if whole else 100} %"


def outcomes(status: BatchStatus) -> str:
    """Return how many lines ended how; what there is none of goes unsaid, but for successes."""
    cached = f" ({status.cached:,} from the cache)" if status.cached else ""
    parts = [f"{status.succeeded:,} succeeded{cached}"]
    for count, word in ((status.failed, "failed"), (status.cancelled, "cancelled"), (status.expired, "expired")):
        if count:
            parts.append(f"{count:,} {word}")
    if status.total > status.done:
        parts.append(f"{status.total - status.done:,} to do")
    return ", ".join(parts)
