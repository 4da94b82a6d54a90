"""A file of result lines that grows as they land, and is sorted at the end if wanted."""

import fcntl
import os
import shutil
import sys
import tempfile
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import IO

import click

from batchmill.cli.errors import OutputClosedError, OutputError

STDOUT = Path("-")

IsOurs = Callable[[bytes], bool]
"""Tells from a file's first line whether the file holds lines of this batch."""


class LineFile:
    """Lines in a file, or on standard output for the path `-`. Raises OutputError.

    What is written is on its way at once; a kill leaves whole what was written. One process at a time has the file.
    """

    def __init__(self, path: Path, *, ordered: bool = False) -> None:
        self.path = path
        self._ordered = ordered
        self._stream: IO[bytes] | None = None  # where sorted lines go that can't be sorted in place
        self._file: IO[bytes] | None = None
        self._position = 0
        self._indexes, self._offsets = array("q"), array("q")

    def open(self, is_ours: IsOurs) -> None:
        """Take the file: lines of the same batch are dropped, for they come again; anything else is moved away."""
        try:
            if self.path == STDOUT or (self.path.exists() and not self.path.is_file()):
                self._open_stream()
            else:
                self._open_file(is_ours)
        except OSError as error:
            raise self._broken(error) from error

    def write(self, index: int, line: bytes) -> None:
        """Append the line of that index."""
        if self._file is None:
            raise OutputError(f"{self.path} is not open")
        if self._ordered:
            self._indexes.append(index)
            self._offsets.append(self._position)
            self._position += len(line)
        try:
            self._file.write(line)
            self._file.flush()
        except BrokenPipeError:
            raise OutputClosedError from None
        except OSError as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """Sort the lines if that was wanted, and let the file go."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if self._ordered:
                self._sort(file)
        except BrokenPipeError:
            raise OutputClosedError from None
        except OSError as error:
            raise self._broken(error) from error
        finally:
            if file is not sys.stdout.buffer:
                file.close()

    def _open_stream(self) -> None:
        stream = sys.stdout.buffer if self.path == STDOUT else self.path.open("wb")
        if self._ordered:
            self._stream, self._file = stream, tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        else:
            self._file = stream

    def _open_file(self, is_ours: IsOurs) -> None:
        file = self._locked()
        file.seek(0)
        first = file.readline()
        if first and not is_ours(first):
            moved_to = _free_name(self.path)
            self.path.rename(moved_to)
            click.echo(f"{self.path} held something else: moved to {moved_to}", err=True)
            file.close()
            file = self._locked()
        file.truncate(0)
        self._file = file

    def _locked(self) -> IO[bytes]:
        file = self.path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise OutputError(
                f"{self.path} is being written by another batchmill; wait for it, or give another -o"
            ) from None
        return file

    def _sort(self, file: IO[bytes]) -> None:
        if self._stream is not None:
            self._copy_in_order(file, self._stream)
            self._stream.flush()
            if self._stream is not sys.stdout.buffer:
                self._stream.close()
            return
        target = self.path.resolve()
        sorted_path = target.with_name(f".{target.name}.sorted")
        try:
            with sorted_path.open("wb") as sorted_file:
                shutil.copymode(target, sorted_path)
                self._copy_in_order(file, sorted_file)
                sorted_file.flush()
                os.fsync(sorted_file.fileno())
            sorted_path.replace(target)
        finally:
            sorted_path.unlink(missing_ok=True)

    def _copy_in_order(self, file: IO[bytes], target: IO[bytes]) -> None:
        for entry in sorted(range(len(self._indexes)), key=self._indexes.__getitem__):
            file.seek(self._offsets[entry])
            target.write(file.readline())

    def _broken(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path} can't be written: {error.strerror or error}; give another place with -o")


def _free_name(path: Path) -> Path:
    """Return the name for what was there before; never one that is taken."""
    name = path.with_name(f"{path.name}.old")
    number = 2
    while name.exists():
        name = path.with_name(f"{path.name}.old{number}")
        number += 1
    return name
