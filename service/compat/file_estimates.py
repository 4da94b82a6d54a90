"""`GET /v1/files/{file_id}/estimate`: what the lines of a file would cost, and what would stop them."""

import asyncio
from decimal import Decimal

import msgspec

from batchmill.config.strategy import Strategy
from batchmill.config.windows import OF_BATCH
from batchmill.openrouter.money import usd_if_known
from batchmill.producer.errors import PricesUnknownError
from batchmill.producer.estimate import BudgetEstimate, Estimate, ModelEstimate
from batchmill.producer.intake import describe
from batchmill.service import problems
from batchmill.service.compat.contents import no_such
from batchmill.service.compat.files import file_for, local_copy
from batchmill.service.identity import Scope
from batchmill.service.operations import Call, Operation
from batchmill.storage.blobs import MissingBlobError

_AT_ONCE = 4  # each has a copy of its file on our disk


class Conditions(msgspec.Struct, frozen=True):
    """How the lines would be handed over. `max_cost_usd` is a cap of their batch, `fallback_models` with commas."""

    max_cost_usd: str | None = None
    fallback_models: str = ""
    strategy: Strategy | None = None


class ModelCost(msgspec.Struct, frozen=True, kw_only=True):
    """The lines that are likely to go to one model. Null: no price is known.

    `answers_observed`: how long its answers are was seen lately, and is no guess.
    """

    model: str
    lines: int
    prompt_tokens: int
    completion_tokens: int
    answers_observed: bool
    likely_cost_usd: Decimal | None
    max_cost_usd: Decimal | None


class BudgetRoom(msgspec.Struct, frozen=True, kw_only=True):
    """A budget that covers some of the lines; `lines_stopped` of them find no room in it before it turns or is raised.

    `max_cost` is the cap of the batch itself. Of a budget that is not the project's own the money is null.
    """

    name: str
    window: str
    lines: int
    lines_stopped: int
    limit_usd: Decimal | None
    free_usd: Decimal | None
    resets_at: int | None


class FileEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What the lines of a file would come to if they were handed over now. Nothing is sent, nothing is held.

    `lines` can run, `bad_lines` can't; `errors` tells of the first of them. `lines_that_fit` find room in all budgets.
    `max_cost_usd` is the provable worst case of one call for each line.
    """

    file_id: str
    lines: int
    bad_lines: int
    errors: list[str]
    likely_cost_usd: Decimal | None
    max_cost_usd: Decimal | None
    lines_that_fit: int
    seconds: float | None
    seconds_because: str | None
    models: list[ModelCost]
    unpriced_models: dict[str, int]
    budgets: list[BudgetRoom]
    object: str = "file.estimate"


async def estimate_file(call: Call[Conditions, None]) -> FileEstimate:
    """Say what the lines of an uploaded file would cost by model: likely, and at most; and which budget stops them."""
    service, query, file_id = call.service, call.query, call.path("file_id")
    record = await file_for(service, call.identity, file_id)
    if not record.blob:
        raise problems.conflict(f"Cannot estimate '{file_id}': its batch is not over.")
    turn = service.moments.keep("estimates", lambda: asyncio.Semaphore(_AT_ONCE))
    try:
        async with turn, local_copy(service, record) as path:
            found = await service.producer.estimate(
                path,
                name=record.filename,
                max_cost=query.max_cost_usd,
                project=record.project,
                fallback=[name for name in query.fallback_models.split(",") if name],
                strategy=query.strategy,
            )
    except MissingBlobError as error:
        raise no_such(file_id) from error
    except PricesUnknownError as error:
        raise problems.unavailable(f"An estimate can't be made now: {error}.") from error
    return _shown(file_id, found, own=None if call.identity.project is None else record.project)


def _shown(file_id: str, found: Estimate, own: str | None) -> FileEstimate:
    return FileEstimate(
        file_id=file_id,
        lines=found.lines,
        bad_lines=found.bad_count,
        errors=[describe(bad) for bad in found.bad],
        likely_cost_usd=usd_if_known(found.likely),
        max_cost_usd=usd_if_known(found.worst),
        lines_that_fit=found.fits,
        seconds=round(found.finish.seconds, 1) if found.finish else None,
        seconds_because=found.finish.because if found.finish else None,
        models=[_model(each) for each in found.models],
        unpriced_models=found.unpriced,
        budgets=[_budget(each, own) for each in found.budgets],
    )


def _model(each: ModelEstimate) -> ModelCost:
    return ModelCost(
        model=each.model,
        lines=each.lines,
        prompt_tokens=each.prompt_tokens,
        completion_tokens=each.completion_tokens,
        answers_observed=each.observed,
        likely_cost_usd=usd_if_known(each.likely),
        max_cost_usd=usd_if_known(each.worst),
    )


def _budget(each: BudgetEstimate, own: str | None) -> BudgetRoom:
    """Return a budget as a project may see it: `own` is whose key asks, None for who sees everything."""
    capped = each.window == OF_BATCH
    told = capped or own is None or each.project == own
    return BudgetRoom(
        name="max_cost" if capped else each.name,
        window=each.window,
        lines=each.lines,
        lines_stopped=each.stopped,
        limit_usd=usd_if_known(each.limit) if told else None,
        free_usd=usd_if_known(each.free) if told else None,
        resets_at=None if each.resets_ms is None else each.resets_ms // 1000,
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="GET", path="/v1/files/{file_id}/estimate", handler=estimate_file, tag="files",
        summary="Estimate what a file would cost", scope=Scope.READ, query=Conditions, answer=FileEstimate,
        errors=(400, 404, 409),
    ),
)  # fmt: skip
"""What a file would cost."""
