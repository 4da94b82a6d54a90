"""The bytes of a file as an answer: from storage, or from the results of a batch that runs."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Annotated
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from batchmill.service import problems
from batchmill.service.compat import outputs
from batchmill.service.compat.growing import Growing
from batchmill.service.compat.outputs import Output
from batchmill.service.context import Service
from batchmill.service.ranges import begins_at, range_of
from batchmill.store.files import FileRecord

MEDIA = "application/jsonl"
_WAIT = 30.0  # seconds that a reader may wait for more
_LOOK_EVERY = 0.25


class Wanted(msgspec.Struct, frozen=True):
    """Which part of a file. `after_line` passes over so many lines; `wait` asks to wait for something new."""

    after_line: Annotated[int, msgspec.Meta(ge=0)] | None = None
    wait: bool = False


def no_such(file_id: str) -> problems.ApiError:
    """Return the error of a file that does not exist, or not for who asks."""
    return problems.not_found(f"No such File object: {file_id}", "id")


async def stored(service: Service, record: FileRecord, request: Request, wanted: Wanted) -> Response:
    """Answer with a file that is in storage. Raises ApiError, and MissingBlobError when its bytes are gone."""
    headers = {"etag": f'"{record.id}"', "accept-ranges": "bytes", **_saved_as(record.filename)}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    if wanted.after_line is not None:
        parts = _after_line(service.blobs.read(record.blob), wanted.after_line)
        return StreamingResponse(await _begun(parts), headers=headers, media_type=MEDIA)
    asked = range_of(request.headers.get("range"), record.bytes)
    if request.headers.get("if-range", headers["etag"]) != headers["etag"]:
        asked = None
    if asked is not None and not asked:
        raise _unsatisfiable(record.bytes)
    span = asked or range(record.bytes)
    headers["content-length"] = str(len(span))
    if asked:
        headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{record.bytes}"
    body = await _begun(service.blobs.read(record.blob, span.start, span.stop))
    return StreamingResponse(body, 206 if asked else 200, headers, MEDIA)


async def growing(service: Service, output: Output, request: Request, wanted: Wanted) -> Response:
    """Answer with what there is by now of a file that is not in storage. Raises ApiError."""
    ranged = request.headers.get("range")
    file = Growing(service.redis, output.status.id, errors=output.errors)
    if wanted.after_line is None and range_of(ranged, 1) is not None:
        return await _growing_range(service, output, file, ranged, wanted)
    first = wanted.after_line or 0
    if wanted.wait:
        output = await _waited(service, output, first)
    body = file.from_line(first, output.lines)
    return StreamingResponse(body, headers=_headers(output), media_type=MEDIA)


async def _growing_range(
    service: Service, output: Output, file: Growing, ranged: str | None, wanted: Wanted
) -> Response:
    end = await file.measure(output.lines)
    if wanted.wait and end.bytes <= begins_at(ranged):
        output = await _waited(service, output, output.lines)
        end = await file.measure(output.lines)
    span = range_of(ranged, end.bytes)
    if not span:
        raise _unsatisfiable(end.bytes, _headers(output))
    whole = "*" if _incomplete(output) else str(end.bytes)
    headers = _headers(output) | {
        "content-range": f"bytes {span.start}-{span.stop - 1}/{whole}",
        "content-length": str(len(span)),
    }
    return StreamingResponse(_cut(file.from_byte(span.start, end), len(span)), 206, headers, MEDIA)


async def _waited(service: Service, output: Output, lines: int) -> Output:
    """Return the file once it has more than so many lines, is complete, or a while has passed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _WAIT
    while output.lines <= lines and _incomplete(output) and loop.time() < end:
        await asyncio.sleep(_LOOK_EVERY)
        output = await outputs.looked_at(service, output)
    return output


def _incomplete(output: Output) -> bool:
    return not output.status.state.terminal


def _headers(output: Output) -> dict[str, str]:
    name = outputs.filename_of(output.status.id, errors=output.errors)
    headers = {"x-last-line": str(output.lines), "accept-ranges": "bytes", **_saved_as(name)}
    return headers | {"x-incomplete": "true"} if _incomplete(output) else headers


def _saved_as(filename: str) -> dict[str, str]:
    """Return the header by which a browser saves a file under its name, and never shows what somebody uploaded."""
    return {"content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}"}


async def _begun(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return the parts once the first of them is there, so that what is missing is told by a status."""
    first = await anext(parts, b"")

    async def all_of_them() -> AsyncIterator[bytes]:
        yield first
        async for part in parts:
            yield part

    return all_of_them()


async def _after_line(parts: AsyncIterator[bytes], lines: int) -> AsyncGenerator[bytes, None]:
    """Yield what lies behind so many lines."""
    left = lines
    async for part in parts:
        ends = part.count(b"\n") if left else 0
        if ends < left:
            left -= ends
            continue
        begin = 0
        for _ in range(left):
            begin = part.index(b"\n", begin) + 1
        left = 0
        if rest := part[begin:]:
            yield rest


async def _cut(parts: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """Yield so many bytes of the parts."""
    left = size
    async for part in parts:
        if part := part[:left]:
            yield part
            left -= len(part)


def _unsatisfiable(size: int, headers: Mapping[str, str] | None = None) -> problems.ApiError:
    told = {**(headers or {}), "content-range": f"bytes */{size}"}
    told.pop("content-disposition", None)
    return problems.ApiError(416, "The range begins after the end of the file.", code="invalid_range", headers=told)
