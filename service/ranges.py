"""Ranges of bytes that a client asks for (RFC 9110, section 14): one range; whoever asks for more gets the whole."""

import re

_ONE = re.compile(r"\s*bytes\s*=\s*(?P<first>\d{0,18})\s*-\s*(?P<last>\d{0,18})\s*", re.IGNORECASE)


def range_of(header: str | None, size: int) -> range | None:
    """Return the bytes asked for of so many: None for all of them, an empty range when it begins after the end."""
    found = _ONE.fullmatch(header or "")
    if found is None or found["first"] == found["last"] == "":
        return None
    if not found["first"]:
        return range(max(0, size - int(found["last"])), size)
    first = int(found["first"])
    end = int(found["last"]) + 1 if found["last"] else size
    if end <= first < size:
        return None  # it ends before it begins: no range at all
    return range(first, min(end, size))


def begins_at(header: str | None) -> int:
    """Return the first byte asked for; 0 when none is named."""
    found = _ONE.fullmatch(header or "")
    return int(found["first"]) if found and found["first"] else 0
