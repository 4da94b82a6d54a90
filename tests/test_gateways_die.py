"""Two gateways on one Redis and one storage; one is killed in the middle. A client that tries again loses nothing."""

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from batchmill.store import batches, service_keys
from batchmill.store.embedded import EmbeddedServer

from .test_output_files import answered, running
from .waiting import wait_until

LINE = b'{"custom_id":"%06d","x":"' + b"x" * 1000 + b'"}\n'
COUNT = 20_000
CHUNK = 200
HEADERS = {"content-type": "multipart/form-data; boundary=x"}


class Gateway:
    """`batchmill serve` as a process of its own."""

    def __init__(self, redis_url: str, data: Path, **more: str) -> None:
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("BATCHMILL", "OPENROUTER"))
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "batchmill.cli", "serve", "--port", "0", "--redis", redis_url],
            env=environ | {"BATCHMILL_DATA_DIR": str(data), "OPENROUTER_API_KEY": "sk-or-v1-test"} | more,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        said = ""
        while "batchmill at http" not in said:
            said = self._process.stderr.readline()
            assert said, "the gateway ended"
        self.url = said.split()[2].rstrip(",")

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate()
            assert self._process.returncode == 0


@pytest.fixture
def gateways(server: EmbeddedServer, tmp_path: Path) -> Iterator[tuple[Gateway, Gateway]]:
    both = tuple(Gateway(server.url, tmp_path / "data") for _ in range(2))
    yield both[0], both[1]
    for each in both:
        each.stop()


def stored(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "data" / "files").rglob("*") if path.is_file()]


async def form(at: int = 0, then: object = None) -> AsyncIterator[bytes]:
    """Yield an upload; after so many chunks, do something."""
    yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    for number in range(0, COUNT, CHUNK):
        if callable(then) and number == at:
            await then()
        yield b"".join(LINE % each for each in range(number, number + CHUNK))
    yield b"\r\n--x--\r\n"


async def test_one_is_killed_in_mid_upload(
    gateways: tuple[Gateway, Gateway], real_redis: Redis, tmp_path: Path
) -> None:
    first, second = gateways

    async def kill() -> None:
        await wait_until(lambda: bool(stored(tmp_path)), "bytes are written")
        first.kill()

    async with httpx.AsyncClient(timeout=30) as client:
        with pytest.raises(httpx.TransportError):
            await client.post(f"{first.url}/v1/files", content=form(COUNT // 2, kill), headers=HEADERS)
        again = HEADERS | {"x-stainless-retry-count": "1"}
        made = (await client.post(f"{second.url}/v1/files", content=form(), headers=again)).json()
        content = await client.get(f"{second.url}/v1/files/{made['id']}/content")
        assert content.content == b"".join(LINE % number for number in range(COUNT))
        listed = (await client.get(f"{second.url}/v1/files")).json()["data"]
        assert [each["id"] for each in listed] == [made["id"]]
    assert await real_redis.zcard(service_keys.file_ends()) == 2  # what the dead one left goes in a day


async def test_one_is_killed_in_mid_download(gateways: tuple[Gateway, Gateway], real_redis: Redis) -> None:
    first, second = gateways
    async with httpx.AsyncClient(timeout=30) as client:
        made = (await client.post(f"{first.url}/v1/files", content=form(), headers=HEADERS)).json()
        path = f"/v1/files/{made['id']}/content"
        read = b""
        with contextlib.suppress(httpx.TransportError):
            async with client.stream("GET", first.url + path) as answer:
                async for part in answer.aiter_bytes():
                    read += part
                    if len(read) > 1_000_000:
                        first.kill()
        assert 1_000_000 < len(read) < made["bytes"]
        rest = await client.get(second.url + path, headers={"range": f"bytes={len(read)}-"})
        assert rest.status_code == 206
        assert read + rest.content == b"".join(LINE % number for number in range(COUNT))


async def test_the_other_writes_the_output_of_a_batch(
    gateways: tuple[Gateway, Gateway], real_redis: Redis, tmp_path: Path
) -> None:
    first, second = gateways
    batch = await running(real_redis, 3)
    first.kill()
    await batch.finish(*(answered(number) for number in range(3)))

    async def written() -> bool:
        return (await batches.status(real_redis, batch.id)).output_file

    await wait_until(written, "the output is written")
    async with httpx.AsyncClient() as client:
        content = await client.get(second.url + batch.path() + "/content")
    assert content.content == b"".join(batch.output)
    assert "x-last-line" not in content.headers  # it comes from storage
