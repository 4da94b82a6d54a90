"""What a batch's id tells."""

_BIRTH = slice(6, 18)  # hexadecimal, behind "batch_"


def born_ms(batch_id: str) -> int:
    """Return when a batch came to be (unix ms of the clock of who handed it over)."""
    return int(batch_id[_BIRTH], 16)
