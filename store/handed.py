"""What is said of a batch over HTTP, and kept with it from its creation to its end."""

import msgspec

WINDOW = "24h"
"""The completion window that OpenAI's clients ask for."""


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
