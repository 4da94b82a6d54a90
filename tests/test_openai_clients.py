"""The official `openai` client, unmodified, at three major versions, against a gateway's own process."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

VERSIONS = ("openai>=3.57,<4", "openai==2.54.0", "openai==1.109.1")
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
DRIVER = Path(__file__).parent / "openai_clients" / "driver.py"

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=VERSIONS)
def library(request: pytest.FixtureRequest) -> Path:
    """A folder with one version of the client and what it needs, kept between sessions."""
    assert request.config.cache is not None
    wanted = str(request.param)
    folder = request.config.cache.mkdir("openai-clients") / wanted.translate(str.maketrans("<>=,", "____"))
    if folder.exists():
        return folder
    half = folder.with_name(f"{folder.name}.{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(half)]
    done = subprocess.run([*command, wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(half, ignore_errors=True)
        why = f"{wanted} can't be installed: {done.stderr.strip().splitlines()[-1:]}"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    with contextlib.suppress(OSError):  # another process was quicker
        half.rename(folder)
    shutil.rmtree(half, ignore_errors=True)
    return folder


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`batchmill serve` as a process, with a worker and a simulator; yields the URL for clients."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "batchmill.toml").write_text("[service]\nprivate_webhooks = true\n", encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("BATCHMILL", "OPENROUTER"))}
    environ |= {"BATCHMILL_DATA_DIR": str(folder / "data"), "BATCHMILL_WEBHOOK_SECRET": SECRET}
    options = ["--workers", "1", "--simulate", "--port", "0", "--config", "batchmill.toml"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "batchmill.cli", "serve", *options],
            cwd=folder,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        yield _url_in(folder / "log", process)
    finally:
        process.terminate()
        process.wait(60)


def _url_in(log: Path, process: "subprocess.Popen[bytes]") -> str:
    while process.poll() is None:
        for line in log.read_text("utf-8").splitlines(keepends=True):
            if "for OpenAI's clients: " in line and line.endswith("\n"):
                return line.partition("for OpenAI's clients: ")[2].partition(";")[0]
    raise AssertionError(log.read_text("utf-8"))


class Proxy:
    """Passes everything on, but for the first answer to each creation: that connection breaks instead."""

    def __init__(self, target: str) -> None:
        self.dropped: list[str] = []
        parts = urlsplit(target)
        self._host, self._port = parts.hostname, parts.port

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(self._host, self._port)
        drop = asyncio.Event()
        pumps = [
            asyncio.create_task(self._ask(reader, forth, drop)),
            asyncio.create_task(self._tell(back, writer, drop)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        writer.close()
        forth.close()

    async def _ask(self, reader: asyncio.StreamReader, forth: asyncio.StreamWriter, drop: asyncio.Event) -> None:
        while data := await reader.read(1 << 16):
            for path in ("/v1/files", "/v1/batches"):
                if data.startswith(f"POST {path} ".encode()) and path not in self.dropped:
                    self.dropped.append(path)
                    drop.set()
            forth.write(data)
            await forth.drain()

    @staticmethod
    async def _tell(back: asyncio.StreamReader, writer: asyncio.StreamWriter, drop: asyncio.Event) -> None:
        while data := await back.read(1 << 16):
            if drop.is_set() and not data.startswith(b"HTTP/1.1 100"):
                return
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def hook(kept: Path) -> AsyncIterator[str]:
    """A server that keeps the one request that it gets."""
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        pairs = (line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        headers = {name.lower(): value for name, value in pairs}
        body = (await reader.readexactly(int(headers["content-length"]))).decode()
        requests.append(body.encode())
        part = kept.with_suffix(".part")
        part.write_text(json.dumps({"headers": headers, "body": body}), encoding="utf-8")
        part.rename(kept)
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    assert len(requests) == 1, "one end is told once"


async def test_a_program_needs_only_another_base_url(gateway: str, library: Path, tmp_path: Path) -> None:
    proxy = Proxy(gateway)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, hook(tmp_path / "hook") as hook_url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-S", str(DRIVER), gateway),  # -S: nothing but that client
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(library),
                "PROXY_URL": f"http://127.0.0.1:{port}/v1",
                "HOOK_URL": hook_url,
                "HOOK_FILE": str(tmp_path / "hook"),
                "HOOK_SECRET": SECRET,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    assert proxy.dropped == ["/v1/files", "/v1/batches"]
