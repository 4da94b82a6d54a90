"""A multipart form as it comes: fields before or after the one file, whose bytes are never all in memory.

form = Form(content_type, parts)
await form.until_file()          # fields that came before the file are in `form.fields`
async for part in form.content(): ...
await form.rest()                # those that came after it, too
"""

from collections import deque
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from batchmill.service import problems

_MOST_FIELDS = 64
_MOST_FIELD_BYTES = 64 * 1024
_MOST_HEADER_BYTES = 8 * 1024


class Form:
    """One form with one file named `file`. What it holds is only what came; nothing is checked but the form itself."""

    def __init__(self, content_type: str, parts: AsyncIterator[bytes]) -> None:
        """Raises ApiError when the content type is no multipart form's."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise problems.invalid("The body must be multipart/form-data, with a boundary.")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None  # known from `until_file` on
        self._parts = parts
        self._events = _Events()
        try:
            self._parser = MultipartParser(boundary, self._events.callbacks())  # type: ignore[arg-type]  # a TypedDict of the same callbacks
        except FormParserError as error:
            raise problems.invalid(f"The multipart form can't be read: {error}.") from error

    async def until_file(self) -> None:
        """Take in what comes before the file. Raises ApiError, also when there is no file."""
        while self._events.filename is None:
            if not await self._more():
                raise problems.invalid("Missing required parameter: 'file'.", "file", "missing_required_parameter")
        self.filename = self._events.filename
        self.fields |= self._events.fields

    async def content(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the file. Raises ApiError when the form breaks off."""
        events = self._events
        while events.data or not events.file_over:
            while events.data:
                yield events.data.popleft()
            if not events.file_over and not await self._more():
                raise _broken()

    async def rest(self) -> None:
        """Take in what comes after the file. Raises ApiError when the form breaks off, or has a second file."""
        while await self._more():
            pass
        if not self._events.over:
            raise _broken()
        self.fields |= self._events.fields

    async def _more(self) -> bool:
        """Take in the next part of the body; False at its end."""
        part = await anext(self._parts, None)
        if part is None:
            return False
        try:
            self._parser.write(part)
        except FormParserError as error:
            raise problems.invalid(f"The multipart form can't be read: {error}.") from error
        return True


class _Events:
    """What the parser tells: fields in whole, the file in parts."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.data: deque[bytes] = deque()
        self.file_over = self.over = False
        self._header = [b"", b""]
        self._name: str | None = None
        self._value = bytearray()
        self._in_file = False

    def callbacks(self) -> dict[str, object]:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._said(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._said(1, data[start:end]),
            "on_header_end": self._header_over,
            "on_part_data": lambda data, start, end: self._bytes(data[start:end]),
            "on_part_end": self._part_over,
            "on_end": self._form_over,
        }

    def _begin(self) -> None:
        self._name, self._in_file = None, False
        self._value.clear()

    def _said(self, which: int, part: bytes) -> None:
        self._header[which] += part
        if len(self._header[which]) > _MOST_HEADER_BYTES:
            raise problems.invalid("A header of the multipart form is too long.")

    def _header_over(self) -> None:
        name, value = self._header
        self._header = [b"", b""]
        if name.lower() != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename")
        self._in_file = self._name == "file" and filename is not None
        if self._in_file and filename is not None:
            if self.filename is not None:
                raise problems.invalid("The form has more than one file.", "file", "invalid_value")
            self.filename = filename.decode("utf-8", "replace")

    def _bytes(self, part: bytes) -> None:
        if self._in_file:
            self.data.append(part)
            return
        self._value += part
        if len(self._value) > _MOST_FIELD_BYTES:
            raise problems.invalid(f"The field '{self._name}' is too long.", self._name)

    def _part_over(self) -> None:
        if self._in_file:
            self.file_over = True
        elif self._name:
            if len(self.fields) == _MOST_FIELDS:
                raise problems.invalid("The form has too many fields.")
            self.fields[self._name] = self._value.decode("utf-8", "replace")
        self._in_file = False

    def _form_over(self) -> None:
        self.over = True


def _broken() -> problems.ApiError:
    return problems.invalid("The multipart form broke off before its end.")
