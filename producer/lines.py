"""The values of the input: how to read it, on what conditions to run it, a good line, a bad line."""

from typing import Literal

import msgspec

from batchmill.store.model import Priority

Form = Literal["auto", "jsonl", "text"]

MAX_LINES = 1_000_000
MAX_LINE_BYTES = 4 * 1024 * 1024


class InputOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a file of lines is read. Raises ValueError for a value that could never be meant."""

    form: Form = "auto"  # auto is read as jsonl; `form_of` tells it from a file's name
    model: str | None = None  # for lines that name no model
    max_tokens: int | None = None  # for lines that set neither max_tokens nor max_completion_tokens
    limit: int | None = None  # only so many lines from the front, good or bad; blank ones don't count
    max_lines: int = MAX_LINES
    max_line_bytes: int = MAX_LINE_BYTES  # without the line's end
    live: bool = False  # every line has live tokens, whether it asks for them or not

    def __post_init__(self) -> None:
        for name in ("max_tokens", "limit", "max_lines", "max_line_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.model is not None and not self.model.strip():
            raise ValueError("model must not be empty")


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """Whose work a batch is, whose turn it is, and what it may cost. No part of its content."""

    project: str = "default"
    priority: Priority = Priority.NORMAL
    max_cost: int | None = None  # nano-dollars


class Request(msgspec.Struct, frozen=True):
    """A line that can be sent. `body` is the JSON object for POST /chat/completions."""

    number: int  # of the physical line, from 1; blank lines count
    custom_id: str
    model: str
    body: bytes


class Priced(msgspec.Struct, frozen=True):
    """A line that can be paid for: the body with a limit for its answer, its bound (nano-dollars) and its tokens."""

    custom_id: str
    model: str
    body: bytes
    bound: int
    tokens: int


class BadLine(msgspec.Struct, frozen=True):
    """Why a line can't be used, in OpenAI's words for a batch's `errors.data[]`; never holds the line's content.

    `number` is None when the whole file is meant: then nothing of it should run.
    """

    number: int | None
    code: str
    param: str | None
    message: str
    custom_id: str | None = None  # the line's own, when it has one that can be read
