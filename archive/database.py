"""The archive as a SQLite database: one file, rows and cursor in one transaction.

Why SQLite and not DuckDB: it comes with Python, and others may read while a worker writes; DuckDB's file belongs to one
process at a time. DuckDB reads this file, too (`ATTACH 'usage.db' (TYPE sqlite)`).
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from batchmill.archive.columns import COLUMNS, IDENTITY, INTEGERS, rows
from batchmill.archive.errors import ArchiveError
from batchmill.archive.shelf import START, Origin, Tally
from batchmill.store.usage_log import Chunk, Whose

_VERSION = 1
_BUSY_SECONDS = 30.0
# `index` is a word of SQL, so names are quoted
_TYPED = ", ".join(f'"{name}" {"INTEGER" if name in INTEGERS else "TEXT"}' for name in COLUMNS)
_SCHEMA = f"""
CREATE TABLE records ({_TYPED}, PRIMARY KEY ({", ".join(IDENTITY)})) WITHOUT ROWID;
CREATE INDEX records_by_time ON records (upstream, at);
CREATE INDEX records_by_project ON records (upstream, project);
CREATE INDEX records_by_batch ON records (upstream, batch);
CREATE TABLE cursors (upstream TEXT, books TEXT, chunk TEXT, PRIMARY KEY (upstream, books)) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""
# the names are ours, the values are bound
_INSERT = f"INSERT OR IGNORE INTO records VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
_TAGS = COLUMNS.index("tags")


class Database:
    """Keeps records in a SQLite file, which is made when it is not there. Raises ArchiveError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # who paid for what is nobody else's business
            # used from one thread after the other, never from two at once
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def cursor(self, origin: Origin) -> str:
        """Return the id of the last chunk that is here whole."""
        with self._explained():
            found = self._db.execute(
                "SELECT chunk FROM cursors WHERE upstream = ? AND books = ?", (origin.upstream, origin.books)
            ).fetchone()
        return str(found[0]) if found else START

    def append(self, origin: Origin, chunks: Sequence[Chunk]) -> int:
        """Keep chunks and move the cursor in one transaction; what is here already stays as it is."""
        if not chunks:
            return 0
        with self._explained(), self._transaction():
            before = self._db.total_changes
            for chunk in chunks:
                self._db.executemany(
                    _INSERT, [(*row[:_TAGS], json.dumps(row[_TAGS]), *row[_TAGS + 1 :]) for row in rows(origin, chunk)]
                )
            added = self._db.total_changes - before
            self._db.execute(
                "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)", (origin.upstream, origin.books, chunks[-1].id)
            )
        return added

    def forget(self, upstream: str, whose: Whose) -> int:
        """Remove somebody's records; what they were is overwritten, in the log of writes, too."""
        with self._explained():
            with self._transaction():
                gone = self._db.execute(
                    "DELETE FROM records WHERE upstream = ?1 "
                    "AND (?2 IS NULL OR project = ?2) AND (?3 IS NULL OR batch = ?3)",
                    (upstream, whose.project, whose.batch),
                ).rowcount
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return int(gone)

    def tally(self, upstream: str) -> Tally:
        """Return how much there is; the bytes are those of the file."""
        with self._explained():
            count, first, last = self._db.execute(
                "SELECT count(*), min(at), max(at) FROM records WHERE upstream = ?", (upstream,)
            ).fetchone()
            return Tally(records=count, first=first, last=last, bytes=self._path.stat().st_size)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL").fetchall()
        self._db.execute("PRAGMA synchronous = FULL")  # a record that we counted as kept survives a power cut
        self._db.execute("PRAGMA secure_delete = ON").fetchall()
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._db.execute(statement)
            elif version != _VERSION:
                raise ArchiveError(
                    f"the archive {self._path} is of another version of batchmill ({version}); "
                    "name another file as [archive] path"
                )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ArchiveError(
                f"the archive {self._path} can't be used: {error}; look at the disk and the file's owner, or name "
                "another as [archive] path"
            ) from error
