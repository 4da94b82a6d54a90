"""What every part of our own API does alike: money and times in the words of its shapes, and who asks."""

from decimal import Decimal

from batchmill.openrouter.money import to_usd
from batchmill.service.control.shapes import Pause
from batchmill.service.identity import Identity
from batchmill.store import gauges

MS = 1000


def usd(nano: int | None) -> Decimal | None:
    """Return nano-dollars as USD, None as None."""
    return None if nano is None else to_usd(nano)


def seconds(milliseconds: int | None) -> int | None:
    """Return unix seconds of unix milliseconds, None as None."""
    return None if milliseconds is None else milliseconds // MS


def who(identity: Identity) -> str:
    """Return who asks, for the audit."""
    return f"key:{identity.key_name or identity.key_id}" if identity.key_id else "somebody on this machine"


def pause_shape(pause: gauges.Pause) -> Pause:
    """Return a pause as it is told."""
    return Pause(
        scope=pause.scope,
        model=pause.model,
        reason=pause.reason,
        until_at=seconds(pause.until_ms),
        by_operator=pause.scope.startswith(gauges.OPERATOR),
    )
