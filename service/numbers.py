"""Whole numbers in headers and forms: Python reads more digits, and other ones, than a client may send."""

_MOST_DIGITS = 18  # fit into 64 bits; Python itself refuses more than 4,300


def whole_number(text: str | None) -> int | None:
    """Return the number that decimal ASCII digits name, and nothing else; None for what is none, or far too large."""
    if text and len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit():
        return int(text)
    return None
