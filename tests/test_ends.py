"""A batch's webhook is told of its end: once, signed as OpenAI's clients verify it, never inside our own network."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from redis.asyncio import Redis
from standardwebhooks.webhooks import Webhook as Receiver
from structlog.testing import capture_logs

from batchmill.config.settings import Settings
from batchmill.producer import Producer
from batchmill.service.context import Service
from batchmill.service.ends import Teller
from batchmill.storage.objects import open_blobs
from batchmill.store import batches, deliveries, endings, events, intakes, outputs, service_keys
from batchmill.store.events import Event
from batchmill.store.handed import Handed
from batchmill.store.intakes import Asked, Fault, Holder
from batchmill.store.staging import Staging
from batchmill.webhooks import addresses, message

from .store_helpers import DAYS, MODEL, UPSTREAM, claim, complete, facts, line

URL = "https://hooks.example.com/secret-path"
SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
ENVIRON = {"BATCHMILL_WEBHOOK_SECRET": SECRET}


class Post:
    """A gateway's teller before a receiver that answers what the test says."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.answers: list[httpx.Response | Exception] = []
        self.got: list[httpx.Request] = []
        self.service = Service(redis, settings, Producer(redis, settings), open_blobs(settings))
        self.teller = self.make(ENVIRON)

    def make(self, environ: dict[str, str]) -> Teller:
        return Teller(self.service, environ=environ, transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.got.append(request)
        answer = self.answers.pop(0) if self.answers else httpx.Response(204)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def waiting(self) -> list[Event]:
        return [events.read(one.decode()) for one in await self.redis.zrange(service_keys.event_deliveries(), 0, -1)]

    async def again(self) -> None:
        """Let the next try be due, and make it."""
        for member in await self.redis.zrange(service_keys.event_deliveries(), 0, -1):
            await self.redis.zadd(service_keys.event_deliveries(), {member: 0})
        await self.teller.tell()


@pytest.fixture
def post(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Post:
    async def look_up(host: str, _: int) -> str:
        assert host == "hooks.example.com"
        return "93.184.216.34"

    monkeypatch.setattr(addresses, "_public_address", look_up)
    return Post(redis, settings)


async def batch(redis: Redis, url: str | None = URL, *, content: str = "one") -> str:
    staging = Staging(redis, UPSTREAM, retention_days=DAYS)
    await staging.add(MODEL, [line(0)])
    handed = Handed(created_at=1_700_000_000, webhook_url=url)
    return await staging.release(facts(1, content, handed=handed))


async def written(redis: Redis, batch_id: str) -> bool:
    return await outputs.mark_written(redis, await batches.status(redis, batch_id), output=True, errors=False)


async def test_an_end_is_told_once_signed_as_openai_s_clients_read_it(post: Post) -> None:
    batch_id = await batch(post.redis)
    await complete(post.redis, await claim(post.redis))
    assert await post.waiting() == [], "its files are not there yet, and whoever is told asks for them"
    for _ in range(3):
        await written(post.redis, batch_id)
    await post.teller.tell()
    await written(post.redis, batch_id)
    await post.again()
    (request,) = post.got
    assert request.url == httpx.URL("https://93.184.216.34/secret-path")
    assert request.headers["host"] == "hooks.example.com"
    assert request.extensions["sni_hostname"] == "hooks.example.com"
    told = Receiver(SECRET).verify(request.content, dict(request.headers))
    assert told["object"] == "event"
    assert told["type"] == "batch.completed"
    assert told["data"] == {"id": batch_id}
    assert told["id"] == request.headers["webhook-id"]
    assert isinstance(told["created_at"], int)
    assert await post.waiting() == []


async def test_each_end_has_its_type(post: Post) -> None:
    cancelled, late = await batch(post.redis), await batch(post.redis, content="two")
    await endings.cancel(post.redis, cancelled, retention_days=DAYS)
    await post.redis.zadd(service_keys.deadlines(), {late: 1})
    await post.redis.execute_command("HSET", f"bm:{{{late}}}:batch", "expires_at", 1)
    await endings.sweep(post.redis, retention_days=DAYS)
    for batch_id in (cancelled, late):
        await written(post.redis, batch_id)
    assert {one.batch_id: one.ended for one in await post.waiting()} == {cancelled: "cancelled", late: "expired"}
    assert json.loads(Event("batch_1", "failed", 7, URL).body()) == {
        "id": "evt_1",
        "object": "event",
        "type": "batch.failed",
        "created_at": 7,
        "data": {"id": "batch_1"},
    }


async def test_the_end_of_an_intake_is_told_once_however_many_see_it(post: Post) -> None:
    """Of lines that can't run, and of a batch that is cancelled before they were looked at."""
    redis, handed = post.redis, Handed(created_at=1_700_000_000, webhook_url=URL)
    asked = Asked(handed=handed, expires_at=4_000_000_000, project="p")
    for batch_id in ("batch_1", "batch_2", "batch_3"):
        await intakes.create(redis, UPSTREAM, batch_id, asked, retention_days=DAYS)
        assert await intakes.hold(redis, UPSTREAM, batch_id, "run")
    found = [await intakes.find(redis, batch_id) for batch_id in ("batch_1", "batch_2", "batch_3")]
    failed, cancelled, taken = (one for one in found if one is not None)
    for intake in (failed, failed):
        await Holder(redis, UPSTREAM, intake, "run", retention_days=DAYS).fail((Fault("empty_file", "Empty."),))
        await intakes.cancel(redis, UPSTREAM, cancelled, retention_days=DAYS)
    holder = Holder(redis, UPSTREAM, taken, "run", retention_days=DAYS)
    await holder.begin_release()
    await holder.let_go()
    assert {one.batch_id: one.ended for one in await post.waiting()} == {"batch_1": "failed", "batch_2": "cancelled"}
    assert await redis.zcard(service_keys.event_deliveries()) == 2


async def test_who_did_not_ask_is_not_told(post: Post) -> None:
    batch_id = await batch(post.redis, None)
    await complete(post.redis, await claim(post.redis))
    assert await written(post.redis, batch_id)
    assert (await batches.status(post.redis, batch_id)).output_file
    assert await post.waiting() == []


async def queue(redis: Redis, url: str = URL) -> None:
    await redis.zadd(service_keys.event_deliveries(), {events.message(Event("batch_1", "completed", 1, url)): 0})


async def test_what_fails_is_sent_again_under_the_same_id_and_given_up_in_the_end(post: Post) -> None:
    await queue(post.redis)
    post.answers = [
        httpx.Response(500),
        httpx.ConnectError(f"no {URL}"),
        httpx.Response(302, headers={"location": "/"}),
    ]
    with capture_logs() as told:
        for _ in range(4):
            await post.again()
    assert len(post.got) == 4
    assert len({request.headers["webhook-id"] for request in post.got}) == 1
    assert await post.waiting() == []
    assert not await post.redis.exists(service_keys.event_failures())
    assert "secret-path" not in repr(told)
    post.answers = [httpx.Response(410)]
    await queue(post.redis)
    await post.again()
    assert await post.waiting() == [], "410 wants no more"


async def test_two_gateways_send_it_once(post: Post) -> None:
    await queue(post.redis)
    other = deliveries.of_events(post.redis)
    assert len(await other.take(60.0)) == 1
    await post.teller.tell()
    assert post.got == []


async def test_without_a_secret_it_waits_for_a_gateway_that_has_one(post: Post) -> None:
    await queue(post.redis)
    with capture_logs() as told:
        await post.make({}).tell()
    assert "BATCHMILL_WEBHOOK_SECRET is not set here" in told[0]["error"]
    await post.again()
    assert len(post.got) == 1


async def test_nothing_inside_our_network_is_called(redis: Redis, settings: Settings) -> None:
    """A name that points there is found out when it is called, however it was when the batch was created."""
    post = Post(redis, settings)
    await queue(redis, "http://localhost.localdomain:1/")
    await queue(redis, "http://127.0.0.1:1/")
    with capture_logs() as told:
        await post.teller.tell()
    assert post.got == []
    assert {one["event"] for one in told} == {"event.failed"}


async def test_private_addresses_may_be_allowed(redis: Redis, settings: Settings) -> None:
    service = msgspec.structs.replace(settings.service, private_webhooks=True)
    post = Post(redis, msgspec.structs.replace(settings, service=service))
    await queue(redis, "http://127.0.0.1:9000/hook")
    await post.teller.tell()
    (request,) = post.got
    assert str(request.url) == "http://127.0.0.1:9000/hook"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com",
        "https://",
        "example.com",
        "https://user:pw@example.com/",
        "https://example.com/" + "a" * 2048,
        "https://exämple.com/",
        "http://localhost/",
        "http://a.localhost/",
        "http://router.local/",
        "http://metadata.google.internal/",
        "http://127.0.0.1/",
        "http://10.1.2.3/",
        "http://169.254.169.254/latest",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::a00:1]/",
        "http://[2002:a00:1::]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
    ],
)
def test_urls_that_no_webhook_can_have(url: str) -> None:
    with pytest.raises(addresses.AddressError) as refused:
        addresses.check_url(url, private=False)
    assert "pw" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["https://example.com/hook?a=b", "http://example.com:8080", "https://8.8.8.8/", "https://[2606:4700::1111]/"]
)
def test_urls_that_a_webhook_can_have(url: str) -> None:
    addresses.check_url(url, private=False)
    addresses.check_url("http://127.0.0.1:1/", private=True)


@pytest.mark.parametrize("name", ["localhost", "127.1", "2130706433", "0x7f.1"])
async def test_a_name_is_looked_up_as_the_system_does(name: str) -> None:
    with pytest.raises(addresses.AddressError):
        await addresses._public_address(name, 80)


@pytest.mark.parametrize("way", ["drips", "never ends"])
async def test_a_receiver_that_never_comes_to_an_end_holds_up_nobody(
    post: Post, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """It could have the memory of a gateway otherwise, and keep it from telling anybody else."""
    monkeypatch.setattr(message, "WHOLE", 0.3)
    batch_id = await batch(post.redis)
    await complete(post.redis, await claim(post.redis))
    await written(post.redis, batch_id)
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 65_536
            await asyncio.sleep(0)

    async def answer(_: httpx.Request) -> httpx.Response:
        if way == "drips":
            await asyncio.Event().wait()
        return httpx.Response(200, content=body())

    teller = Teller(post.service, environ=ENVIRON, transport=httpx.MockTransport(answer))
    async with asyncio.timeout(5):
        await teller.tell()
    assert sent <= 1
    assert len(await post.waiting()) == (1 if way == "drips" else 0)
