"""The simulator as an HTTP server: `Simulator` for tests, `serve` for the command."""

import asyncio
import time
from collections.abc import Callable
from typing import Self

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from batchmill.config.errors import ConfigError
from batchmill.openrouter.simulator import refusals
from batchmill.openrouter.simulator.admin import PREFIX, Admin, is_loopback
from batchmill.openrouter.simulator.books import CallRecord, Stats
from batchmill.openrouter.simulator.completions import Completions
from batchmill.openrouter.simulator.faults import Faults, ModelFaults, check_faults
from batchmill.openrouter.simulator.lookups import Lookups
from batchmill.openrouter.simulator.options import SimulatorOptions
from batchmill.openrouter.simulator.upstream import Upstream

BASE_PATH = "/api/v1"

_COMPLETIONS = BASE_PATH + "/chat/completions"
_MAX_BODY = 64 * 1024 * 1024  # bytes
_BACKLOG = 4096  # clients that open a thousand connections at once
_GRACE = 0.1  # seconds for open calls when the simulator stops


class Simulator:
    """A simulated OpenRouter on one port, alive inside `async with`. Port 0 takes a free one."""

    def __init__(
        self,
        options: SimulatorOptions | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives unix seconds. Raises ConfigError for options that can't be used."""
        options = options or SimulatorOptions()
        if not is_loopback(host) and not options.allow_remote:
            raise ConfigError(f"the simulator asks nobody for a real key: '{host}' is not loopback, set allow_remote")
        self._host = host
        self._port = port
        self._upstream = Upstream(options, clock)
        self._completions = Completions(self._upstream)
        self._lookups = Lookups(self._upstream)
        self._admin = Admin(self._upstream)
        self._runner: web.ServerRunner | None = None

    @property
    def base_url(self) -> str:
        """The URL that stands in for `https://openrouter.ai/api/v1`."""
        return f"{self.url}{BASE_PATH}"

    @property
    def url(self) -> str:
        """The server's root, where `/_sim/...` is."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def stats(self) -> Stats:
        """The live statistics, as `GET /_sim/stats` gives them."""
        return self._upstream.books.stats

    @property
    def calls(self) -> list[CallRecord]:
        """The records of all calls, when the options ask for them."""
        return self._upstream.books.calls

    def set_faults(self, faults: Faults) -> None:
        """Change the faults of the calls to come, all of them. Raises ConfigError."""
        self._upstream.faults = check_faults(faults)

    def set_model_faults(self, model: str, faults: ModelFaults) -> None:
        """Change the faults of one model (or of a pattern) for the calls to come. Raises ConfigError."""
        self._upstream.faults = check_faults(self._upstream.faults.with_model(model, faults))

    def set_latency(self, spec: str) -> None:
        """Change the latency of the calls to come, save for models with one of their own; see `parse_latency`."""
        self._upstream.latencies = self._upstream.latencies.with_all(spec)

    def set_model_latency(self, model: str, spec: str | None) -> None:
        """Change the latency of one model (or of a pattern); None: it has none of its own. Raises ConfigError."""
        self._upstream.latencies = self._upstream.latencies.with_model(model, spec)

    async def __aenter__(self) -> Self:
        server = web.Server(self._handle, request_factory=_make_request, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=_GRACE)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, backlog=_BACKLOG).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST" and request.raw_path == _COMPLETIONS:
            return await self._completions(request)
        path = request.path
        if path.startswith(PREFIX):
            return await self._admin(request)
        if request.method == "GET" and path.startswith(BASE_PATH):
            return self._lookups(request, path.removeprefix(BASE_PATH))
        if path == _COMPLETIONS and request.method == "POST":
            return await self._completions(request)
        refusal = refusals.not_found(f"{request.method} {path} is not simulated")
        return web.Response(status=refusal.status, body=refusal.body, content_type="application/json")


async def serve(options: SimulatorOptions, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Run a simulator until cancelled; `ready` gets its base URL once it listens."""
    async with Simulator(options, host, port) as simulator:
        ready(simulator.base_url)
        await asyncio.Event().wait()


def _make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_BODY)
