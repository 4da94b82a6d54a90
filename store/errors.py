"""Why Redis can't be used, or what was asked for is not in it."""

from collections.abc import Sequence

from batchmill.config.errors import BatchmillError
from batchmill.config.policy import BATCH_PREFIX
from batchmill.config.spelling import nearest


class StoreError(BatchmillError):
    """Redis can't be reached, or must not be used as it is; the message says which and what to do."""


class UnknownBatchError(BatchmillError):
    """There is no batch with that id (any more)."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"no batch '{batch_id}' here; `batchmill status` lists those that there are")


class UnknownLineError(BatchmillError):
    """The batch has no line of that custom id whose tokens could be watched."""

    def __init__(self, batch_id: str, custom_id: str) -> None:
        super().__init__(
            f"no line '{custom_id}' with live tokens in {batch_id}; a line has them that asked for it when it was "
            'handed over ("stream_to": true), its result is in `batchmill results`'
        )


class UnknownBudgetError(BatchmillError):
    """There is no budget of that name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        if name.startswith(BATCH_PREFIX):
            way_on = "; a batch has one when it was submitted with --max-cost, and a rehearsal's takes --simulate"
        else:
            way_on = nearest(name, known) if known else "; there are none: they are in the config file as [[budgets]]"
        super().__init__(f"no budget '{name}' here{way_on}")


class UnknownLimitError(BatchmillError):
    """There is no rate limit of that name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no limit '{name}' here{nearest(name, known) if known else ''}")
