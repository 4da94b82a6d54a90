"""Why lines handed over can't be used."""

from batchmill.config.errors import BatchmillError


class InputError(BatchmillError):
    """The lines can't be used; nothing was enqueued. The message names the file, the line and the field."""
