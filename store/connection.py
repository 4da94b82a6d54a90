"""One way to Redis: a pool that outlives an outage, and a look at the server before anything depends on it.

Workers use `connect(...)` with arq's client, because arq's worker needs it; it is a plain redis-py client otherwise.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
import structlog
from arq.connections import ArqRedis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis's own names
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,  # noqa: A004
)

from batchmill.config.settings import Settings
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.errors import StoreError

log = structlog.get_logger()

T = TypeVar("T")

OUTAGE = (ConnectionError, TimeoutError, BusyLoadingError, OSError)
"""What a client sees while the server is away or still reading its log: wait and go on."""

_REFUSALS = (AuthenticationError, AuthorizationError)
_BACKOFF = ExponentialBackoff(cap=0.5, base=0.02)
_RETRIES = 8  # about two seconds in all; whoever must wait longer loops over OUTAGE
_PASSING = ("MISCONF", "MASTERDOWN", "NOREPLICAS", "BUSY", "OOM", "READONLY", "LOADING")
_OUTAGE_PAUSE = 0.2
_POOL_TIMEOUT = 30.0
_CONNECTIONS = 64
_CONNECT_TIMEOUT = 5.0
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 25_000))


def pack_job(job: dict[str, Any]) -> bytes:
    """Serialize arq's job as MessagePack: arq's default, pickle, runs code when it is read."""
    return msgspec.msgpack.encode(job)


def unpack_job(data: bytes) -> dict[str, Any]:
    """Read what `pack_job` wrote."""
    return msgspec.msgpack.decode(data, type=dict[str, Any])


def connect(url: str, *, max_connections: int = _CONNECTIONS, retries: int = _RETRIES) -> ArqRedis:
    """Return a client of the server at the URL; nothing is sent yet. The caller closes it with `aclose()`."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=_POOL_TIMEOUT,
        socket_connect_timeout=_CONNECT_TIMEOUT,
        **_liveness(url),
        retry=Retry(_BACKOFF, retries),
        retry_on_error=[ConnectionError, TimeoutError, BusyLoadingError],
        protocol=2,
    )
    client = ArqRedis(pool_or_conn=cast("Any", pool), job_serializer=pack_job, job_deserializer=unpack_job)
    client.auto_close_connection_pool = True
    return client


def _liveness(url: str) -> dict[str, Any]:
    """Return options by which the kernel notices a peer that is gone, within half a minute.

    Not redis-py's `socket_timeout`: it sends each command through `asyncio.wait_for`, which costs a task a command and,
    before Python 3.12, now and then swallows a cancellation.
    """
    if urlsplit(url).scheme == "unix":
        return {}
    known = {getattr(socket, name): value for name, value in _KEEPALIVE if hasattr(socket, name)}
    return {"socket_keepalive": True, "socket_keepalive_options": known}


def passes(error: BaseException) -> bool:
    """Whether an error is an outage, or a state that the server may leave again: no memory, no disk, read-only."""
    return isinstance(error, (*OUTAGE, OutOfMemoryError, ReadOnlyError)) or str(error).startswith(_PASSING)


async def outlive(step: Callable[[], Awaitable[T]]) -> T:
    """Repeat a step until the server takes it, through outages. Only for steps that may be done twice."""
    warned = False
    while True:
        try:
            return await step()
        except (*OUTAGE, RedisError) as error:
            if not passes(error):
                raise
            if not warned:
                log.warning("redis.away", error=repr(error))
            warned = True
            await asyncio.sleep(_OUTAGE_PAUSE)


def printable(url: str) -> str:
    """Return a Redis URL without its password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class ServerFacts(msgspec.Struct, frozen=True):
    """What `inspect` saw of the server."""

    version: str
    policy: str
    persistence: str  # "append-only", "snapshots" or "none"
    role: str
    clock: float  # unix seconds


async def inspect(redis: Redis, url: str) -> ServerFacts:
    """Look at the server and refuse one that can lose lines or money: StoreError says why and what to do."""
    where = printable(url)
    try:
        info = await redis.execute_command("INFO")
        clock = await redis.execute_command("TIME")
        policy = str(info.get("maxmemory_policy", "noeviction"))
    except (*OUTAGE, RedisError) as error:
        raise StoreError(_why_silent(where, error)) from error
    if policy != "noeviction":
        raise StoreError(
            f"Redis at {where} may evict our keys (maxmemory-policy {policy}); "
            "run it with --maxmemory-policy noeviction"
        )
    if info.get("role") != "master":
        raise StoreError(f"Redis at {where} is a replica and can't be written to; give the URL of the primary")
    await _try_write(redis, where)
    return ServerFacts(
        version=str(info.get("valkey_version") or info.get("redis_version") or "?"),
        policy=policy,
        persistence=_persistence(info),
        role="master",
        clock=_seconds(clock),
    )


def _why_silent(where: str, error: BaseException) -> str:
    # redis-py says "connection error" for a refused password, too, on top of the real reason
    refused = any(isinstance(one, _REFUSALS) for one in (error, error.__cause__))
    if isinstance(error, OUTAGE) and not refused:
        return f"Redis at {where} can't be reached ({_reason(error)}); check the URL and the server"
    return f"Redis at {where} refuses us: {error}; check the user and password in the URL"


async def _try_write(redis: Redis, where: str) -> None:
    try:
        await redis.execute_command("SET", "bm:probe", "1", "PX", 1000)
    except RedisError as error:
        raise StoreError(
            f"Redis at {where} does not take writes: {error}; check its disk and its memory limit"
        ) from error


def _persistence(info: dict[str, Any]) -> str:
    if int(info.get("aof_enabled", 0)):
        return "append-only"
    return "snapshots" if int(info.get("rdb_last_save_time", 0)) and info.get("rdb_saves") else "none"


def _seconds(clock: Any) -> float:
    seconds, microseconds = clock
    return float(seconds) + float(microseconds) / 1e6


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


class Store(msgspec.Struct, frozen=True):
    """An open way to Redis. `server` is the embedded one, None when it is somebody else's."""

    redis: ArqRedis
    url: str
    facts: ServerFacts
    server: EmbeddedServer | None


@asynccontextmanager
async def open_store(settings: Settings, *, max_connections: int = _CONNECTIONS) -> AsyncIterator[Store]:
    """Open the settings' Redis, or join the embedded server of the data folder. Raises StoreError."""
    async with AsyncExitStack() as stack:
        server = None
        if settings.redis_url is None:
            server = await stack.enter_async_context(EmbeddedServer(settings.data_dir))
        url = settings.redis_url or (server.url if server else "")
        redis = connect(url, max_connections=max_connections)
        stack.push_async_callback(redis.aclose)
        yield Store(redis, url, await inspect(redis, url), server)
