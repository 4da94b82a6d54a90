"""What every test may ask for: a Redis of both kinds, and a check that no key without an end is left behind."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import fakeredis
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings, load
from batchmill.store.connection import connect
from batchmill.store.embedded import EmbeddedServer

from .gate_helpers import Clock, control_time

PERMANENT = (b"bm:lanes:", b"bm:batches", b"bm:live")
"""Keys that live for ever, as `store/keys.py` says; small and bounded."""

GATE = re.compile(
    rb"bm:{gate:[0-9a-f]+}:(books|policy|weights|pauses|suspects|audit|usage|user_key|owners|budget:(?:key:)?[^:]+:total|api_keys|api_key_use|key_budgets"
    rb"|alerts|alert_acks|alert_notes|deliveries|delivery_failures)"
)
"""Those of the gate's keys that live for ever, or until they are empty."""

ANSWERS = re.compile(rb"bm:{answers:[0-9a-f]+}:secret")
"""The answer cache's key that lives for ever."""

QUEUE = (
    b"bm:lane:",
    b"bm:leases:",
    b"bm:runs:",
    b"bm:flows:",
    b"bm:flow_facts:",
    b"bm:projects:",
    b"bm:turns:",
    b"bm:parked:",
    b"bm:deadlines",
    b"bm:to_finalize",
    b"bm:event_",
    b"bm:intakes:",
    b"bm:{files}:all",
    b"bm:{files}:of:",
    b"bm:{files}:ends",
)
"""Keys that are gone when they are empty."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A real server of the session's own."""
    embedded = EmbeddedServer(tmp_path_factory.mktemp("redis"))
    embedded.join()
    yield embedded
    embedded.leave()


@pytest.fixture(params=["real", "fake"])
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    """An empty Redis: the real server, and fakeredis for the same test."""
    fake = request.param == "fake"
    client: Redis = fakeredis.FakeAsyncRedis() if fake else connect(request.getfixturevalue("server").url)
    await client.flushall()
    yield client
    await check_leaks(client)
    await client.flushall()
    await client.aclose()


@pytest.fixture
async def real_redis(server: EmbeddedServer) -> AsyncIterator[Redis]:
    """An empty real server, for what fakeredis can't show."""
    client = connect(server.url)
    await client.flushall()
    yield client
    await check_leaks(client)
    await client.flushall()
    await client.aclose()


@pytest.fixture
async def clock(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that the scripts of the gate see, standing still until a test moves it."""
    control_time(monkeypatch)
    clock = Clock(redis)
    await clock.set(clock.now)
    return clock


async def check_leaks(client: Redis) -> None:
    """Fail when a key would stay for ever that should not."""
    for key in await client.keys("*"):
        if key.startswith((*PERMANENT, *QUEUE)) or GATE.fullmatch(key) or ANSWERS.fullmatch(key):
            continue
        gate, holds, owner = key.partition(b":holds:")
        if holds and await client.zscore(gate + b":owners", owner) is not None:
            continue
        assert await client.pttl(key) != -1, f"{key!r} has no end"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that touch nothing outside of the test."""
    return load(
        environ={
            "BATCHMILL_DATA_DIR": str(tmp_path / "data"),
            "BATCHMILL_BASE_URL": "http://127.0.0.1:1/v1",  # nobody is there
            "OPENROUTER_API_KEY": "sk-or-v1-test",
        }
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: what a worker keeps in its data folder must not meet another test, or a person's."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def no_stray_tasks() -> Iterator[None]:
    """Leave no running loop behind for the next test."""
    yield
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
