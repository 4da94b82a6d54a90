"""What goes wrong on this side of the commands."""

from batchmill.config.errors import BatchmillError


class OutputError(BatchmillError):
    """A file of results can't be written; the message names it and says what to do."""


class OutputClosedError(BatchmillError):
    """Whoever read our output has seen enough."""

    def __init__(self) -> None:
        super().__init__("nobody reads the output any more")
