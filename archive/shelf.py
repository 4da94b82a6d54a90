"""What every kind of archive can do, and the words for it.

    stream of the ledger ──page──► append: rows and the place in the stream, in one step ──► next page
                                     │
                                     └── a crash before it is over: the same page again, as if nothing had been

The place in the stream (the cursor) is part of what is written, so that nothing is there twice and nothing is left out.
A place belongs to certain books: another Redis, or one that was emptied, is read from its beginning.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from batchmill.store.usage_log import START, Chunk, Whose

__all__ = ["START", "Origin", "Shelf", "Tally"]


class Origin(msgspec.Struct, frozen=True):
    """Where records come from: the upstream, and the id of the books that they stood in (`store/epoch.py`)."""

    upstream: str
    books: str


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of one upstream; `first` and `last` in ms of the Redis clock, None without records."""

    records: int
    first: int | None = None
    last: int | None = None
    bytes: int = 0  # on the disk, of all upstreams where they share a file


class Shelf(Protocol):
    """An archive that is open. All calls block; each raises ArchiveError. One writer at a time: see `place.locked`."""

    def cursor(self, origin: Origin) -> str:
        """Return the id of the last chunk that is here whole, `START` when there is none."""
        ...

    def append(self, origin: Origin, chunks: Sequence[Chunk]) -> int:
        """Keep chunks and move the cursor behind the last of them, both or neither; return how many records came."""
        ...

    def forget(self, upstream: str, whose: Whose) -> int:
        """Remove somebody's records for good; return how many there were."""
        ...

    def tally(self, upstream: str) -> Tally:
        """Return how much there is."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...
