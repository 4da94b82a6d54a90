"""The Batch object: what OpenAI's clients read of a batch, and beside it, in `x_` fields, what only we know. Pure.

intake:  validating, releasing ─► validating     cancelling ─► cancelling     failed, cancelled, expired as they are
batch:   in_progress, cancelling as they are     expiring ─► finalizing
         completed, expired ─► finalizing, cancelled ─► cancelling: until their output files are written
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from batchmill.openrouter.money import to_usd, usd_if_known
from batchmill.service.compat.ids import error_file_id, output_file_id
from batchmill.store.handed import Handed
from batchmill.store.intakes import Fault, Intake, IntakeState
from batchmill.store.model import BatchState, BatchStatus, Priority

ENDPOINT = "/v1/chat/completions"

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
Metadata = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={"additionalProperties": {"type": "string"}})]

_LONGEST_ETA = 365 * 86_400
_INTAKE_STATUS: dict[IntakeState, Status] = {
    IntakeState.VALIDATING: "validating",
    IntakeState.RELEASING: "validating",
    IntakeState.CANCELLING: "cancelling",
    IntakeState.FAILED: "failed",
    IntakeState.CANCELLED: "cancelled",
    IntakeState.EXPIRED: "expired",
}
_BATCH_STATUS: dict[BatchState, Status] = {
    BatchState.VALIDATING: "validating",
    BatchState.IN_PROGRESS: "in_progress",
    BatchState.CANCELLING: "cancelling",
    BatchState.EXPIRING: "finalizing",
    BatchState.COMPLETED: "completed",
    BatchState.CANCELLED: "cancelled",
    BatchState.EXPIRED: "expired",
}
_UNTIL_WRITTEN: dict[BatchState, Status] = {
    BatchState.COMPLETED: "finalizing",
    BatchState.EXPIRED: "finalizing",
    BatchState.CANCELLED: "cancelling",
}


class RequestCounts(msgspec.Struct, frozen=True):
    """Lines in all, with an answer, and that failed. Those that were cancelled or expired are in `x_counts`."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchErrors(msgspec.Struct, frozen=True):
    """Why a batch failed, the first twenty reasons."""

    data: tuple[Fault, ...]
    object: Literal["list"] = "list"


class InputDetails(msgspec.Struct, frozen=True):
    """Of the input tokens."""

    cached_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    """Of the output tokens."""

    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, frozen=True):
    """Tokens of all lines, as the upstream counted them."""

    input_tokens: int = 0
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int = 0
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int = 0


class Cost(msgspec.Struct, frozen=True):
    """Money in USD. `held_usd` is reserved for lines in the air, null without a cap; `cap_usd` is the batch's own."""

    spent_usd: Decimal = Decimal(0)
    held_usd: Decimal | None = None
    cap_usd: Decimal | None = None
    estimate_usd: Decimal | None = None


class Counts(msgspec.Struct, frozen=True):
    """Lines by what became of them: all but `cached`, which are among the succeeded, add up to the total."""

    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    cached: int = 0


class Money(msgspec.Struct, frozen=True):
    """What the books say of a batch's own budget (nano-dollars), and its likely cost as of its creation."""

    held: int | None = None
    cap: int | None = None
    estimate: int | None = None


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """A batch. Times in unix seconds, null until reached."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str = ENDPOINT
    model: str | None = None
    errors: BatchErrors | None = None
    input_file_id: str = ""
    completion_window: str = "24h"
    status: Status
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: BatchUsage = BatchUsage()
    metadata: Metadata | None = None
    x_cost: Cost = Cost()
    x_eta: int | None = None
    x_blocked_on: str | None = None
    x_counts: Counts = Counts()
    x_project: str = "default"
    x_priority: Priority = Priority.NORMAL
    x_tags: dict[str, str] = {}
    x_models: dict[str, int] = {}
    x_retry_of: str | None = None
    x_output_file_id: str | None = None
    x_error_file_id: str | None = None


class BatchList(msgspec.Struct, frozen=True):
    """A page of batches, newest first."""

    data: tuple[BatchObject, ...]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None
    object: Literal["list"] = "list"


def of_intake(intake: Intake) -> BatchObject:
    """Return a batch that is none yet, or never came to be one."""
    asked, handed = intake.asked, intake.asked.handed
    return BatchObject(
        id=intake.id,
        endpoint=handed.endpoint,
        errors=BatchErrors(intake.faults) if intake.state is IntakeState.FAILED else None,
        input_file_id=handed.input_file_id,
        completion_window=handed.completion_window,
        status=_INTAKE_STATUS[intake.state],
        created_at=handed.created_at,
        expires_at=asked.expires_at,
        failed_at=intake.failed_at,
        expired_at=intake.expired_at,
        cancelling_at=intake.cancelling_at,
        cancelled_at=intake.cancelled_at,
        metadata=handed.metadata,
        x_cost=Cost(cap_usd=usd_if_known(asked.max_cost)),
        x_blocked_on=None if intake.state.terminal else intake.trouble,
        x_project=asked.project,
        x_priority=asked.priority,
        x_tags=tags_of(asked.tags),
        x_output_file_id=None if intake.state.terminal else output_file_id(intake.id),
        x_error_file_id=None if intake.state.terminal else error_file_id(intake.id),
    )


def of_batch(status: BatchStatus, money: Money, now: float) -> BatchObject:
    """Return a batch. `now` in unix seconds."""
    handed = status.handed or Handed(created_at=status.created_at)
    shown = shown_status(status)
    ended = shown in ("completed", "expired", "cancelled")
    return BatchObject(
        id=status.id,
        endpoint=handed.endpoint,
        model=next(iter(status.models)) if len(status.models) == 1 else None,
        input_file_id=handed.input_file_id,
        completion_window=handed.completion_window,
        status=shown,
        output_file_id=output_file_id(status.id) if ended and status.succeeded else None,
        error_file_id=error_file_id(status.id) if ended and status.done > status.succeeded else None,
        expires_at=status.expires_at,
        created_at=handed.created_at,
        in_progress_at=status.in_progress_at,
        finalizing_at=_finalizing_at(status),
        completed_at=_end(status.completed_at, status, ended=ended),
        expired_at=_end(status.expired_at, status, ended=ended),
        cancelling_at=status.cancelling_at,
        cancelled_at=_end(status.cancelled_at, status, ended=ended),
        request_counts=RequestCounts(status.total, status.succeeded, status.failed),
        usage=_usage(status),
        metadata=handed.metadata,
        x_cost=Cost(
            to_usd(status.cost), usd_if_known(money.held), usd_if_known(money.cap), usd_if_known(money.estimate)
        ),
        x_eta=eta(status, now),
        x_blocked_on=status.blocked_on,
        x_counts=_counts(status),
        x_project=status.project,
        x_priority=status.priority,
        x_tags=tags_of(status.tags),
        x_models=status.models,
        x_retry_of=status.retry_of,
        x_output_file_id=output_file_id(status.id),
        x_error_file_id=error_file_id(status.id),
    )


def shown_status(status: BatchStatus) -> Status:
    """Return the one of OpenAI's eight words that says how far a batch is."""
    if status.state.terminal and status.handed is not None and status.files_at is None:
        return _UNTIL_WRITTEN[status.state]
    return _BATCH_STATUS[status.state]


def eta(status: BatchStatus, now: float) -> int | None:
    """Return when the last line is likely to be done (unix seconds), at the pace until now; None while none is known.

    Lines of a batch that waits go on from where they are, so while something blocks it nobody can tell.
    """
    done = status.done - status.cached
    if status.state is not BatchState.IN_PROGRESS or status.blocked_on or done <= 0 or status.in_progress_at is None:
        return None
    left = (status.total - status.done) * max(1.0, now - status.in_progress_at) / done
    return round(now + left) if left <= _LONGEST_ETA else None


def tags_of(tags: tuple[str, ...]) -> dict[str, str]:
    """Return tags as a mapping."""
    return dict(tag.split("=", 1) for tag in tags)


def _finalizing_at(status: BatchStatus) -> int | None:
    """Return when nothing more was to be sent, though nobody cancelled the batch."""
    if status.finalizing_at is not None or status.state is BatchState.CANCELLED:
        return status.finalizing_at
    return status.completed_at or status.expired_at


def _end(at: int | None, status: BatchStatus, *, ended: bool) -> int | None:
    """Return when an end was reached that is shown: not before the output files were written."""
    if at is None or not ended:
        return None
    return at if status.handed is None or status.files_at is None else max(at, status.files_at)


def _usage(status: BatchStatus) -> BatchUsage:
    usage = status.usage
    return BatchUsage(
        usage.prompt_tokens,
        InputDetails(usage.cached_tokens),
        usage.completion_tokens,
        OutputDetails(usage.reasoning_tokens),
        usage.prompt_tokens + usage.completion_tokens,
    )


def _counts(status: BatchStatus) -> Counts:
    return Counts(
        status.pending,
        status.running,
        status.succeeded,
        status.failed,
        status.cancelled,
        status.expired,
        status.cached,
    )
