"""Why Redis can't be used, or what was asked for is not in it."""

from batchmill.config.errors import BatchmillError


class StoreError(BatchmillError):
    """Redis can't be reached, or must not be used as it is; the message says which and what to do."""


class UnknownBatchError(BatchmillError):
    """There is no batch with that id (any more)."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"no batch '{batch_id}' here; `batchmill status` lists those that there are")
