"""The archive: nothing twice, nothing left out, whatever dies in between; and what is removed is gone."""

import asyncio
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from batchmill.archive import columns, database, place
from batchmill.archive.errors import ArchiveError
from batchmill.archive.shelf import START, Origin
from batchmill.config.settings import ArchiveSettings, Settings
from batchmill.spend.ledger import Source, UsageRecord
from batchmill.store import keys
from batchmill.store.usage_log import Chunk, Whose
from batchmill.workers import archiver
from batchmill.workers.archiver import Archiver
from batchmill.workers.tasks import end, to_the_end

from .usage_helpers import put_chunk, used
from .waiting import wait_until

KINDS = ("database", "file")


@pytest.fixture(params=KINDS)
def kept(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Settings with an archive of each kind."""
    return msgspec.structs.replace(settings, archive=ArchiveSettings(kind=request.param))


def archived(settings: Settings) -> list[dict[str, Any]]:
    """Read the archive as others do, in the order of the stream."""
    path = place.place_of(settings)
    assert path is not None
    if settings.archive.kind == "file":
        rows = [row for file in path.glob("*/*.parquet") for row in pyarrow.parquet.read_table(file).to_pylist()]
        for row in rows:
            row["at"] = round(row["at"].timestamp() * 1000)
    else:
        with sqlite3.connect(path) as db:
            db.row_factory = sqlite3.Row
            rows = [dict(row) for row in db.execute("SELECT * FROM records")]
        db.close()
        for row in rows:
            row["tags"] = json.loads(row["tags"])
    return sorted(rows, key=lambda row: ([int(part) for part in row["chunk"].split("-")], row["place"]))


def indexes(settings: Settings) -> list[int]:
    return [row["index"] for row in archived(settings)]


async def test_every_field_of_a_record_is_kept_to_the_nano_dollar(redis: Redis, kept: Settings) -> None:
    record = used(
        7,
        cost=9_007_199_254_740_993,
        source=Source.SUSPECT,
        tags=("team=a", "x=\u00e9"),
        provider="P",
        first_token_ms=3,
    )
    await put_chunk(redis, kept.upstream_name, record)
    assert await Archiver(redis, kept).look(now=True) == 1
    (row,) = archived(kept)
    assert row["upstream"] == kept.upstream_name
    assert msgspec.convert([row[name] for name in UsageRecord.__struct_fields__], UsageRecord) == record


async def test_looks_go_on_where_the_last_one_ended(
    redis: Redis, kept: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver, "_MOST", 3)
    for first in range(0, 20, 2):
        await put_chunk(redis, kept.upstream_name, used(first), used(first + 1))
    assert await Archiver(redis, kept).look(now=True) == 20
    assert await Archiver(redis, kept).look(now=True) == 0
    await put_chunk(redis, kept.upstream_name, used(20))
    assert await Archiver(redis, kept).look(now=True) == 1
    assert indexes(kept) == list(range(21))


async def test_a_crash_before_the_end_of_a_step_leaves_nothing_twice(
    redis: Redis, kept: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = (Chunk("1-0", (used(0), used(1))), Chunk("2-0", (used(2),)))
    for chunk in chunks:
        await put_chunk(redis, kept.upstream_name, *chunk.records, name=chunk.id)
    shelf = place.open_shelf(kept)
    assert shelf is not None
    origin = Origin(kept.upstream_name, "")
    with monkeypatch.context() as patch:
        die_in_the_middle(patch)
        with pytest.raises(KeyboardInterrupt):
            shelf.append(origin, chunks)
    assert shelf.cursor(origin) == START
    shelf.close()
    assert await Archiver(redis, kept).look(now=True) == 3
    assert indexes(kept) == [0, 1, 2]
    path = place.place_of(kept)
    assert path is not None
    assert not list(path.parent.rglob("*.part"))


def die_in_the_middle(patch: pytest.MonkeyPatch) -> None:
    """End the process after the first chunk's rows (database), or before the file has its name (Parquet)."""

    def rows(origin: Origin, chunk: Chunk) -> list[tuple[Any, ...]]:
        if chunk.id == "2-0":
            raise KeyboardInterrupt
        return columns.rows(origin, chunk)

    def replace(draft: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    patch.setattr(database, "rows", rows)
    patch.setattr(Path, "replace", replace)


async def test_records_wait_for_the_interval(redis: Redis, kept: Settings) -> None:
    old, young = msgspec.structs.replace(kept.archive, interval=0.001), kept.archive
    await put_chunk(redis, kept.upstream_name, used(0))
    assert await Archiver(redis, msgspec.structs.replace(kept, archive=young)).look() == 0
    await redis.delete(keys.usage(kept.upstream_name))
    await put_chunk(redis, kept.upstream_name, used(1), name="5-0")  # of 1970
    assert await Archiver(redis, msgspec.structs.replace(kept, archive=old)).look() == 1


async def test_a_worker_copies_by_itself_and_outlives_trouble_with_the_disk(
    redis: Redis, kept: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver, "_EVERY", 0.0)
    path = place.place_of(kept)
    assert path is not None
    path.parent.mkdir()
    blocked = path.with_name(f"{path.name}.lock")
    blocked.mkdir()
    await put_chunk(redis, kept.upstream_name, used(0), name="5-0")
    with capture_logs() as said:
        running = asyncio.create_task(Archiver(redis, kept).run())
        await wait_until(lambda: bool(said), "the trouble is told")
        blocked.rmdir()
        await wait_until(lambda: len(said) > 1, "the record is copied")
        await end([running])
    assert [entry["event"] for entry in said] == ["archive.fails", "archive.grew"]
    assert str(path) in said[0]["error"]
    assert indexes(kept) == [0]


async def test_one_process_writes_at_a_time(redis: Redis, kept: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    await put_chunk(redis, kept.upstream_name, used(0), name="5-0")
    path = place.place_of(kept)
    assert path is not None
    async with place.locked(path, wait=False) as ours:
        assert ours
        assert await Archiver(redis, kept).look() == 0
        monkeypatch.setattr(place, "_PATIENCE", 0.0)
        with pytest.raises(ArchiveError, match="try again"):
            await Archiver(redis, kept).look(now=True)
    assert await Archiver(redis, kept).look() == 1


async def test_two_archivers_together_leave_nothing_twice(redis: Redis, kept: Settings) -> None:
    for index in range(30):
        await put_chunk(redis, kept.upstream_name, used(index))
    grown = await asyncio.gather(*(Archiver(redis, kept).look(now=True) for _ in range(3)))
    assert sorted(grown) == [0, 0, 30]
    assert indexes(kept) == list(range(30))


async def test_other_books_are_read_from_their_beginning(redis: Redis, kept: Settings) -> None:
    books = keys.books(kept.upstream_name)
    await redis.execute_command("HSET", books, "id", "aaaa")
    await put_chunk(redis, kept.upstream_name, used(0), name="900-0")
    assert await Archiver(redis, kept).look(now=True) == 1
    await redis.delete(keys.usage(kept.upstream_name))
    await redis.execute_command("HSET", books, "id", "bbbb")
    await put_chunk(redis, kept.upstream_name, used(1), name="500-0")
    assert await Archiver(redis, kept).look(now=True) == 1
    assert sorted(indexes(kept)) == [0, 1]


async def test_what_is_removed_is_gone_from_the_disk(redis: Redis, kept: Settings) -> None:
    await put_chunk(redis, kept.upstream_name, used(0), used(1, project="secret", custom_id="very-private-name"))
    await put_chunk(redis, kept.upstream_name, used(2, batch="batch_2"))
    await Archiver(redis, kept).look(now=True)
    shelf = place.open_shelf(kept)
    assert shelf is not None
    assert shelf.forget("another upstream", Whose(project="secret")) == 0
    assert shelf.forget(kept.upstream_name, Whose(project="secret")) == 1
    assert shelf.forget(kept.upstream_name, Whose(project="p", batch="batch_2")) == 1
    assert shelf.tally(kept.upstream_name).records == 1
    assert shelf.cursor(Origin(kept.upstream_name, "")) != START
    path = place.place_of(kept)
    assert path is not None
    files = [file for file in path.parent.rglob("usage*") if file.is_file()]
    assert files
    assert not [file for file in files if b"very-private-name" in file.read_bytes()]
    shelf.close()
    assert await Archiver(redis, kept).look(now=True) == 0  # its place in the stream is not lost
    assert indexes(kept) == [0]


def test_a_place_that_can_not_be_written_is_named(kept: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    wrong = msgspec.structs.replace(kept.archive, path=str(tmp_path / "file" / "below"))
    with pytest.raises(ArchiveError, match=r"file/below.*\[archive\] path"):
        place.open_shelf(msgspec.structs.replace(kept, archive=wrong))


def test_a_database_of_another_version_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    other = msgspec.structs.replace(settings, archive=ArchiveSettings(kind="database", path=str(path)))
    with pytest.raises(ArchiveError, match="another version"):
        place.open_shelf(other)


async def test_without_an_archive_nothing_is_written(redis: Redis, settings: Settings) -> None:
    await put_chunk(redis, settings.upstream_name, used(0))
    assert await Archiver(redis, settings).look(now=True) == 0
    assert not settings.data_dir.exists()


async def test_who_is_cancelled_waits_for_the_thread_that_uses_the_archive() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(10)
        ended.set()

    task = asyncio.create_task(to_the_end(work))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
