"""Reads the lines that a user hands over: streaming, one value a line, good or bad.

Pure and synchronous; the memory taken does not depend on the file but for the ids' hashes (see `identities`).
"""

from collections.abc import Iterator
from typing import BinaryIO

from batchmill.producer.forms import parse_json_line, parse_text_line
from batchmill.producer.identities import Identities
from batchmill.producer.lines import BadLine, Form, InputOptions, Request

__all__ = ["BadLine", "Form", "InputOptions", "Request", "form_of", "read"]

_BOM = b"\xef\xbb\xbf"
_LINE_END = b"\r\n"
_SKIP_BYTES = 1 << 16


def form_of(name: str) -> Form:
    """Return the form that a file's name tells: .txt holds one prompt a line, anything else JSON lines."""
    return "text" if name.lower().endswith(".txt") else "jsonl"


def read(source: BinaryIO, options: InputOptions) -> Iterator[Request | BadLine]:
    """Yield what each line is, in order; blank lines yield nothing but are counted in the numbers.

    Never raises for what the file holds; what `source` (buffered, in binary mode) raises passes through.
    A BadLine without a number is about the file as a whole and is the last value.
    """
    if options.form == "text" and options.model is None:
        yield BadLine(None, "invalid_request", "model", "A file of plain prompts names no model. Give it with --model.")
        return
    seen = Identities()
    used = 0
    for number, line in enumerate(_physical_lines(source, options.max_line_bytes), 1):
        if isinstance(line, bytes) and not line.strip():
            continue
        if used == options.max_lines:
            yield _too_many(options.max_lines)
            return
        used += 1
        if isinstance(line, int):
            yield _too_large(number, line, options.max_line_bytes)
        elif options.form == "text":
            yield parse_text_line(line, number, options)
        else:
            yield parse_json_line(line, number, options, seen)
        if used == options.limit:
            return
    if used == 0:
        yield BadLine(
            None,
            "empty_file",
            None,
            "The input file is empty. Please ensure that the batch contains at least one request.",
        )


def _physical_lines(source: BinaryIO, max_bytes: int) -> Iterator[bytes | int]:
    """Yield each line without its end and without the file's BOM, or only the size of one that is too large."""
    size = len(_BOM) + max_bytes + len(_LINE_END)
    line = source.readline(size)
    if line.startswith(_BOM):
        line = line[len(_BOM) :]
    while line:
        whole = line.endswith(b"\n")
        content = (line[:-2] if line.endswith(_LINE_END) else line[:-1]) if whole else line
        if len(content) <= max_bytes:
            yield content
        else:
            yield len(content) + (0 if whole else _skip(source, line[-1:]))
        line = source.readline(size)


def _skip(source: BinaryIO, before: bytes) -> int:
    """Pass over the rest of a line; return its bytes without the line's end, whose first byte may lie before."""
    skipped = 0
    while part := source.readline(_SKIP_BYTES):
        skipped += len(part)
        if part.endswith(b"\n"):
            ending = (before + part)[-len(_LINE_END) :]
            return skipped - (len(_LINE_END) if ending == _LINE_END else 1)
        before = part[-1:]
    return skipped


def _too_large(number: int, size: int, allowed: int) -> BadLine:
    return BadLine(number, "line_too_large", None, f"This line has {size:,} bytes; at most {allowed:,} are allowed.")


def _too_many(allowed: int) -> BadLine:
    return BadLine(
        None, "too_many_tasks", None, f"The input has more than {allowed:,} requests, which is the limit. Split it."
    )
