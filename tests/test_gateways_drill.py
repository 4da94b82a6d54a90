"""Gateways die under a client that tries again, while four workers run: each line once, each byte, each nano-dollar.

A client as OpenAI's is: after a lost connection or a 5xx the same request goes out again, with its count of tries, and
whatever stands in front of the gateways sends it to the other one.
"""

import asyncio
import itertools
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import pytest

from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.openrouter.simulator.faults import FaultKind, Faults
from batchmill.store import batches, service_keys

from .batch_api_helpers import jsonl
from .fleet_helpers import Scene, lines, scene
from .store_helpers import all_results
from .test_fleet_budget import bill
from .test_gateways_die import Gateway
from .waiting import wait_until

pytestmark = pytest.mark.drill

LINES = 1500
CHUNKS = 30
FAULTS = Faults(rates={FaultKind.BAD_REQUEST: 0.03, FaultKind.BAD_GATEWAY: 0.05})
OPTIONS = SimulatorOptions(latency="uniform:20:200", mean_output_tokens=1500, faults=FAULTS)
TRIES = 8
SMALL_WINDOW = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)]  # else all of a file is under way before anybody reads
BATCH = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}
Body = Callable[[], AsyncIterator[bytes]]


class Pair:
    """Two gateways on one Redis and one folder of files; who is killed can be started again."""

    def __init__(self, at: Scene, data: Path) -> None:
        self._start: Callable[[], Gateway] = lambda: Gateway(
            at.store.url, data, BATCHMILL_BASE_URL=at.settings.upstream.base_url
        )
        self.gateways = [self._start(), self._start()]

    @property
    def urls(self) -> list[str]:
        return [each.url for each in self.gateways]

    def kill(self, number: int) -> None:
        self.gateways[number].kill()

    def restart(self, number: int) -> None:
        self.gateways[number] = self._start()

    def stop(self) -> None:
        for each in self.gateways:
            each.stop()


class Client:
    """Sends a request until it is answered: first to the preferred gateway, then to the other, and so on."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._http = httpx.AsyncClient(timeout=30, transport=httpx.AsyncHTTPTransport(socket_options=SMALL_WINDOW))
        self.lost = 0  # connections that broke

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    def turns(self, first: int) -> Iterator[tuple[int, str]]:
        """Yield the number of a try and where it goes."""
        for count, number in zip(range(TRIES), itertools.cycle((first, 1 - first)), strict=False):
            yield count, self._pair.urls[number]

    async def ask(
        self,
        method: str,
        path: str,
        first: int = 1,
        body: Body | bytes | None = None,
        *,
        tried: int = 0,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Return the answer, which is a good one."""
        for count, url in self.turns(first):
            counted = (headers or {}) | {"x-stainless-retry-count": str(count + tried)}
            content = body() if callable(body) else body
            try:
                reply = await self._http.request(method, url + path, headers=counted, content=content)
            except httpx.TransportError:
                self.lost += 1
                continue
            if reply.status_code < 500:
                assert reply.status_code < 300, reply.text
                return reply
        raise AssertionError(f"{method} {path} was never answered")

    async def download(self, path: str, first: int, at_byte: int, then: Callable[[], None]) -> bytes:
        """Read a file, going on where it broke off; do something in the middle."""
        read = bytearray()
        for _, url in self.turns(first):
            headers = {"range": f"bytes={len(read)}-"} if read else {}
            try:
                async with self._http.stream("GET", url + path, headers=headers) as reply:
                    assert reply.status_code == (206 if read else 200)
                    async for part in reply.aiter_raw(4096):
                        read += part
                        if len(read) >= at_byte:
                            at_byte = 1 << 60
                            then()
                    return bytes(read)
            except httpx.TransportError:
                self.lost += 1
        raise AssertionError(f"{path} was never read to its end")


@asynccontextmanager
async def stage(tmp_path: Path, options: SimulatorOptions) -> AsyncIterator[tuple[Scene, Pair, Client]]:
    """Four workers, two gateways, one client."""
    async with scene(tmp_path / "fleet", options, processes=4, concurrency=25) as at:
        pair = Pair(at, tmp_path / "files")
        try:
            async with Client(pair) as client:
                yield at, pair, client
        finally:
            pair.stop()


def form(content: bytes, middle: Callable[[], Awaitable[None]] | None = None) -> Body:
    """Return an upload that is sent slowly; in its middle, something may happen, once."""
    waits = [middle] if middle else []

    async def body() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="lines.jsonl"\r\n\r\n'
        size = -(-len(content) // CHUNKS)
        for number in range(CHUNKS):
            yield content[number * size : (number + 1) * size]
            await asyncio.sleep(0)
            if number == CHUNKS // 2 and waits:
                await waits.pop()()
        yield b"\r\n--x--\r\n"

    return body


async def lose_the_answer(at: Scene, url: str, body: bytes) -> None:
    """Ask for a batch, and hang up as soon as it is made."""
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST /v1/batches HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    async def made() -> bool:
        return bool((await batches.page(at.store.redis, None, None, 1)).ids)

    await wait_until(made, "the batch is made")
    writer.close()


async def test_a_client_loses_no_line_no_byte_and_no_money_though_gateways_die(tmp_path: Path) -> None:
    content = jsonl(lines(LINES, max_tokens=3000))
    async with stage(tmp_path, OPTIONS) as (at, pair, client):

        async def kill_in_mid_upload() -> None:
            async def begun() -> bool:
                return bool(await at.store.redis.zcard(service_keys.file_ends()))

            await wait_until(begun, "the upload is on its way")
            pair.kill(0)

        sent = await client.ask("POST", "/v1/files", 0, form(content, kill_in_mid_upload), headers=MULTIPART)
        file_id = sent.json()["id"]
        assert (client.lost, sent.json()["bytes"]) == (1, len(content))
        assert (await client.ask("GET", f"/v1/files/{file_id}/content")).content == content

        wanted = json.dumps({"input_file_id": file_id} | BATCH).encode()
        await lose_the_answer(at, pair.urls[1], wanted)
        pair.restart(0)
        again = await client.ask(
            "POST", "/v1/batches", 0, wanted, tried=1, headers={"content-type": "application/json"}
        )
        batch = again.json()
        assert [each["id"] for each in (await client.ask("GET", "/v1/batches")).json()["data"]] == [batch["id"]]

        early, ended = await follow(client, batch["id"])
        output = f"/v1/files/{ended['output_file_id']}/content"
        read = await client.download(output, 1, 1_000_000, lambda: pair.kill(1))
        assert client.lost == 2, "the kill came too late to show anything"
        pair.restart(1)
        whole = (await client.ask("GET", output)).content
        failed = (await client.ask("GET", f"/v1/files/{ended['error_file_id']}/content")).content
        assert read == whole
        assert whole.startswith(early)
        await check_lines(whole, failed, ended)
        listed = (await client.ask("GET", "/v1/files")).json()["data"]
        assert {each["id"] for each in listed} == {file_id, ended["output_file_id"], ended["error_file_id"]}
        await check_money(at, client, ended)


async def follow(client: Client, batch_id: str) -> tuple[bytes, dict[str, Any]]:
    """Wait until a batch is over, asking both gateways; return what its output was half-way, and the batch."""
    early = b""
    found: dict[str, Any] = {}

    async def over() -> bool:
        nonlocal early, found
        found = (await client.ask("GET", f"/v1/batches/{batch_id}")).json()
        if not early and found["request_counts"]["completed"] > LINES // 3:
            early = (await client.ask("GET", f"/v1/files/{found['x_output_file_id']}/content", 0)).content
        return bool(found["status"] == "completed")

    await wait_until(over, "the batch is completed", patience=120)
    assert early
    return early, found


async def check_lines(whole: bytes, failed: bytes, ended: dict[str, Any]) -> None:
    done, wrong = ([json.loads(line) for line in text.splitlines()] for text in (whole, failed))
    ids = [each["custom_id"] for each in (*done, *wrong)]
    assert len(ids) == LINES
    assert set(ids) == {each["custom_id"] for each in lines(LINES)}
    assert wrong
    assert ended["request_counts"] == {"total": LINES, "completed": len(done), "failed": len(wrong)}
    assert all(each["response"]["status_code"] == 200 for each in done)
    assert all(each["response"]["status_code"] == 400 for each in wrong)


async def check_money(at: Scene, client: Client, ended: dict[str, Any]) -> None:
    """The batch, its lines, the ledger and the upstream's bill say the same to the nano-dollar."""
    billed = await bill(at)
    assert billed > 0
    assert sum(result.cost or 0 for result in await all_results(at.store.redis, ended["id"])) == billed
    reply = await client.ask("GET", f"/v1/batches/{ended['id']}")
    cost = json.loads(reply.content, parse_float=Decimal)["x_cost"]
    assert cost["spent_usd"] * 10**9 == billed
    spend = await client.ask("GET", "/v1/spend?by=batch")
    total = json.loads(spend.content, parse_float=Decimal)["total"]
    assert (total["cost_usd"] * 10**9, total["suspect_usd"]) == (billed, 0)


async def test_hundreds_of_clients_get_no_error_and_the_batch_all_its_results() -> None:
    """The load of `bench/gateway.py`, which fails for any error and any line without a result; no time is asserted."""
    script = Path(__file__).parents[1] / "bench" / "gateway.py"
    command = [sys.executable, str(script), "--rounds", "1", "--lines", "1500"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {cells[0]: cells[1:] for row in done.stdout.splitlines() if len(cells := row.strip("| ").split(" | ")) == 6}
    for operation in ("retrieve a batch", "list batches", "list lines"):
        assert int(rows[operation][0].replace(",", "")) > 0
    assert rows["upload a file"][:2] == ["50", "0"]
    assert "ratio" in done.stdout
