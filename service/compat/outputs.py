"""Output and error files: found by their batch, and written to storage once the batch is over.

    batch runs: rendered from its results ──► over: still so ──► written, under a lease ──► a file like any

Nothing is lost by a gateway that dies: what it wrote is written again, byte for byte the same, by another.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator

import msgspec
import structlog

from batchmill.config.errors import BatchmillError
from batchmill.service.compat.growing import CutError, Growing, lines_of
from batchmill.service.compat.ids import batch_of, blob_of, error_file_id, output_file_id
from batchmill.service.context import Service
from batchmill.storage.blobs import StorageError
from batchmill.store import batches, files, intakes, outputs
from batchmill.store.clock import now_ms
from batchmill.store.errors import UnknownBatchError
from batchmill.store.files import FileRecord
from batchmill.store.model import BatchState, BatchStatus

log = structlog.get_logger()

LEASE = 60.0
"""Seconds after which another gateway goes on with what a silent one was writing."""

_PAUSE = 5.0  # seconds after a failure until somebody tries again
_DAY = 86_400
_UNWRITTEN = "the storage of files takes no output files just now: it is full, read-only, or can't be reached"


class Output(msgspec.Struct, frozen=True):
    """A file of a batch that is not in storage: because it grows, or because nobody asked for it over HTTP."""

    id: str
    status: BatchStatus
    errors: bool

    @property
    def project(self) -> str:
        """Whose it is."""
        return self.status.project

    @property
    def lines(self) -> int:
        """How many lines it has by now."""
        return lines_of(self.status, errors=self.errors)


def filename_of(batch_id: str, *, errors: bool) -> str:
    """Return the name that a batch's file has for people, as OpenAI's."""
    return f"{batch_id}_{'error' if errors else 'output'}.jsonl"


async def output_of(service: Service, file_id: str, *, empty: bool = False) -> Output | None:
    """Return the file of a batch that is not in storage; None when there is none of that id, or no more.

    It exists from its first line on; with `empty` from its batch's beginning, so that a reader may wait.
    """
    named = batch_of(file_id)
    if named is None:
        return None
    batch_id, errors = named
    try:
        status = await _status(service, batch_id)
    except UnknownBatchError:
        return None
    if status.files_at is not None:
        return None  # it was deleted, has expired, or would have been empty
    found = Output(file_id, status, errors)
    return found if found.lines or (empty and not status.state.terminal) else None


async def kept(service: Service, file_id: str) -> Output | None:
    """Return a batch's file by its results, though it was written: the storage may have lost it. None: no results."""
    named = batch_of(file_id)
    if named is None:
        return None
    batch_id, errors = named
    try:
        return Output(file_id, await batches.status(service.redis, batch_id), errors)
    except UnknownBatchError:
        return None


async def looked_at(service: Service, output: Output) -> Output:
    """Return a file as it is now. Raises UnknownBatchError."""
    return Output(output.id, await _status(service, output.status.id), output.errors)


async def _status(service: Service, batch_id: str) -> BatchStatus:
    """Return a batch, also one that is still validating: it has no lines yet. Raises UnknownBatchError."""
    try:
        return await batches.status(service.redis, batch_id)
    except UnknownBatchError:
        intake = await intakes.find(service.redis, batch_id)
        if intake is None:  # it may have become a batch between the two looks
            return await batches.status(service.redis, batch_id)
        if intake.state.terminal:
            raise
        return BatchStatus(
            id=batch_id,
            state=BatchState.VALIDATING,
            total=0,
            created_at=intake.asked.handed.created_at,
            project=intake.asked.project,
        )


async def record_of(service: Service, output: Output) -> FileRecord:
    """Return what can be said of a file that is not in storage, as it is now."""
    growing = Growing(service.redis, output.status.id, errors=output.errors)
    return FileRecord(
        id=output.id,
        project=output.status.project,
        bytes=(await growing.measure(output.lines)).bytes,
        created_at=output.status.created_at,
        expires_at=None,
        filename=filename_of(output.status.id, errors=output.errors),
        purpose=files.OUTPUT,
        blob="",
    )


async def write_outputs(service: Service) -> None:
    """Write the files of all batches that are over and have none yet. A background task."""
    us = secrets.token_hex(8)
    for batch_id in await outputs.waiting(service.redis):
        if not await outputs.take(service.redis, batch_id, us, LEASE):
            continue
        try:
            await _write(service, batch_id)
        except (BatchmillError, CutError) as error:  # the others may fare better; this one's turn comes again
            await outputs.renew(service.redis, batch_id, _PAUSE)
            log.warning("service.outputs_not_written", batch_id=batch_id, error=str(error))
        except asyncio.CancelledError:  # we are to end: nobody should have to wait for our lease
            await outputs.renew(service.redis, batch_id, _PAUSE)
            raise


async def _write(service: Service, batch_id: str) -> None:
    try:
        status = await batches.status(service.redis, batch_id)
    except UnknownBatchError:
        await outputs.drop(service.redis, batch_id)
        return
    if not status.state.terminal:
        return
    try:
        for errors in (False, True):
            if lines_of(status, errors=errors):
                await _write_file(service, status, errors=errors)
    except StorageError:
        await batches.say_blocked(service.redis, status.upstream, batch_id, "storage", _UNWRITTEN, 6 * _PAUSE)
        raise
    output, failures = (lines_of(status, errors=errors) > 0 for errors in (False, True))
    if not await outputs.mark_written(service.redis, status, output=output, errors=failures):
        await _take_back(service, batch_id)


async def _take_back(service: Service, batch_id: str) -> None:
    """Delete the files of a batch that somebody purged while they were written."""
    for file_id in (output_file_id(batch_id), error_file_id(batch_id)):
        if (record := await files.get(service.redis, file_id)) is not None:
            await files.delete(service.redis, record)


async def _write_file(service: Service, status: BatchStatus, *, errors: bool) -> None:
    file_id = error_file_id(status.id) if errors else output_file_id(status.id)
    if await files.get(service.redis, file_id) is not None:
        return  # by who died before the batch was told
    blob = blob_of(file_id)
    await files.announce(service.redis, file_id, status.project)
    size = await service.blobs.put(blob, _rendered(service, status, errors=errors))
    now = await now_ms(service.redis) // 1000
    life = status.handed.output_seconds if status.handed else None
    record = FileRecord(
        id=file_id,
        project=status.project,
        bytes=size,
        created_at=now,
        expires_at=now + (life or service.settings.results.retention_days * _DAY),
        filename=filename_of(status.id, errors=errors),
        purpose=files.OUTPUT,
        blob=blob,
    )
    if await outputs.written(service.redis, status.id) and await files.get(service.redis, file_id) is None:
        await files.doom(service.redis, record)  # we were so slow that another wrote it, and its reader deleted it
        return
    await files.put(service.redis, record)


async def _rendered(service: Service, status: BatchStatus, *, errors: bool) -> AsyncIterator[bytes]:
    """Yield the lines of a file, and keep our lease on the batch."""
    loop = asyncio.get_running_loop()
    renewed = loop.time()
    growing = Growing(service.redis, status.id, errors=errors)
    async for part in growing.from_line(0, lines_of(status, errors=errors)):
        if loop.time() > renewed + LEASE / 4:
            renewed = loop.time()
            await outputs.renew(service.redis, status.id, LEASE)
        yield part
