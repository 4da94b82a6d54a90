"""Blobs by obstore: one implementation for a folder and for S3."""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from batchmill.config.settings import Settings
from batchmill.storage.blobs import MissingBlobError, StorageError

FOLDERS = ("files", "output", "errors")
"""What names begin with."""

_PART = 1 << 20
_PARTS_IN_THE_AIR = 4  # of 5 MiB each: what a fast client and a slow S3 may cost in memory
_PRIVATE = 0o600
_HALF_WRITTEN = re.compile(r"#\d+$")  # as obstore calls a local file until it is whole
_LEFT_OVER_SECONDS = 86_400
_BACKOFF = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2}
_RETRIES = {"max_retries": 6, "retry_timeout": timedelta(seconds=30), "backoff": _BACKOFF}  # about four seconds in all
_HINTS = {
    "NoSuchBucket": "there is no such bucket; make it, or correct [storage] bucket, endpoint and region in the config",
    "AccessDenied": "access is denied; the credentials need s3:GetObject, PutObject, DeleteObject and ListBucket",
    "InvalidAccessKeyId": "the access key is not known there; see AWS_ACCESS_KEY_ID and [storage] endpoint",
    "SignatureDoesNotMatch": "the secret key is wrong; see AWS_SECRET_ACCESS_KEY",
}


class ObjectBlobs:
    """What `Blobs` promises, by an object store."""

    def __init__(self, store: ObjectStore, where: str, folder: Path | None = None) -> None:
        """`where` is for people; `folder` is where a local store has its files."""
        self._store = store
        self._where = where
        self._folder = folder

    async def put(self, name: str, parts: AsyncIterator[bytes]) -> int:
        """See `Blobs`."""
        written = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal written
            async for part in parts:
                written += len(part)
                yield part

        try:
            await obstore.put_async(self._store, name, counted(), max_concurrency=_PARTS_IN_THE_AIR)
            if self._folder is not None:
                os.chmod(self._folder / name, _PRIVATE)
        except (BaseError, OSError) as error:
            raise self._failed(error) from error
        return written

    async def read(self, name: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """See `Blobs`."""
        try:
            whole = await obstore.get_async(
                self._store,
                name,
                options={"range": (start, end)} if end else {"range": {"offset": start}} if start else None,
            )
            async for part in whole.stream(min_chunk_size=_PART):
                yield bytes(part)
        except FileNotFoundError as error:
            raise MissingBlobError(f"{self._where} has no '{name}'") from error
        except (BaseError, OSError) as error:
            raise self._failed(error) from error

    async def fetch(self, name: str, target: Path) -> None:
        """See `Blobs`."""
        with target.open("wb") as file:
            async for part in self.read(name):
                file.write(part)

    async def delete(self, name: str) -> None:
        """See `Blobs`."""
        try:
            await obstore.delete_async(self._store, name)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise self._failed(error) from error

    async def tidy(self) -> None:
        """See `Blobs`. Object storage never shows what is half written; its own rules remove that."""
        if self._folder is not None:
            await asyncio.to_thread(_remove_left_overs, self._folder)

    async def names(self, prefix: str) -> list[str]:
        """See `Blobs`."""
        try:
            found = [entry["path"] async for page in obstore.list(self._store, prefix) for entry in page]
        except (BaseError, OSError) as error:
            raise self._failed(error) from error
        return sorted(found)

    def _failed(self, error: Exception) -> StorageError:
        said, _, _ = str(error).partition("\n")  # what follows is obstore's own state, over forty lines
        return StorageError(f"the storage of files ({self._where}) can't be used: {_hint(str(error)) or said}")


def _hint(said: str) -> str:
    """Return what to do about an error that has a usual cause; "" for another one."""
    for sign, what in _HINTS.items():
        if sign in said:
            return what
    return ""


def _remove_left_overs(folder: Path) -> None:
    oldest = time.time() - _LEFT_OVER_SECONDS
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another gateway was quicker
            if _HALF_WRITTEN.search(path.name) and path.stat().st_mtime < oldest:
                path.unlink()


def _local(folder: Path) -> ObjectBlobs:
    for each in (folder, *(folder / name for name in FOLDERS)):
        each.mkdir(parents=True, exist_ok=True, mode=0o700)
    return ObjectBlobs(LocalStore(prefix=folder), str(folder), folder)


def open_blobs(settings: Settings) -> ObjectBlobs:
    """Return the storage that the settings name. Raises StorageError."""
    storage = settings.storage
    if storage.kind == "local":
        folder = Path(storage.path).expanduser() if storage.path else settings.data_dir / "files"
        try:
            return _local(folder)
        except (BaseError, OSError) as error:
            raise StorageError(f"the folder for files ({folder}) can't be used: {error}") from error
    if not storage.bucket:
        raise StorageError('storage.kind = "s3" needs storage.bucket in the config file')
    options = {"endpoint": storage.endpoint or None, "region": storage.region or None}
    given: dict[str, object] = {name: value for name, value in options.items() if value}
    given["retry_config"] = _RETRIES
    if storage.endpoint.startswith("http://"):
        given["client_options"] = {"allow_http": True}
    store = S3Store(storage.bucket, prefix=storage.prefix or None, **given)  # type: ignore[arg-type]  # names as obstore's
    return ObjectBlobs(store, f"s3://{storage.bucket}/{storage.prefix}")
