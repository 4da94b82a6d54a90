"""`/v1/files`: what OpenAI's clients upload, list, look at, read and delete."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import structlog
from redis.asyncio import Redis
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from batchmill.service import idempotency, problems
from batchmill.service.bodies import parts_of
from batchmill.service.compat import contents, outputs, uploads
from batchmill.service.compat.ids import blob_of
from batchmill.service.compat.outputs import Output
from batchmill.service.context import Service
from batchmill.service.identity import Identity, Scope
from batchmill.service.multipart import Form
from batchmill.service.operations import Answer, Call, Operation
from batchmill.storage.blobs import Blobs, MissingBlobError, StorageError
from batchmill.store import files
from batchmill.store.files import FileRecord

log = structlog.get_logger()

_AROUND = 256 * 1024  # bytes of a form beside its file
_MOST_LISTED = 10_000
_LINGER = 1.0  # seconds for which we listen on to who is still sending what was refused
_SWEEP_EVERY = 30.0  # seconds


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """A file, as OpenAI's clients know it. Times in unix seconds."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: Literal["file"] = "file"
    status: Literal["uploaded", "processed", "error"] = "processed"
    expires_at: int | None = None
    status_details: str | None = None


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of files."""

    data: list[FileObject]
    has_more: bool
    object: Literal["list"] = "list"
    first_id: str | None = None
    last_id: str | None = None


class DeletedFile(msgspec.Struct, frozen=True):
    """A file that was deleted."""

    id: str
    deleted: Literal[True] = True
    object: Literal["file"] = "file"


class UploadForm(msgspec.Struct, frozen=True, rename={"anchor": uploads.ANCHOR, "seconds": uploads.SECONDS}):
    """The parts of an upload, in any order."""

    file: Annotated[str, msgspec.Meta(extra_json_schema={"format": "binary"})]
    purpose: Literal["batch"]
    anchor: Literal["created_at"] | None = None
    seconds: Annotated[int, msgspec.Meta(ge=3600, le=2_592_000)] | None = None


class Page(msgspec.Struct, frozen=True):
    """Which files to list."""

    after: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=_MOST_LISTED)] = _MOST_LISTED
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


def as_object(record: FileRecord) -> FileObject:
    """Return a file as it is shown. One that still grows is `uploaded`, for it is not complete."""
    return FileObject(
        id=record.id,
        bytes=record.bytes,
        created_at=record.created_at,
        filename=record.filename,
        purpose=record.purpose,
        status="processed" if record.blob else "uploaded",
        expires_at=record.expires_at,
    )


async def file_for(service: Service, identity: Identity, file_id: str) -> FileRecord:
    """Return a file that who asks may know of; one of a batch that is not in storage has no `blob`. ApiError 404."""
    found = await _found(service, identity, file_id)
    return found if isinstance(found, FileRecord) else await outputs.record_of(service, found)


async def _found(service: Service, identity: Identity, file_id: str, *, empty: bool = False) -> FileRecord | Output:
    """Return a file in storage, or one that is only in its batch. Raises ApiError 404."""
    found: FileRecord | Output | None = await files.get(service.redis, file_id)
    if found is None:
        found = await outputs.output_of(service, file_id, empty=empty)
    if found is None:  # it may have been written between the two looks
        found = await files.get(service.redis, file_id)
    if found is None or not identity.sees(found.project):
        raise contents.no_such(file_id)
    return found


@contextlib.asynccontextmanager
async def local_copy(service: Service, record: FileRecord) -> AsyncIterator[Path]:
    """Yield a local copy of an uploaded file. Raises MissingBlobError when its bytes are gone."""
    with tempfile.TemporaryDirectory(prefix="batchmill-") as folder:
        path = Path(folder, "input.jsonl")
        await service.blobs.fetch(record.blob, path)
        yield path


async def create_file(call: Call[None, Form | None]) -> Answer:
    """Upload a file of lines for a batch, as a multipart form whose parts may come in any order.

    The same upload sent again with the same `Idempotency-Key`, or by a client's silent retry, answers the same file.
    """
    headers = call.request.headers
    parts = body_of(call.service, call.request)
    again = call.body is not None or idempotency.is_again(call.request)  # forms are clicked twice
    sent = uploads.Sent(call.identity.home, headers.get(idempotency.HEADER), again)
    try:
        form = call.body or Form(headers.get("content-type", ""), parts)
        record = await uploads.take(call.service, form, sent)
    except problems.ApiError:
        await hear_out(call.request)
        raise
    return Answer(as_object(record))


def body_of(service: Service, request: Request) -> AsyncIterator[bytes]:
    """Return the parts of a form with a file, as they come. Raises as `parts_of`."""
    limits = service.settings.service
    return parts_of(request, limits.max_upload_bytes + _AROUND, limits.body_timeout)


async def hear_out(request: Request) -> None:
    """Let a client finish sending, for a moment: one that is cut off in mid-sentence may never read our answer."""
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_LINGER):
            async for _ in request.stream():
                pass


async def list_files(call: Call[Page, None]) -> FileList:
    """List files, uploaded ones and those that batches made, newest first or as `order` says."""
    query = call.query
    found = await files.page(
        call.service.redis,
        call.identity.project,
        after=query.after,
        limit=query.limit,
        newest_first=query.order == "desc",
        purpose=query.purpose,
    )
    if found is None:
        raise problems.invalid(f"Invalid value for 'after': no such file '{query.after}'.", "after", "invalid_value")
    records, has_more = found
    ids = [record.id for record in records]
    data = [as_object(record) for record in records]
    return FileList(data=data, has_more=has_more, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None)


async def retrieve_file(call: Call[None, None]) -> FileObject:
    """Tell what is known of a file. A batch's output file grows while the batch runs: `bytes` is its size by now."""
    return as_object(await file_for(call.service, call.identity, call.path("file_id")))


async def delete_file(call: Call[None, None]) -> DeletedFile:
    """Delete a file. Batches that were made of it go on, unless they are still validating; then they fail."""
    service, file_id = call.service, call.path("file_id")
    record = await file_for(service, call.identity, file_id)
    if not record.blob:
        raise problems.conflict(f"Cannot delete '{file_id}': its batch is not over, or its files are not written yet.")
    if not await files.delete(service.redis, record):
        raise contents.no_such(file_id)
    with contextlib.suppress(StorageError):  # the sweep removes the bytes later
        await service.blobs.delete(record.blob)
    return DeletedFile(file_id)


async def file_content(call: Call[contents.Wanted, None]) -> Response:
    """Read a file: the whole, a `Range` of bytes, or what comes `after_line`.

    A batch's output can be read while the batch runs: `X-Incomplete: true` says that more will come, `X-Last-Line`
    how many lines there are by now. Bytes that are there never change, so `Range: bytes=N-` goes on where a reader
    stopped; with `wait=1` the answer waits up to 30 seconds for something new.
    """
    found = await _found(call.service, call.identity, call.path("file_id"), empty=True)
    if isinstance(found, FileRecord):
        try:
            return await contents.stored(call.service, found, call.request, call.query)
        except MissingBlobError as error:
            lost = await outputs.kept(call.service, found.id)
            if lost is None:
                raise contents.no_such(found.id) from error
            log.warning("file.lost", file=found.id, rendered=True)
            found = lost
    return await contents.growing(call.service, found, call.request, call.query)


async def sweep_files(service: Service) -> None:
    """Remove the bytes of files that have expired, were deleted, or never came to be. A background task."""
    while True:
        if await files.take_turn(service.redis, _SWEEP_EVERY):
            await sweep(service.redis, service.blobs)
            await service.blobs.tidy()
        await asyncio.sleep(_SWEEP_EVERY)


async def sweep(redis: Redis, blobs: Blobs) -> None:
    """Remove what may go now. Safe to interrupt, and to run in many gateways at once."""
    while gone := await files.doomed(redis):
        for each in gone:
            await blobs.delete(blob_of(each.id))
            await files.forget(redis, each)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="POST", path="/v1/files", handler=create_file, tag="files", summary="Upload a file",
        scope=Scope.SUBMIT, body=UploadForm, raw=True, media="multipart/form-data", answer=FileObject,
        headers={"Idempotency-Key": "The same file under the same key is the first File object; another one is 400."},
    ),
    Operation(
        method="GET", path="/v1/files", handler=list_files, tag="files", summary="List files",
        scope=Scope.READ, query=Page, answer=FileList,
    ),
    Operation(
        method="GET", path="/v1/files/{file_id}", handler=retrieve_file, tag="files", summary="Look at a file",
        scope=Scope.READ, answer=FileObject, errors=(404,),
    ),
    Operation(
        method="DELETE", path="/v1/files/{file_id}", handler=delete_file, tag="files", summary="Delete a file",
        scope=Scope.SUBMIT, answer=DeletedFile, errors=(404, 409),
    ),
    Operation(
        method="GET", path="/v1/files/{file_id}/content", handler=file_content, tag="files", summary="Read a file",
        scope=Scope.READ, query=contents.Wanted, answer_media="application/jsonl", also=(206, 304),
        errors=(404, 416), headers={
            "Range": "One range of bytes: `bytes=0-99`, `bytes=100-`, `bytes=-50`. Answered with 206, or 416.",
            "If-Range": "The `ETag` that the range is of; of another one the whole file is answered.",
            "If-None-Match": "The `ETag` of what the reader has: 304 when that is the file.",
        },
    ),
)  # fmt: skip
"""What can be done with files."""
