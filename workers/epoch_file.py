"""What a machine's workers know of the books, over their restarts: a small file in the data folder, one an upstream.

Without it a fleet that was down while its Redis was restored would not notice. Where it can't be written (a read-only
container), workers know what they have seen themselves, and no more.
"""

import contextlib
import os
from hashlib import blake2b

import msgspec
import structlog

from batchmill.config.settings import Settings
from batchmill.config.urls import normalized_url
from batchmill.store.epoch import Seen

log = structlog.get_logger()


class EpochFile:
    """Reads and writes what was seen; all workers of a data folder share it."""

    def __init__(self, settings: Settings) -> None:
        where = settings.redis_url or "embedded"
        place = where if where.startswith(("embedded", "unix:")) else normalized_url(where)
        name = blake2b(f"{place} {settings.upstream_name}".encode(), digest_size=8).hexdigest()
        self._path = settings.data_dir / "epochs" / f"{name}.json"

    def read(self) -> Seen:
        """Return what was seen last; nothing when nobody wrote it, or nobody can read it."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Seen)
        except (OSError, msgspec.MsgspecError):
            return Seen()

    def write(self, seen: Seen) -> None:
        """Keep what was seen, whole or not at all."""
        draft = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(msgspec.json.encode(seen))
            draft.replace(self._path)
        except OSError as error:
            log.debug("epoch.unwritable", path=str(self._path), error=error.strerror)
            with contextlib.suppress(OSError):
                draft.unlink()
