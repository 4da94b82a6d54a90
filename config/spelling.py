"""What somebody probably meant."""

import difflib
from collections.abc import Collection


def nearest(key: str, known: Collection[str]) -> str:
    """Return the end of a sentence about a word that is not known: the nearest one that is, else all that are."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"
