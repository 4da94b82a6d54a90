"""Bytes under a name: written as a whole or not at all, read from any byte on.

A folder and S3 by one interface (obstore). Names are ours, never a client's.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from batchmill.config.errors import BatchmillError


class StorageError(BatchmillError):
    """The storage can't be used; the message says which and what to do."""


class MissingBlobError(StorageError):
    """There is nothing of that name (any more)."""


class Blobs(Protocol):
    """Where the bytes of files are."""

    async def put(self, name: str, parts: AsyncIterator[bytes]) -> int:
        """Write what comes, under a name that takes its place at the end; return how many bytes. Raises StorageError,
        and whatever the parts raise: then nothing is there.
        """
        ...

    def read(self, name: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` on and before `end`. Raises MissingBlobError, StorageError."""
        ...

    async def fetch(self, name: str, target: Path) -> None:
        """Write all bytes to a local file. Raises MissingBlobError, StorageError."""
        ...

    async def delete(self, name: str) -> None:
        """Remove what is there; nothing there is no error. Raises StorageError."""
        ...

    async def tidy(self) -> None:
        """Remove what writers that died have left half written, once it is a day old. Raises StorageError."""
        ...

    async def names(self, prefix: str) -> list[str]:
        """Return the names in a folder (`files/`), sorted. Raises StorageError."""
        ...
