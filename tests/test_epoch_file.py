"""What a machine's workers know of the books, over their restarts."""

from pathlib import Path

import msgspec
import pytest

from batchmill.config.settings import Settings
from batchmill.store.epoch import Seen
from batchmill.workers.epoch_file import EpochFile


def at(settings: Settings, **fields: object) -> EpochFile:
    return EpochFile(msgspec.structs.replace(settings, **fields))


def test_what_was_seen_is_read_by_who_comes_after(settings: Settings) -> None:
    at(settings).write(Seen("books-1", 41))
    at(settings).write(Seen("books-1", 42))
    assert at(settings).read() == Seen("books-1", 42)
    assert [path.suffix for path in (settings.data_dir / "epochs").iterdir()] == [".json"]


def test_each_server_has_its_own(settings: Settings) -> None:
    at(settings, redis_url="redis://one:6379/0").write(Seen("books-1", 1))
    assert at(settings, redis_url="redis://two:6379/0").read() == Seen()
    assert at(settings).read() == Seen()


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"epoch":"many"}'])
def test_what_can_not_be_read_is_nothing(settings: Settings, content: bytes | None) -> None:
    file = at(settings)
    if content is not None:
        file.write(Seen("books-1", 1))
        file._path.write_bytes(content)
    assert file.read() == Seen()


def test_a_folder_that_can_not_be_written_is_no_trouble(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    file = at(settings, data_dir=tmp_path / "file")
    file.write(Seen("books-1", 1))
    assert file.read() == Seen()
