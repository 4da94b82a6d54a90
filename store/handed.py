"""What is said of a batch over HTTP, and kept with it from its creation to its end."""

import re

import msgspec

WINDOW = "24h"
"""The completion window that OpenAI's clients ask for."""

_WINDOW = re.compile(r"([1-9][0-9]{0,3})([hd])")
_SECONDS = {"h": 3600, "d": 86_400}
_LONGEST = 30 * 86_400


def window_seconds(text: str) -> int:
    """Return how long a completion window is. Raises ValueError for what is none: 1h to 720h, or 1d to 30d."""
    found = _WINDOW.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"a completion window is 1h to 720h, or 1d to 30d, not {text!r}")
    return seconds


class Handed(msgspec.Struct, frozen=True, kw_only=True):
    """How a batch was created. Times in unix seconds of the Redis clock.

    `output_seconds`: how long its output files are kept after they were made, None: as long as its results.
    """

    input_file_id: str = ""
    endpoint: str = "/v1/chat/completions"
    completion_window: str = WINDOW
    metadata: dict[str, str] | None = None
    created_at: int
    output_seconds: int | None = None
    webhook_url: str | None = None
    key_id: str | None = None
