"""The server that comes along: one a data folder, whoever starts, kills or leaves it."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from batchmill.store import embedded
from batchmill.store.connection import connect, inspect
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.errors import StoreError

from .waiting import wait_until

USER = """
import sys
from pathlib import Path
from batchmill.store.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.join()
print(server.pid_path.read_text().strip(), flush=True)
sys.stdin.read()
server.leave()
"""


@contextmanager
def user(data_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that uses the server; it leaves when its standard input closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process


def server_of(process: "subprocess.Popen[str]") -> int:
    """Wait until the user has joined; return the server's process id."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def pid_of(server: EmbeddedServer) -> int:
    return int(server.pid_path.read_text())


async def gone(pid: int) -> None:
    """Wait for a process' end; nobody may have asked for its exit code yet."""

    def ended() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await wait_until(ended, f"the end of {pid}")


@contextmanager
def stopped(server: EmbeddedServer) -> Iterator[int]:
    """Let the server hang, as a machine does that sleeps or swaps."""
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


async def answer(server: EmbeddedServer, *command: str) -> object:
    redis: Redis = connect(server.url, retries=0)
    try:
        return await redis.execute_command(*command)
    finally:
        await redis.aclose()


async def test_it_starts_for_the_first_user_and_stops_with_the_last(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as first:
        pid = pid_of(first)
        assert await answer(first, "PING")
        async with EmbeddedServer(tmp_path) as second:
            assert pid_of(second) == pid
            assert second.url == first.url
        assert await answer(first, "PING")
    await gone(pid)
    first.leave()  # once more is harmless


async def test_what_was_written_is_there_the_next_time(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        await answer(server, "SET", "a", "1")
    async with EmbeddedServer(tmp_path) as server:
        assert await answer(server, "GET", "a") == b"1"


async def test_it_keeps_everything_and_nobody_else_gets_at_it(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with EmbeddedServer(data_dir) as server:
        redis = connect(server.url)
        facts = await inspect(redis, server.url)
        options = await redis.config_get("*")
        await redis.aclose()
        process = psutil.Process(pid_of(server))

        assert (facts.persistence, facts.policy, facts.role) == ("append-only", "noeviction", "master")
        assert (options["appendonly"], options["appendfsync"], options["maxmemory"]) == ("yes", "everysec", "0")
        assert [found for found in process.net_connections("inet") if found.status == psutil.CONN_LISTEN] == []
        assert options["port"] == "0"
        assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o700
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        for name in ("redis.log", "appendonlydir"):
            assert stat.S_IMODE((data_dir / name).stat().st_mode) & 0o077 == 0, f"others can read {name}"


async def test_many_starters_at_once_get_one_server(tmp_path: Path) -> None:
    with user(tmp_path) as one, user(tmp_path) as two, user(tmp_path) as three:
        pids = {server_of(process) for process in (one, two, three)}
        assert len(pids) == 1
        for process in (one, two, three):
            process.communicate()
    await gone(pids.pop())


async def test_a_killed_server_comes_back_with_what_it_had_acknowledged(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        pid = pid_of(server)
        await answer(server, "SET", "a", "1")
        os.kill(pid, signal.SIGKILL)
        await gone(pid)
        await asyncio.to_thread(server.ensure_running)
        assert pid_of(server) != pid
        assert await answer(server, "GET", "a") == b"1"
        await asyncio.to_thread(server.ensure_running)
    await gone(pid_of_last(tmp_path))


def pid_of_last(data_dir: Path) -> int:
    """Return the process id in the server's log, for when its pid file is gone."""
    return int((data_dir / "redis.log").read_text().strip().rpartition("\n")[2].split(":")[0])


async def test_a_killed_user_takes_nobody_along_and_holds_nobody_up(tmp_path: Path) -> None:
    with user(tmp_path) as starter, user(tmp_path) as other:
        pid = server_of(starter)
        assert server_of(other) == pid
        starter.kill()
        starter.wait()
        assert psutil.pid_exists(pid)
        server = EmbeddedServer(tmp_path)
        assert await answer(server, "PING")
        other.communicate()
    await gone(pid)


async def test_a_user_killed_as_the_last_leaves_the_server_to_the_next(tmp_path: Path) -> None:
    with user(tmp_path) as only:
        pid = server_of(only)
        only.kill()
    async with EmbeddedServer(tmp_path) as server:
        assert pid_of(server) == pid
    await gone(pid)


async def test_a_server_that_hangs_is_never_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers on one log would ruin it: one that does not answer may be busy, or asleep with the machine."""
    monkeypatch.setattr(embedded, "_ANSWER_TIMEOUT", 0.05)
    monkeypatch.setattr(embedded, "_READY_TIMEOUT", 0.1)
    async with EmbeddedServer(tmp_path) as server:
        await answer(server, "SET", "a", "1")
        with stopped(server) as pid:
            await asyncio.to_thread(server.ensure_running)
            with pytest.raises(StoreError, match="does not answer"):
                await asyncio.to_thread(EmbeddedServer(tmp_path).join)
        assert pid_of(server) == pid
        assert await answer(server, "GET", "a") == b"1"


async def test_a_long_path_gets_a_socket_elsewhere(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 30) / "data"
    async with EmbeddedServer(data_dir) as server:
        assert server.socket_path.parent != data_dir
        assert stat.S_IMODE(server.socket_path.parent.stat().st_mode) == 0o700
        assert EmbeddedServer(data_dir).url == server.url
        assert await answer(server, "PING")
        assert (data_dir / "appendonlydir").is_dir()
    server.socket_path.parent.rmdir()


async def test_a_socket_folder_that_others_can_enter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have put a server of his own there, to read what we send."""
    data_dir = tmp_path / ("long" * 30)
    server = EmbeddedServer(data_dir)
    server.socket_path.parent.mkdir(mode=0o755)
    try:
        with pytest.raises(StoreError, match="not ours alone"):
            server.join()
        with socket.socket(socket.AF_UNIX) as impostor:
            impostor.bind(str(server.socket_path))
            with pytest.raises(StoreError, match="not ours alone"):
                server.join()
    finally:
        server.socket_path.unlink(missing_ok=True)
        server.socket_path.parent.rmdir()


@pytest.mark.parametrize("below", [False, True])
def test_a_data_folder_that_is_none_is_named_in_one_line(tmp_path: Path, below: bool) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError) as caught:
        EmbeddedServer(file / "below" if below else file).join()
    message = str(caught.value)
    assert message.startswith(f"data folder {file}")
    assert message.endswith("set BATCHMILL_DATA_DIR to another")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["users.lock", "start.lock", "server.lock"])
def test_a_lock_that_can_not_be_opened_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StoreError, match="can't be used"):
        EmbeddedServer(tmp_path).join()


@pytest.mark.parametrize("binary", ["/nonexistent/server", "/bin/false"])
def test_a_binary_that_does_not_run_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binary: str
) -> None:
    monkeypatch.setattr(embedded, "get_binary_path", lambda: binary)
    with pytest.raises(StoreError, match=r"can't be started .* BATCHMILL_REDIS_URL"):
        EmbeddedServer(tmp_path).join()


def test_a_server_that_dies_as_it_starts_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(StoreError, match="did not start; its log is"):
        EmbeddedServer(tmp_path).join()


def test_a_server_that_was_dying_when_we_looked_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9 the kernel may hold its lock for a moment longer: it looks alive, and then it is gone."""
    server = EmbeddedServer(tmp_path)
    start = server._start_if_dead
    looks = iter([False])
    monkeypatch.setattr(server, "_start_if_dead", lambda: next(looks, None) is None and start())
    server.join()
    try:
        assert server.pid_path.exists()
    finally:
        server.leave()
