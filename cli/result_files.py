"""The files that a batch's lines end in: results, and beside them, only if there are any, the failed lines."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

from batchmill.cli.errors import OutputError
from batchmill.cli.line_file import STDOUT, IsOurs, LineFile
from batchmill.producer.render import openai_line, simple_line
from batchmill.store.model import Result

_RESULTS, _ERRORS = ".results.jsonl", ".errors.jsonl"
_NAMELESS = "batchmill"

Results = Callable[[], AsyncIterator[Result]]
"""Reads the results of the batch that there are."""


def places(place: Path | None, out: Path | None) -> tuple[Path, Path]:
    """Return where results and failed lines go. `place` is the input's path, None when it has none.

    prompts.jsonl                ->  prompts.results.jsonl, prompts.errors.jsonl
    prompts.jsonl -o out.jsonl   ->  out.jsonl, out.errors.jsonl
    -                            ->  standard output, batchmill.errors.jsonl
    """
    if out is None:
        out = STDOUT if place is None else place.with_suffix(_RESULTS)
    named_for = place or Path(_NAMELESS) if out == STDOUT or out.is_char_device() else out
    stem = named_for.name.removesuffix(_RESULTS)
    stem = stem if stem != named_for.name else named_for.stem
    return out, named_for.with_name(stem + _ERRORS)


def check_places(place: Path | None, out: Path, errors: Path) -> None:
    """Make sure, before anything is enqueued, that the files have a place and aren't the input. Raises OutputError."""
    for path in (out, errors):
        if path == STDOUT:
            continue
        if place is not None and path.exists() and path.samefile(place):
            raise OutputError(f"{path} is the input and would be overwritten; give another name with -o")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; give the name of a file with -o")
        if not path.parent.is_dir():
            raise OutputError(f"{path.parent}: no such folder; make it, or give another place with -o")


async def ownership(path: Path, batch_id: str, results_so_far: Results) -> IsOurs:
    """Return what tells whether a file's first line is one of this batch; `path` is looked at for simple lines."""
    ours = f'{{"id":"batch_req_{batch_id.removeprefix("batch_")}_'.encode()
    first = _first_line(path)
    known = bool(first) and (first.startswith(ours) or await _is_simple_line_of(first, results_so_far()))
    return lambda line: line.startswith(ours) or (known and line == first)


class ResultFiles:
    """Writes each result to where it belongs, as it lands. Raises OutputError."""

    def __init__(self, batch_id: str, out: LineFile, errors: LineFile, *, simple: bool) -> None:
        self._batch_id = batch_id
        self._out = out
        self._errors = errors
        self._simple = simple
        self._errors_open = False
        self._is_ours: IsOurs = lambda _: False

    async def open(self, results_so_far: Results) -> None:
        """Take the files; what was there is dropped if it comes again, and moved away otherwise."""
        self._is_ours = await ownership(self._out.path, self._batch_id, results_so_far)
        self._out.open(self._is_ours)
        if _first_line(self._errors.path):
            self._errors.open(self._is_ours)
            self._errors.close()
            self._errors.path.unlink()

    def put(self, result: Result) -> None:
        """Write one result."""
        if result.succeeded:
            line = simple_line(result) if self._simple else openai_line(self._batch_id, result)
            self._out.write(result.index, line)
            return
        if not self._errors_open:
            self._errors.open(self._is_ours)
            self._errors_open = True
        self._errors.write(result.index, openai_line(self._batch_id, result))

    def close(self) -> None:
        """Put the lines in order if that was wanted, and let the files go."""
        self._out.close()
        self._errors.close()

    @property
    def results_path(self) -> Path:
        """Where the completions are."""
        return self._out.path

    @property
    def errors_path(self) -> Path | None:
        """Where the failed lines are; None when there are none."""
        return self._errors.path if self._errors_open else None


def _first_line(path: Path) -> bytes:
    if path == STDOUT or not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.readline()


async def _is_simple_line_of(line: bytes, results: AsyncIterator[Result]) -> bool:
    """Simple lines bear no id of their batch, so they are compared whole."""
    async for result in results:
        if result.succeeded and simple_line(result) == line:
            return True
    return False
