"""Where the lines come from: a file, or something that can be read only once and is copied first."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click
import msgspec

from batchmill.producer.errors import InputError

STDIN = "-"


class Source(msgspec.Struct, frozen=True):
    """A readable copy of the input. `place` is None when the input has none, so that results go to standard output."""

    path: Path
    name: str
    place: Path | None


@contextmanager
def opened(argument: str) -> Iterator[Source]:
    """Make the input readable twice, as it is read once to check it and once to send it. Raises InputError."""
    path = Path(argument)
    if argument != STDIN and path.is_file():
        yield Source(path, argument, path)
        return
    if argument != STDIN and not path.exists():
        raise InputError(f"{argument}: no such file; give the path of a file of lines, or - for standard input")
    if path.is_dir():
        raise InputError(f"{argument} is a folder; give the path of a file of lines")
    with tempfile.NamedTemporaryFile(prefix="batchmill-") as spool:
        _copy(argument, spool.file)
        yield Source(Path(spool.name), "standard input" if argument == STDIN else argument, None)


def _copy(argument: str, spool: IO[bytes]) -> None:
    if argument != STDIN:
        with Path(argument).open("rb") as pipe:
            shutil.copyfileobj(pipe, spool)
    else:
        if sys.stdin.isatty():
            click.echo("reading lines from the terminal; end with Ctrl-D", err=True)
        shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.flush()
