"""A gateway that listens."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

import uvicorn
from redis.asyncio import Redis

from batchmill.config.errors import ConfigError
from batchmill.config.settings import Settings
from batchmill.producer import Producer
from batchmill.service.access.connections import Bounds, connection_of
from batchmill.service.access.origin import is_loopback
from batchmill.service.app import make_app
from batchmill.service.context import Service
from batchmill.storage.objects import open_blobs

_KEEP_ALIVE = 75  # seconds; longer than the minute after which most proxies in front drop an idle connection
_GRACE = 20  # seconds that requests may take to end after the first signal


class _Server(uvicorn.Server):
    """Uvicorn's server, which leaves signals to the command that runs it."""

    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Capture none."""
        return contextlib.nullcontext()


async def serve(redis: Redis, settings: Settings, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Answer requests until `stop` is set; `ready` hears the URL once we listen.

    Raises OSError for a taken port, and ConfigError where others could reach us and there is no API key.
    """
    service = Service(redis, settings, Producer(redis, settings), open_blobs(settings))
    listen = settings.service
    await _check_access(service)
    sockets = [_listening(listen.host, listen.port)]
    app = make_app(service)
    app.state.stopping = stop  # so that answers without an end have one
    server = _Server(
        uvicorn.Config(
            app,
            http=connection_of(Bounds(listen.body_timeout, listen.max_connections)),
            ws="none",
            proxy_headers=False,  # who asks is who connected: a header can say anything
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
            lifespan="on",
        )
    )
    serving = asyncio.create_task(server.serve(sockets))
    stopping = asyncio.create_task(stop.wait())
    try:
        ready(url_of(sockets[0]))
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        stopping.cancel()
        await serving


async def _check_access(service: Service) -> None:
    host = service.settings.service.host
    rehearsal = " --simulate" if service.settings.simulate else ""
    if not is_loopback(host) and not await service.keyring.needed(service.redis, service.upstream):
        raise ConfigError(
            f"without an API key only 127.0.0.1 is listened at, not {host}: anybody there could spend your money; "
            f"make one with `batchmill keys create NAME{rehearsal}`"
        )


def url_of(listening: socket.socket) -> str:
    """Return the URL by which a listening socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listening(host: str, port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.create_server(address[:2], family=family, backlog=2048)
    # inherited by each connection; asyncio sets it only where the protocol was named. Without it an answer's body waits
    # for the client to acknowledge its head: 40 ms
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
