"""Money is an integer of nano-dollars (10^-9 USD), rounded up; never a float."""

from decimal import ROUND_CEILING, Decimal

NANO = 1_000_000_000


def to_nano(usd: Decimal) -> int:
    """Return USD as nano-dollars, rounded up, so that what is booked is never less than what was billed."""
    return int((usd * NANO).to_integral_value(rounding=ROUND_CEILING))


def to_usd(nano: int) -> Decimal:
    """Return nano-dollars as USD, exactly."""
    return Decimal(nano) / NANO
