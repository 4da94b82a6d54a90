"""A client for the simulator that shows everything it answers."""

import io
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
import msgspec

from batchmill.openrouter.simulator import Simulator, SimulatorOptions

MODEL = "openai/gpt-4o-mini"
KEY = {"Authorization": "Bearer sk-or-v1-test"}


class Reply(msgspec.Struct, frozen=True):
    """One answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, its numbers exact."""
        return json.loads(self.body, parse_float=Decimal)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def metadata(self) -> Any:
        return self.error["metadata"]

    @property
    def events(self) -> list[Any]:
        """The JSON events of a stream; without comments and the end mark."""
        lines = [line for line in self.body.decode().split("\n\n") if line.startswith("data: {")]
        return [json.loads(line.removeprefix("data: "), parse_float=Decimal) for line in lines]


class Desk:
    """One simulator and a session to ask it."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.session = session

    async def ask(self, prompt: str = "Hello", headers: dict[str, str] | None = None, **fields: Any) -> Reply:
        """Send one completion."""
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": prompt}], **fields})
        return await self.post("/chat/completions", body.encode(), headers)

    async def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Reply:
        url, headers = self._url(path), KEY if headers is None else headers
        async with self.session.post(url, data=io.BytesIO(body), headers=headers) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        url, headers = self._url(path), KEY if headers is None else headers
        async with self.session.get(url, headers=headers) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    def _url(self, path: str) -> str:
        return (self.simulator.url if path.startswith("/_sim") else self.simulator.base_url) + path


@asynccontextmanager
async def desk(clock: Callable[[], float] = time.time, **options: Any) -> AsyncIterator[Desk]:
    """Open a simulator with these options, and a session that speaks to it."""
    async with (
        Simulator(SimulatorOptions(**options), clock=clock) as simulator,
        aiohttp.ClientSession() as session,
    ):
        yield Desk(simulator, session)
