"""The columns of an archived record: those of `UsageRecord`, and where it stood.

`chunk` and `place` are the id of its chunk in the stream and its number there: together with the books they name a
record for ever. Money is whole nano-dollars, times are ms of the Redis clock.
"""

from typing import Any, Final

import msgspec

from batchmill.archive.shelf import Origin
from batchmill.spend.ledger import UsageRecord
from batchmill.store.usage_log import Chunk

IDENTITY: Final = ("upstream", "books", "chunk", "place")
FIELDS: Final = tuple(field.name for field in msgspec.structs.fields(UsageRecord))
COLUMNS: Final = (*IDENTITY, *FIELDS)
INTEGERS: Final = frozenset(
    {"place", *(field.name for field in msgspec.structs.fields(UsageRecord) if field.type in (int, int | None))}
)


def rows(origin: Origin, chunk: Chunk) -> list[tuple[Any, ...]]:
    """Return the records of a chunk in the order of `COLUMNS`; `tags` is a list, `source` its word."""
    return [
        (origin.upstream, origin.books, chunk.id, place, *_values(record)) for place, record in enumerate(chunk.records)
    ]


def _values(record: UsageRecord) -> list[Any]:
    builtins: list[Any] = msgspec.to_builtins(record)  # array-like: in the order of the fields
    return builtins
