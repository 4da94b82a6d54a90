"""An upload on its way to storage: checked as it passes, and gone without a trace when it does not pass."""

import contextlib
import hashlib
from collections.abc import AsyncIterator

import msgspec

from batchmill.service import problems
from batchmill.service.compat.ids import blob_of, new_file_id
from batchmill.service.context import Service
from batchmill.service.multipart import Form
from batchmill.service.numbers import whole_number
from batchmill.storage.blobs import StorageError
from batchmill.store import files
from batchmill.store.clock import now_ms
from batchmill.store.files import FileRecord, Try

_ENDING = ".jsonl"
_BOM = b"\xef\xbb\xbf"
_DAY = 86_400
_SHORTEST, _LONGEST = 3600, 2_592_000  # seconds that OpenAI lets a file live
_MOST_NAME = 255

ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"


class Sent(msgspec.Struct, frozen=True):
    """What the request says beside the form: whose it is, and whether it may have been sent before."""

    project: str
    key: str | None  # Idempotency-Key
    again: bool  # the client's own count of retries is above 0


async def take(service: Service, form: Form, sent: Sent) -> FileRecord:
    """Store the file of a form and return it, or the one that an earlier try made. Raises ApiError."""
    await form.until_file()
    _check_purpose(form.fields, whole=False)
    file_id = new_file_id()
    await files.announce(service.redis, file_id, sent.project)
    blob = blob_of(file_id)
    try:
        passing = Passing(form, service)
        await service.blobs.put(blob, passing.parts())
        await form.rest()
        _check_purpose(form.fields, whole=True)
        return await _kept(service, form, sent, file_id, passing)
    except BaseException:
        await drop(service, file_id, sent.project)
        raise


async def drop(service: Service, file_id: str, project: str) -> None:
    """Remove what was written of a file that is none; what can't be removed now goes later, by the announcement."""
    with contextlib.suppress(StorageError):
        await service.blobs.delete(blob_of(file_id))
        await files.forget(service.redis, files.Doomed(file_id, project))


async def _kept(service: Service, form: Form, sent: Sent, file_id: str, passing: "Passing") -> FileRecord:
    now = await now_ms(service.redis) // 1000
    record = FileRecord(
        id=file_id,
        project=sent.project,
        bytes=passing.size,
        created_at=now,
        expires_at=now + _life(form.fields, service.settings.service.file_days * _DAY),
        filename=passing.name[-_MOST_NAME:],
        purpose=files.UPLOADED,
        blob=blob_of(file_id),
        sha256=passing.sha256,
    )
    told = msgspec.json.encode([record.filename, record.bytes, record.sha256])
    fingerprint = hashlib.sha256(told).hexdigest()
    earlier = await files.put(service.redis, record, Try(fingerprint, sent.key, sent.again))
    if earlier is None:
        return record
    await drop(service, file_id, sent.project)
    if earlier.fingerprint != fingerprint:
        raise problems.invalid(
            "This Idempotency-Key was used for another file.", "Idempotency-Key", "idempotency_key_reuse"
        )
    return earlier.record


class Passing:
    """The bytes of an upload while they pass: counted, digested, and looked at as far as OpenAI does at once."""

    def __init__(self, form: Form, service: Service) -> None:
        self.size = 0
        self.name = form.filename or ""
        self._form = form
        self._hash = hashlib.sha256()
        self._most = service.settings.service.max_upload_bytes
        self._longest = service.settings.input.max_line_bytes
        self._first: bytearray | None = bytearray()  # of the first line that is not blank; None once it was looked at

    @property
    def sha256(self) -> str:
        """The digest of what has passed."""
        return self._hash.hexdigest()

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes. Raises ApiError for a file that no batch can be made of."""
        if not self.name.lower().endswith(_ENDING):
            raise _wrong_format()
        async for part in self._form.content():
            self.size += len(part)
            if self.size > self._most:
                raise problems.too_large(f"A file may have {self._most:,} bytes at most.")
            self._hash.update(part)
            if self._first is not None:
                self._look(part)
            yield part
        if self._first is not None:
            self._judge(bytes(self._first))

    def _look(self, part: bytes) -> None:
        if self._first is None:
            return
        self._first += part
        while self._first is not None and b"\n" in self._first:
            line, _, rest = bytes(self._first).partition(b"\n")
            self._first = bytearray(rest)
            if line.removeprefix(_BOM).strip():
                self._judge(line)
        if self._first is not None and len(self._first) > self._longest:
            self._first = None  # the batch will say that the line is too long

    def _judge(self, line: bytes) -> None:
        self._first = None
        try:
            msgspec.json.decode(line.removeprefix(_BOM))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _wrong_format() from error


def _check_purpose(fields: dict[str, str], *, whole: bool) -> None:
    """Raises ApiError for another purpose than ours; for none only when the `whole` form was seen."""
    purpose = fields.get("purpose")
    if purpose is None and whole:
        raise problems.invalid("Missing required parameter: 'purpose'.", "purpose", "missing_required_parameter")
    if purpose not in (None, files.UPLOADED):
        raise problems.invalid(
            f"Invalid value: '{purpose}'. Supported values are: '{files.UPLOADED}'.", "purpose", "invalid_value"
        )


def _life(fields: dict[str, str], default: int) -> int:
    """Return for how many seconds a file is kept. Raises ApiError."""
    anchor, seconds = fields.get(ANCHOR), fields.get(SECONDS)
    if anchor is None and seconds is None:
        return default
    for name, value in ((ANCHOR, anchor), (SECONDS, seconds)):
        if value is None:
            raise problems.invalid(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if anchor != "created_at":
        raise problems.invalid(
            f"Invalid value: '{anchor}'. Supported values are: 'created_at'.", ANCHOR, "invalid_value"
        )
    life = whole_number(seconds)
    if life is None or not _SHORTEST <= life <= _LONGEST:
        raise problems.invalid(
            f"Invalid value for '{SECONDS}': expected an integer from {_SHORTEST} to {_LONGEST}.",
            SECONDS,
            "invalid_value",
        )
    return life


def _wrong_format() -> problems.ApiError:
    return problems.invalid("Invalid file format for Batch API. Must be .jsonl")
