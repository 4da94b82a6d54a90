"""Why lines handed over can't be used."""

from batchmill.config.errors import BatchmillError


class InputError(BatchmillError):
    """The lines can't be used; nothing was enqueued. The message names the file, the line and the field."""


class PricesUnknownError(InputError):
    """Nobody can tell now what the lines would cost; the same lines may be fine when the upstream answers again."""
