"""Where the archive of a machine is, and whose turn it is to write to it."""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from batchmill.archive.errors import ArchiveError
from batchmill.archive.shelf import Shelf
from batchmill.config.settings import Settings

_AGAIN = 0.05  # seconds between two tries
_PATIENCE = 60.0


def place_of(settings: Settings) -> Path | None:
    """Return the file or folder of the archive; None when there is to be none."""
    if settings.archive.kind == "memory":
        return None
    if settings.archive.path:
        return Path(settings.archive.path).expanduser()
    return settings.data_dir / ("usage.db" if settings.archive.kind == "database" else "usage")


def open_shelf(settings: Settings) -> Shelf | None:
    """Open the archive, which is made when it is not there; None when there is to be none. Raises ArchiveError."""
    path = place_of(settings)
    if path is None:
        return None
    if settings.archive.kind == "database":
        from batchmill.archive.database import Database

        return Database(path)
    try:
        from batchmill.archive.parquet import ParquetFolder
    except ImportError as error:
        raise ArchiveError(
            f"the archive {path} is of Parquet files, which need pyarrow ({error}); pip install 'batchmill[archive]', "
            'or set [archive] kind = "database"'
        ) from error
    return ParquetFolder(path)


@asynccontextmanager
async def locked(path: Path, *, wait: bool) -> AsyncIterator[bool]:
    """Be the only one who writes to an archive; yield whether we are. With `wait`, be patient first.

    Raises ArchiveError when somebody has it for a minute, or the place can't be written. The kernel lets go of it for a
    process that dies.
    """
    file = _lock_file(path)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not (ours := _lock(file)) and wait:
            if time.monotonic() > deadline:
                raise ArchiveError(f"the archive {path} is being written for a minute; try again when that is over")
            await asyncio.sleep(_AGAIN)
        yield ours
    finally:
        os.close(file)


def _lock_file(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(path.with_name(f"{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ArchiveError(
            f"the archive {path} can't be written: {error.strerror}; name another place as [archive] path"
        ) from error


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
