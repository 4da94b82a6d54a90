"""Clients that send slowly, nothing, too much or do not read: none of them holds a connection for long."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.service.access.connections import MOST_HEAD_BYTES, STALLS

from .service_helpers import serving

PATIENCE = 0.4
LATE = 3.0
HEAD = b"GET /v1/keys HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture
def hasty(settings: Settings) -> Settings:
    """Settings of a gateway that waits for nobody."""
    service = msgspec.structs.replace(settings.service, body_timeout=PATIENCE, max_connections=5)
    return msgspec.structs.replace(settings, service=service)


class Peer:
    """A client of whatever manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.began = time.monotonic()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes) -> None:
        """Send a byte at a time, for as long as somebody takes it."""
        try:
            for byte in data:
                await self.send(bytes([byte]))
                await asyncio.sleep(0.05)
        except OSError:
            return

    async def flood(self, data: bytes) -> None:
        """Send the same again and again. Raises ConnectionError when nobody takes it any more."""
        async with asyncio.timeout(LATE):
            while True:
                await self.send(data)

    async def rest(self) -> bytes:
        """Return what comes until the other side closes."""
        came = b""
        async with asyncio.timeout(LATE):
            with contextlib.suppress(ConnectionError):  # who still sends when the other side closes is reset
                while part := await self.reader.read(1 << 20):
                    came += part
        return came

    @property
    def lasted(self) -> float:
        return time.monotonic() - self.began


@asynccontextmanager
async def peer_of(client: httpx.AsyncClient) -> AsyncIterator[Peer]:
    peer = Peer(*await asyncio.open_connection(client.base_url.host, client.base_url.port))
    try:
        yield peer
    finally:
        peer.writer.close()


async def test_who_never_says_anything_is_hung_up_on(real_redis: Redis, hasty: Settings) -> None:
    async with serving(real_redis, hasty) as client, peer_of(client) as peer:
        assert await peer.rest() == b""
        assert PATIENCE * 0.9 <= peer.lasted < LATE


async def test_a_head_that_drips_is_not_waited_for(real_redis: Redis, hasty: Settings) -> None:
    async with serving(real_redis, hasty) as client, peer_of(client) as peer:
        dripping = asyncio.create_task(peer.drip(HEAD + b"x-long: " + b"y" * 100))
        assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")
        assert peer.lasted < PATIENCE + 1
        await dripping


async def test_a_second_request_s_head_has_its_own_time(real_redis: Redis, hasty: Settings) -> None:
    async with serving(real_redis, hasty) as client, peer_of(client) as peer:
        await peer.send(HEAD + b"\r\n")
        assert (await peer.reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
        await asyncio.sleep(PATIENCE * 1.5)  # idle: that is the keep-alive's to end
        await peer.send(HEAD)
        assert b"HTTP/1.1 408 " in await peer.rest()


async def test_a_body_that_does_not_come_is_not_waited_for(real_redis: Redis, hasty: Settings) -> None:
    head = b"POST /v1/keys HTTP/1.1\r\nHost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{"
    async with serving(real_redis, hasty) as client, peer_of(client) as peer:
        await peer.send(head)
        async with asyncio.timeout(LATE):
            assert (await peer.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_drips_is_not_waited_for(real_redis: Redis, hasty: Settings) -> None:
    head = b"POST /v1/keys HTTP/1.1\r\nHost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n"
    async with serving(real_redis, hasty) as client, peer_of(client) as peer:
        await peer.send(head)
        dripping = asyncio.create_task(peer.drip(b" " * 1000))
        assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")  # and then it is hung up on, body or no body
        await dripping


async def test_blank_lines_hold_no_connection(real_redis: Redis, hasty: Settings) -> None:
    async with serving(real_redis, hasty) as client, peer_of(client) as peer:
        await peer.send(HEAD + b"\r\n")
        await peer.reader.readuntil(b"\r\n")
        dripping = asyncio.create_task(peer.drip(b"\r\n" * 100))
        await peer.rest()
        assert peer.lasted < LATE
        dripping.cancel()


@pytest.mark.parametrize("how", ["one header", "many headers", "a url", "at once"])
async def test_a_head_that_is_too_long_is_refused(real_redis: Redis, settings: Settings, how: str) -> None:
    much = b"y" * MOST_HEAD_BYTES
    sent = {
        "one header": HEAD + b"x-long: " + much + b"y" * 10,
        "many headers": HEAD + b"x: y\r\n" * (MOST_HEAD_BYTES // 6 + 9),
        "a url": b"GET /" + much + b" HTTP/1.1\r\n",
        "at once": HEAD + b"x-long: " + much + b"\r\n\r\n",
    }
    async with serving(real_redis, settings) as client, peer_of(client) as peer:
        await peer.send(sent[how])
        async with asyncio.timeout(LATE):
            assert (await peer.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 431 ")


async def test_there_are_only_so_many_connections(real_redis: Redis, settings: Settings) -> None:
    few = msgspec.structs.replace(settings, service=msgspec.structs.replace(settings.service, max_connections=3))
    async with serving(real_redis, few) as client:
        async with peer_of(client), peer_of(client), peer_of(client) as third, peer_of(client) as fourth:
            assert (await fourth.rest()).startswith(b"HTTP/1.1 503 ")
            await third.send(HEAD + b"connection: close\r\n\r\n")
            assert (await third.rest()).startswith(b"HTTP/1.1 200 ")
        assert (await client.get("/v1/keys")).status_code == 200


async def test_who_does_not_read_its_answer_is_cut_off(real_redis: Redis, settings: Settings) -> None:
    """Only after ten times the patience: a program may work on a line before it reads the next."""
    impatient = msgspec.structs.replace(settings.service, body_timeout=PATIENCE / STALLS)
    size = 24 * 1024 * 1024
    body = b'{"custom_id": "' + b"x" * size + b'"}'
    async with serving(real_redis, settings) as client:
        reply = await client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", body)})
        assert reply.status_code == 200, reply.text
    async with serving(real_redis, msgspec.structs.replace(settings, service=impatient)) as client:
        path = f"/v1/files/{reply.json()['id']}/content".encode()
        async with peer_of(client) as peer:
            await peer.send(b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await peer.reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(4 * PATIENCE)  # the client's manners, not ours
            assert len(await peer.rest()) < size
        assert len((await client.get(path.decode())).content) == len(body)


@pytest.mark.parametrize("trailer", [b"x: y\r\n", b"y" * 8])
async def test_trailers_without_end_are_cut_off(real_redis: Redis, settings: Settings, trailer: bytes) -> None:
    head = b"POST /v1/keys HTTP/1.1\r\nHost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: "
    async with serving(real_redis, settings) as client, peer_of(client) as peer:
        await peer.send(head)
        with pytest.raises(ConnectionError):
            await peer.flood(trailer * 4096)
        assert peer.lasted < LATE


async def test_a_body_in_chunks_of_a_byte_is_one(real_redis: Redis, settings: Settings) -> None:
    body = b'{"name": "x", "project": "' + b"p" * 60_000 + b'"}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    head = b"POST /v1/keys HTTP/1.1\r\nHost: 127.0.0.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    async with serving(real_redis, settings) as client, peer_of(client) as peer:
        await peer.send(head + chunks + b"0\r\n\r\n")
        assert b"a name has letters" in await peer.rest()
