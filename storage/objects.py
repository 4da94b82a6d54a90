"""Blobs by obstore: one implementation for a folder and for S3."""

from collections.abc import AsyncIterator
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from batchmill.config.settings import Settings
from batchmill.storage.blobs import MissingBlobError, StorageError

_PART = 1 << 20


class ObjectBlobs:
    """What `Blobs` promises, by an object store."""

    def __init__(self, store: ObjectStore, where: str) -> None:
        self._store = store
        self._where = where

    async def put(self, name: str, parts: AsyncIterator[bytes]) -> int:
        """See `Blobs`."""
        written = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal written
            async for part in parts:
                written += len(part)
                yield part

        try:
            await obstore.put_async(self._store, name, counted())
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

    async def size(self, name: str) -> int:
        """See `Blobs`."""
        try:
            return int((await obstore.head_async(self._store, name))["size"])
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

    async def names(self, prefix: str) -> list[str]:
        """See `Blobs`."""
        try:
            found = [entry["path"] async for page in obstore.list(self._store, prefix) for entry in page]
        except (BaseError, OSError) as error:
            raise self._failed(error) from error
        return sorted(found)

    def _failed(self, error: Exception) -> StorageError:
        return StorageError(f"the storage of files ({self._where}) can't be used: {error}")


def open_blobs(settings: Settings) -> ObjectBlobs:
    """Return the storage that the settings name. Raises StorageError."""
    storage = settings.storage
    if storage.kind == "local":
        folder = Path(storage.path).expanduser() if storage.path else settings.data_dir / "files"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return ObjectBlobs(LocalStore(prefix=folder), str(folder))
    if not storage.bucket:
        raise StorageError('storage.kind = "s3" needs storage.bucket in the config file')
    options = {"endpoint": storage.endpoint or None, "region": storage.region or None}
    given = {name: value for name, value in options.items() if value}
    store = S3Store(storage.bucket, prefix=storage.prefix or None, **given)  # type: ignore[arg-type]  # names as obstore's
    return ObjectBlobs(store, f"s3://{storage.bucket}/{storage.prefix}")
