"""Bytes under a name, in a folder and in an S3 on this machine: whole or not at all, from any byte on."""

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import msgspec
import pytest
from moto.server import ThreadedMotoServer

from batchmill.config.sections import StorageSettings
from batchmill.config.settings import Settings
from batchmill.storage.blobs import MissingBlobError, StorageError
from batchmill.storage.objects import ObjectBlobs, open_blobs

from .waiting import wait_until

BUCKET = "batchmill-test"
LARGE = 21 << 20  # more than obstore sends to S3 as one part


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of an S3 with an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_settings(settings: Settings, s3: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    httpx.post(f"{s3}/moto-api/reset").raise_for_status()  # what other tests left: it is one memory a process
    client_of(s3).create_bucket(Bucket=BUCKET)
    prefix = f"some/where/{secrets.token_hex(4)}"  # the bucket is that of all tests, also of other files
    storage = StorageSettings(kind="s3", bucket=BUCKET, prefix=prefix, endpoint=s3, region="us-east-1")
    return msgspec.structs.replace(settings, storage=storage)


def client_of(url: str) -> Any:
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1")


@pytest.fixture(params=["local", "s3"])
def blobs(request: pytest.FixtureRequest, settings: Settings) -> ObjectBlobs:
    if request.param == "s3":
        settings = request.getfixturevalue("s3_settings")
    return open_blobs(settings)


async def parts(*sent: bytes, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for part in sent:
        yield part
    if then is not None:
        raise then


async def whole(blobs: ObjectBlobs, name: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([part async for part in blobs.read(name, start, end)])


async def test_what_was_written_is_read_from_any_byte_on(blobs: ObjectBlobs, tmp_path: Path) -> None:
    assert await blobs.put("files/a", parts(b"one", b"", b"two")) == 6
    assert await whole(blobs, "files/a") == b"onetwo"
    assert await whole(blobs, "files/a", 2) == b"etwo"
    assert await whole(blobs, "files/a", 2, 4) == b"et"
    assert await whole(blobs, "files/a", 0, 1) == b"o"
    await blobs.fetch("files/a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"onetwo"
    await blobs.put("files/a", parts(b"another"))
    assert await whole(blobs, "files/a") == b"another"
    await blobs.put("output/b", parts(b"x"))
    assert await blobs.names("files") == ["files/a"]
    await blobs.delete("files/a")
    await blobs.delete("files/a")
    await blobs.delete("output/b")
    assert await blobs.names("files") == []


async def test_an_empty_file_is_one(blobs: ObjectBlobs) -> None:
    assert await blobs.put("files/empty", parts()) == 0
    assert await whole(blobs, "files/empty") == b""
    await blobs.delete("files/empty")


async def test_what_is_not_there_is_told(blobs: ObjectBlobs, tmp_path: Path) -> None:
    with pytest.raises(MissingBlobError, match="files/none"):
        await whole(blobs, "files/none")
    with pytest.raises(MissingBlobError):
        await blobs.fetch("files/none", tmp_path / "copy")


async def test_a_large_file_goes_in_parts(blobs: ObjectBlobs) -> None:
    block = os.urandom(1 << 20)
    assert await blobs.put("files/large", parts(*[block] * 21)) == LARGE
    assert await whole(blobs, "files/large", LARGE - 5) == block[-5:]
    assert await whole(blobs, "files/large", (10 << 20) - 2, (10 << 20) + 2) == block[-2:] + block[:2]
    assert len(await whole(blobs, "files/large")) == LARGE
    await blobs.delete("files/large")


class BrokenOffError(Exception):
    """What a client does."""


@pytest.mark.parametrize("size", [1, 20])
async def test_what_breaks_off_leaves_nothing(blobs: ObjectBlobs, size: int) -> None:
    with pytest.raises(BrokenOffError):
        await blobs.put("files/broken", parts(*[b"x" * (1 << 20)] * size, then=BrokenOffError()))
    with pytest.raises(MissingBlobError):
        await whole(blobs, "files/broken")
    assert await blobs.names("files") == []


async def test_parts_of_what_broke_off_are_not_kept(s3_settings: Settings) -> None:
    client = client_of(s3_settings.storage.endpoint)
    blobs = open_blobs(s3_settings)
    with pytest.raises(BrokenOffError):
        await blobs.put("files/broken", parts(*[b"x" * (1 << 20)] * 20, then=BrokenOffError()))
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)


async def test_what_breaks_off_does_not_touch_what_was_there(blobs: ObjectBlobs) -> None:
    await blobs.put("files/a", parts(b"first"))
    with pytest.raises(BrokenOffError):
        await blobs.put("files/a", parts(b"second", then=BrokenOffError()))
    assert await whole(blobs, "files/a") == b"first"
    await blobs.delete("files/a")


async def test_a_writer_that_is_cancelled_leaves_nothing(settings: Settings) -> None:
    blobs = open_blobs(settings)
    folder = settings.data_dir / "files" / "files"
    more = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x" * (8 << 20)
        await more.wait()

    writing = asyncio.create_task(blobs.put("files/a", stuck()))
    await wait_until(lambda: bool(list(folder.iterdir())), "it is being written")
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await wait_until(lambda: not list(folder.iterdir()), "nothing is left")


async def test_only_its_owner_reads_a_local_file(settings: Settings) -> None:
    blobs = open_blobs(settings)
    await blobs.put("files/a", parts(b"secret"))
    root = settings.data_dir / "files"
    for folder in (root, root / "files", root / "output", root / "errors"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "files" / "a").stat().st_mode) == 0o600


async def test_what_a_dead_writer_left_goes_after_a_day(settings: Settings) -> None:
    blobs = open_blobs(settings)
    await blobs.put("files/a", parts(b"whole"))
    folder = settings.data_dir / "files" / "files"
    for name, age in (("old#1", 90_000), ("young#1", 10), ("a", 90_000)):
        (folder / name).touch()
        os.utime(folder / name, (os.stat(folder).st_mtime - age,) * 2)
    await blobs.tidy()
    assert sorted(path.name for path in folder.iterdir()) == ["a", "young#1"]


async def test_a_missing_bucket_says_what_to_do(s3_settings: Settings) -> None:
    storage = msgspec.structs.replace(s3_settings.storage, bucket="nobody-made-it")
    blobs = open_blobs(msgspec.structs.replace(s3_settings, storage=storage))
    for attempt in (blobs.put("files/a", parts(b"x")), blobs.put("files/a", parts(*[b"x" * (1 << 20)] * 11))):
        with pytest.raises(StorageError, match=r"s3://nobody-made-it/some/where.*make it, or correct \[storage\]"):
            await attempt


async def test_an_s3_that_can_t_be_reached_is_told(s3_settings: Settings) -> None:
    storage = msgspec.structs.replace(s3_settings.storage, endpoint="http://127.0.0.1:9")
    blobs = open_blobs(msgspec.structs.replace(s3_settings, storage=storage))
    with pytest.raises(StorageError, match="can't be used") as caught:
        await whole(blobs, "files/a")
    assert "\n" not in str(caught.value)  # it is logged with every try, as long as the storage is away


def test_s3_needs_a_bucket(settings: Settings) -> None:
    with pytest.raises(StorageError, match=r"storage\.bucket"):
        open_blobs(msgspec.structs.replace(settings, storage=StorageSettings(kind="s3")))


def test_a_folder_that_can_t_be_made_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    storage = StorageSettings(path=str(tmp_path / "taken" / "files"))
    with pytest.raises(StorageError, match="taken"):
        open_blobs(msgspec.structs.replace(settings, storage=storage))
