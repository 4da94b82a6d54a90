"""A gateway under test: over a real socket as clients see it, or in this process where the socket adds nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.producer import Producer
from batchmill.service.app import make_app
from batchmill.service.context import Service
from batchmill.service.serving import serve
from batchmill.storage.objects import open_blobs

_PATIENCE = 30.0  # seconds; only a test that fails waits so long


def service_of(redis: Redis, settings: Settings) -> Service:
    """Return what handlers and tasks are given, for tests that call them themselves."""
    return Service(redis, settings, Producer(redis, settings), open_blobs(settings))


@asynccontextmanager
async def serving(
    redis: Redis, settings: Settings, *, headers: dict[str, str] | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Run a gateway with its background tasks at a free port of loopback; yield a client of it (paths: "/v1/...")."""
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    anywhere = msgspec.structs.replace(settings, service=msgspec.structs.replace(settings.service, port=0))
    server = asyncio.create_task(serve(redis, anywhere, listening.set_result, stop))
    either: list[asyncio.Future[Any]] = [server, listening]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not listening.done():
        await server  # says why it could not listen
    try:
        async with httpx.AsyncClient(base_url=listening.result(), headers=headers, timeout=_PATIENCE) as client:
            yield client
    finally:
        stop.set()
        await server


@asynccontextmanager
async def in_process(
    redis: Redis, settings: Settings, *, headers: dict[str, str] | None = None, tasks: bool = True
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client that calls the application without a socket; its background tasks run with `tasks`."""
    app = make_app(service_of(redis, settings))
    transport = httpx.ASGITransport(app)
    client = httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:8080", headers=headers, timeout=_PATIENCE
    )
    async with client:
        if not tasks:
            yield client
            return
        async with app.router.lifespan_context(app):
            yield client
