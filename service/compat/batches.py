"""/v1/batches: create, look at, list, cancel, retry, and why lines failed."""

import asyncio
from typing import Annotated

import msgspec
import structlog

from batchmill.producer import retrying
from batchmill.producer.intake import Birth
from batchmill.service import idempotency, problems
from batchmill.service.access.queued import check_queue
from batchmill.service.compat import batch_objects
from batchmill.service.compat.batch_objects import BatchList, BatchObject, Money
from batchmill.service.compat.causes import Causes, causes_of_batch, causes_of_intake
from batchmill.service.compat.creation import CreateBatch, asked_of
from batchmill.service.context import Service
from batchmill.service.identity import Identity, Scope
from batchmill.service.operations import Call, Operation
from batchmill.store import batch_index, batches, endings, files, intakes, keys, presence
from batchmill.store.clock import now_ms
from batchmill.store.errors import UnknownBatchError
from batchmill.store.handed import window_seconds
from batchmill.store.intakes import Intake, IntakeState
from batchmill.store.model import BatchState, BatchStatus
from batchmill.store.staging import new_batch_id

log = structlog.get_logger()

_TAG = "batches"
_CANCEL_PATIENCE = 1.0  # seconds that a client waits for the lines of its batch to be recorded as cancelled
_AT_ONCE = 20  # batches of a page that are looked up together

_cancelling: set[asyncio.Task[BatchState]] = set()  # the loop itself keeps no task alive


class ListBatches(msgspec.Struct, frozen=True):
    """Which page of the list."""

    after: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


Found = Intake | BatchStatus


async def create_batch(call: Call[None, CreateBatch]) -> BatchObject:
    """Create a batch of an uploaded file: it is looked at as soon as a gateway can, and `validating` until then.

    Lines may be for any models. What is wrong with them is told in `errors`; then nothing ran, unless `on_invalid` is
    "skip". The same `Idempotency-Key`, or a client's retry, gets the batch that was created first.
    """
    service, identity, body = call.service, call.identity, call.body
    said = msgspec.json.encode(msgspec.structs.replace(body, idempotency_key=None), order="sorted")
    name = idempotency.name_of(call.request, identity, said, body.idempotency_key)
    asked = asked_of(body, identity, service.settings, await now_ms(service.redis) // 1000)
    await _check_file(service, identity, body.input_file_id)
    if identity.max_queued_lines is not None and await intakes.known(service.redis, name) is None:
        await check_queue(service, identity, 1)  # how many lines there are is known later
    batch_id = new_batch_id()
    days = service.settings.results.retention_days
    known = await intakes.create(service.redis, service.upstream, batch_id, asked, retention_days=days, name=name)
    if known is not None:
        idempotency.check_same(known)
        batch_id = known.batch_id
    return await shown(service, identity, batch_id)


async def retrieve_batch(call: Call[None, None]) -> BatchObject:
    """Return a batch as it is now."""
    return await shown(call.service, call.identity, call.path("batch_id"))


async def list_batches(call: Call[ListBatches, None]) -> BatchList:
    """Return batches, newest first; `after` is the last one of the page before. What comes meanwhile shifts no page.

    Single lines of chat completions are not among them.
    """
    limit = call.query.limit
    found: list[BatchObject] = []
    after, more = call.query.after or None, True
    while more and len(found) <= limit:  # one more than asked for says whether there are more
        page = await batch_index.page(call.service.redis, call.identity.project, after, limit + 1 - len(found))
        found += await _objects(call.service, page.ids)
        more, after = page.has_more, page.ids[-1] if page.ids else after
    data = tuple(found[:limit])
    return BatchList(
        data, len(found) > limit, first_id=data[0].id if data else None, last_id=data[-1].id if data else None
    )


async def cancel_batch(call: Call[None, None]) -> BatchObject:
    """Send nothing more of a batch; what it has is kept. Asked again, it changes nothing.

    A batch that is over by itself can't be cancelled any more: 409.
    """
    service, batch_id = call.service, call.path("batch_id")
    found = await find(service, call.identity, batch_id)
    if isinstance(found, Intake):
        if found.state in (IntakeState.FAILED, IntakeState.EXPIRED):
            raise _over("cancel", batch_objects.of_intake(found).status)
        days = service.settings.results.retention_days
        if await intakes.cancel(service.redis, service.upstream, found, retention_days=days) is not None:
            return await shown(service, call.identity, batch_id)
        found = await batches.status(service.redis, batch_id)
    if found.state in (BatchState.COMPLETED, BatchState.EXPIRED):
        raise _over("cancel", batch_objects.shown_status(found))
    if not found.state.terminal:
        await _cancel(service, batch_id)
    return await shown(service, call.identity, batch_id)


async def retry_batch(call: Call[None, None]) -> BatchObject:
    """Create a batch of the failed lines of a finished one, on the same conditions. Asked again, it is the same one.

    It is named as any other, and `x_retry_of` says whose lines it has.
    """
    service, batch_id = call.service, call.path("batch_id")
    found = await find(service, call.identity, batch_id)
    if isinstance(found, Intake):
        raise _over("retry", batch_objects.of_intake(found).status)
    if not found.state.terminal:
        raise _over("retry", batch_objects.shown_status(found))
    if await retrying.retried(service.redis, batch_id) is None:
        await check_queue(service, call.identity, found.failed + found.expired)
    birth = await _birth_again(service, call.identity, found)
    key = call.identity.key_id
    new_id, _ = await retrying.retry(service.redis, batch_id, service.settings, birth=birth, key=key)
    return await shown(service, call.identity, new_id)


async def list_batch_errors(call: Call[None, None]) -> Causes:
    """Return why lines of a batch failed, grouped by cause, the most frequent first."""
    found = await find(call.service, call.identity, call.path("batch_id"))
    if isinstance(found, Intake):
        return causes_of_intake(found)
    return await causes_of_batch(call.service, found)


async def find(service: Service, identity: Identity, batch_id: str) -> Found:
    """Return a batch as far as it has come. Raises ApiError 404, also for what belongs to another project."""
    found = await _look_up(service, batch_id)
    if found is None or not identity.sees(found.asked.project if isinstance(found, Intake) else found.project):
        raise problems.not_found(f"No batch found with id '{batch_id}'.")
    return found


async def shown(service: Service, identity: Identity, batch_id: str) -> BatchObject:
    """Return the Batch object. Raises ApiError 404."""
    return await object_of(service, await find(service, identity, batch_id))


async def object_of(service: Service, found: Found) -> BatchObject:
    """Return the Batch object of what was found."""
    if isinstance(found, Intake):
        return batch_objects.of_intake(found)
    return batch_objects.of_batch(found, await _money(service, found), await now_ms(service.redis) / 1000)


async def _look_up(service: Service, batch_id: str) -> Found | None:
    """The intake is looked for first: it is gone only when there is a batch."""
    intake = await intakes.find(service.redis, batch_id)
    if intake is not None and intake.state.terminal:
        return intake
    try:
        status = await batches.status(service.redis, batch_id)
    except UnknownBatchError:
        return intake
    to_be_cancelled = intake is not None and intake.state is IntakeState.CANCELLING
    return intake if to_be_cancelled and status.state is BatchState.IN_PROGRESS else status


async def _objects(service: Service, ids: tuple[str, ...]) -> list[BatchObject]:
    """Return the batches of these ids that are still there."""
    objects: list[BatchObject] = []
    for start in range(0, len(ids), _AT_ONCE):
        found = await asyncio.gather(*(_look_up(service, each) for each in ids[start : start + _AT_ONCE]))
        objects += await asyncio.gather(*(object_of(service, each) for each in found if each is not None))
    return objects


async def _money(service: Service, status: BatchStatus) -> Money:
    if status.max_cost is None:
        return Money(await _held(service, status), estimate=status.estimate)
    if status.state.terminal:
        return Money(0, status.max_cost, status.estimate)
    name = keys.batch_budget(status.upstream, status.id)
    held, limit = await service.redis.execute_command("HMGET", name, "held", "limit")
    return Money(int(held or 0), int(limit or status.max_cost), status.estimate)


async def _held(service: Service, status: BatchStatus) -> int | None:
    """Return what is held for a batch without a budget of its own; None when it is over.

    The holds of all workers are read for that: once a second for all batches that anybody looks at, and only then.
    """
    if status.state.terminal:
        return None
    if not status.running:
        return 0
    name, upstream = ("held", status.upstream), status.upstream
    held = await service.moments.get(name, lambda: presence.held_by_batch(service.redis, upstream))
    return held.get(status.id, 0)


async def _check_file(service: Service, identity: Identity, file_id: str) -> None:
    """Refuse a file of another purpose. One that is unknown fails the batch later, as OpenAI has it."""
    record = await files.get(service.redis, file_id)
    if record is not None and identity.sees(record.project) and record.purpose != files.UPLOADED:
        raise problems.invalid(
            f"Invalid purpose of file '{file_id}': a batch is made of a file with the purpose '{files.UPLOADED}', "
            f"not '{record.purpose}'.",
            "input_file_id",
            "invalid_value",
        )


async def _birth_again(service: Service, identity: Identity, status: BatchStatus) -> Birth:
    """Return the birth of a batch that tries lines of another again: its window begins anew."""
    if status.handed is None:
        return Birth()
    now = await now_ms(service.redis) // 1000
    handed = msgspec.structs.replace(status.handed, created_at=now, key_id=identity.key_id)
    return Birth(handed=handed, expires_at=now + window_seconds(handed.completion_window))


async def _cancel(service: Service, batch_id: str) -> None:
    """Cancel, and wait only a little: the lines of a large batch are recorded after the answer."""
    days = service.settings.results.retention_days
    task = asyncio.create_task(endings.cancel(service.redis, batch_id, retention_days=days))
    _cancelling.add(task)
    task.add_done_callback(_cancelled)
    done, _ = await asyncio.wait({task}, timeout=_CANCEL_PATIENCE)
    if done:
        task.result()


def _cancelled(task: asyncio.Task[BatchState]) -> None:
    _cancelling.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("batch.cancel_failed", error=str(error))


def _over(what: str, status: str) -> problems.ApiError:
    return problems.conflict(f"Cannot {what} a batch with status '{status}'.")


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/batches",
        handler=create_batch,
        tag=_TAG,
        summary="Create a batch",
        scope=Scope.SUBMIT,
        body=CreateBatch,
        answer=BatchObject,
        headers={"Idempotency-Key": "The same body under the same key is the first batch; another one is 400."},
    ),
    Operation(
        method="GET",
        path="/v1/batches",
        handler=list_batches,
        tag=_TAG,
        summary="List batches",
        scope=Scope.READ,
        query=ListBatches,
        answer=BatchList,
    ),
    Operation(
        method="GET",
        path="/v1/batches/{batch_id}",
        handler=retrieve_batch,
        tag=_TAG,
        summary="Retrieve a batch",
        scope=Scope.READ,
        answer=BatchObject,
        errors=(404,),
    ),
    Operation(
        method="POST",
        path="/v1/batches/{batch_id}/cancel",
        handler=cancel_batch,
        tag=_TAG,
        summary="Cancel a batch",
        scope=Scope.SUBMIT,
        answer=BatchObject,
        errors=(404, 409),
    ),
    Operation(
        method="POST",
        path="/v1/batches/{batch_id}/retry",
        handler=retry_batch,
        tag=_TAG,
        summary="Try the failed lines of a batch again",
        scope=Scope.SUBMIT,
        answer=BatchObject,
        errors=(400, 404, 409),
    ),
    Operation(
        method="GET",
        path="/v1/batches/{batch_id}/errors",
        handler=list_batch_errors,
        tag=_TAG,
        summary="Why lines of a batch failed",
        scope=Scope.READ,
        answer=Causes,
        errors=(404,),
    ),
)
