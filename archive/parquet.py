"""The archive as Parquet files, which DuckDB, pandas, Polars and Spark read as one table. Needs `batchmill[archive]`.

A file is written beside, flushed to the disk and then named, once; its name says which part of the stream it holds:

    FOLDER/UPSTREAM/usage.BOOKS.FIRST_LAST.parquet

So the cursor is the highest LAST there is, and a file that is not whole has no name that anybody reads.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchmill.archive.columns import COLUMNS, INTEGERS, rows
from batchmill.archive.errors import ArchiveError
from batchmill.archive.shelf import START, Origin, Tally
from batchmill.store.keys import upstream_tag
from batchmill.store.usage_log import Chunk, Whose

_DRAFT = ".part"
_TIME = pa.timestamp("ms", tz="UTC")


def _type_of(name: str) -> Any:
    if name == "at":
        return _TIME
    if name == "tags":
        return pa.list_(pa.string())
    return pa.int64() if name in INTEGERS else pa.string()


_SCHEMA = pa.schema([(name, _type_of(name)) for name in COLUMNS])


class ParquetFolder:
    """Keeps records in a folder of Parquet files, which is made when it is not there. Raises ArchiveError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explained():
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def cursor(self, origin: Origin) -> str:
        """Return the id of the last chunk that is here whole."""
        with self._explained():
            ends = [file.stem.rpartition("_")[2] for file in self._files(origin.upstream, origin.books)]
        return max(ends, key=_order, default=START)

    def append(self, origin: Origin, chunks: Sequence[Chunk]) -> int:
        """Keep chunks as one more file; without any record, nothing is written and the cursor stays."""
        found = [row for chunk in chunks for row in rows(origin, chunk)]
        if not found:
            return 0
        by_column = zip(zip(*found, strict=True), _SCHEMA.types, strict=True)
        columns = [pa.array(column, kind) for column, kind in by_column]
        folder = self._folder(origin.upstream)
        with self._explained():
            folder.mkdir(exist_ok=True, mode=0o700)
            for left in folder.glob(f"*{_DRAFT}"):  # by a process that died
                left.unlink()
            name = f"usage.{origin.books}.{chunks[0].id}_{chunks[-1].id}.parquet"
            self._write(pa.Table.from_arrays(columns, schema=_SCHEMA), folder / name)
        return len(found)

    def forget(self, upstream: str, whose: Whose) -> int:
        """Write the files anew that hold somebody's records, without them; a file keeps its name, so its place."""
        gone = 0
        with self._explained():
            for file in self._files(upstream):
                table = pq.read_table(file, schema=_SCHEMA)
                mine = _theirs(table, whose)
                count = pc.sum(mine).as_py() or 0
                if count:
                    self._write(table.filter(pc.invert(mine)), file)
                    gone += count
        return gone

    def tally(self, upstream: str) -> Tally:
        """Return how much there is; the bytes are those of the upstream's files."""
        count = size = 0
        first: int | None = None
        last: int | None = None
        with self._explained():
            for file in self._files(upstream):
                times = pq.read_table(file, columns=["at"])["at"].cast(pa.int64())
                size += file.stat().st_size
                count += len(times)
                if len(times):
                    ends = pc.min_max(times).as_py()
                    first = ends["min"] if first is None else min(first, ends["min"])
                    last = ends["max"] if last is None else max(last, ends["max"])
        return Tally(records=count, first=first, last=last, bytes=size)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _folder(self, upstream: str) -> Path:
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", upstream).strip("-.")
        return self._path / f"{readable}.{upstream_tag(upstream)}"

    def _files(self, upstream: str, books: str = "*") -> list[Path]:
        return sorted(self._folder(upstream).glob(f"usage.{books}.*_*.parquet"))

    def _write(self, table: Any, file: Path) -> None:
        draft = file.with_suffix(_DRAFT)
        with open(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as out:
            pq.write_table(table, out, compression="zstd")
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name, too, survives a power cut
        finally:
            os.close(folder)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise ArchiveError(
                f"the archive {self._path} can't be used: {error}; look at the disk and the folder's owner, or name "
                "another as [archive] path"
            ) from error


def _order(chunk: str) -> tuple[int, ...]:
    return tuple(map(int, chunk.split("-")))


def _theirs(table: Any, whose: Whose) -> Any:
    """Return a mask of the rows that are somebody's."""
    wanted = {"project": whose.project, "batch": whose.batch}
    masks = [pc.equal(table[name], value) for name, value in wanted.items() if value is not None]
    mask = masks[0]
    for other in masks[1:]:
        mask = pc.and_(mask, other)
    return mask
