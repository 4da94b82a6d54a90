"""What every part of our own API does alike: times and pauses in the words of its shapes."""

from batchmill.service.control.shapes import Pause
from batchmill.store import gauges

MS = 1000


def seconds(milliseconds: int | None) -> int | None:
    """Return unix seconds of unix milliseconds, None as None."""
    return None if milliseconds is None else milliseconds // MS


def pause_shape(pause: gauges.Pause) -> Pause:
    """Return a pause as it is told."""
    return Pause(
        scope=pause.scope,
        model=pause.model,
        reason=pause.reason,
        until_at=seconds(pause.until_ms),
        by_operator=pause.scope.startswith(gauges.OPERATOR),
    )
