"""Money is an integer of nano-dollars (10^-9 USD), rounded up; never a float."""

from decimal import ROUND_CEILING, Decimal

NANO = 1_000_000_000
_HUNDRED, _CENT, _SMALL = Decimal(100), Decimal("0.01"), Decimal("0.00001")


def to_nano(usd: Decimal) -> int:
    """Return USD as nano-dollars, rounded up, so that what is booked is never less than what was billed."""
    return int((usd * NANO).to_integral_value(rounding=ROUND_CEILING))


def to_usd(nano: int) -> Decimal:
    """Return nano-dollars as USD, exactly."""
    return Decimal(nano) / NANO


def usd_if_known(nano: int | None) -> Decimal | None:
    """Return nano-dollars as USD, exactly; None for what nobody knows."""
    return None if nano is None else to_usd(nano)


def dollars(nano: int) -> str:
    """Return nano-dollars as people read them, with as many digits as matter."""
    usd = to_usd(nano)
    if usd >= _HUNDRED:
        return f"${usd:,.2f}"
    if usd >= _CENT:
        return f"${usd:.4f}"
    return f"${usd:.9f}" if 0 < usd < _SMALL else f"${usd:.6f}"
