"""Why the archive can't be used."""

from batchmill.config.errors import BatchmillError


class ArchiveError(BatchmillError):
    """The archive can't be read or written; the message names the place and says what to do."""
