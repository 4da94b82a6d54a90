"""What a line asked: from its result, from its shard while that is there, else from the file that was handed over."""

import asyncio
from typing import Any

import msgspec

from batchmill.openrouter.splices import with_members
from batchmill.openrouter.wire import UNREADABLE
from batchmill.service.context import Service
from batchmill.storage.blobs import StorageError
from batchmill.store import files, line_pages
from batchmill.store.model import BatchStatus, Result

_NO_FILE = (
    "Requests of lines that succeeded are not kept in Redis, and this batch did not come as an uploaded file: "
    "look into the file that it was made of."
)
_FILE_GONE = "The request was in the uploaded file '{file}', which is there no more."
_NOT_IN_FILE = "The uploaded file '{file}' has no line with this custom_id."
_NOTHING = msgspec.Raw(b"")


class _InputLine(msgspec.Struct):
    custom_id: str | None = None
    body: msgspec.Raw = _NOTHING


_decode = msgspec.json.Decoder(_InputLine).decode


async def request_of(service: Service, status: BatchStatus, result: Result) -> tuple[Any | None, str | None]:
    """Return the request of a line with a result, or why it can't be shown."""
    if result.request is not None:
        return decoded(result.request), None
    found = await line_pages.open_line(service.redis, status.id, lambda line: line.index == result.index)
    if found is not None:
        return asked(found), None
    file_id = status.handed.input_file_id if status.handed else ""
    if not file_id:
        return None, _NO_FILE
    record = await files.get(service.redis, file_id)
    if record is None or record.project != status.project:
        return None, _FILE_GONE.format(file=file_id)
    try:
        body = await _body_in(service, record.blob, result.custom_id)
    except StorageError:
        return None, _FILE_GONE.format(file=file_id)
    return (None, _NOT_IN_FILE.format(file=file_id)) if body is None else (decoded(body), None)


def asked(found: line_pages.Open) -> Any:
    """Return what a line asks that has no result yet, as it was handed in."""
    members = found.terms.route.members if found.terms.route else b""
    return decoded(with_members(found.line.body, members))


def decoded(text: bytes | None) -> Any | None:
    """Return JSON as a value; what is none as text."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except UNREADABLE:
        return text.decode(errors="replace")


async def _body_in(service: Service, blob: str, custom_id: str) -> bytes | None:
    """Read an uploaded file until the line of that id has come; return its body, None when there is none."""
    longest = service.settings.input.max_line_bytes
    rest, passing = b"", False  # the beginning of a line; whether it is one that no batch takes
    async for part in service.blobs.read(blob):
        whole, newline, left = part.rpartition(b"\n")
        if newline:
            text = whole.partition(b"\n")[2] if passing else rest + whole
            if (found := await asyncio.to_thread(_among, text, custom_id)) is not None:
                return found
            rest, passing = left, False
        elif not passing:
            rest += left
        if len(rest) > longest:
            rest, passing = b"", True
    return _among(rest, custom_id)


def _among(text: bytes, custom_id: str) -> bytes | None:
    for line in text.split(b"\n"):
        try:
            read = _decode(line)
        except UNREADABLE:
            continue  # a batch may skip lines that can't be read
        if read.custom_id == custom_id and (body := bytes(read.body)):
            return body
    return None
