"""Alerts on their way to webhooks: signed after the specification, sent again until they arrive, and no secret told."""

import base64
import hashlib
import hmac
import json
import re
from decimal import Decimal
from pathlib import Path

import httpx
import msgspec
import pytest
from redis.asyncio import Redis
from standardwebhooks.webhooks import Webhook as Receiver
from structlog.testing import capture_logs

from batchmill.config.alerting import AlertKind, Webhook
from batchmill.config.credentials import find_webhook_secret
from batchmill.config.errors import ConfigError
from batchmill.config.policy import Policy, decode_policy, encode_policy
from batchmill.config.settings import Settings, load
from batchmill.spend.alerts import Alert, Due
from batchmill.store import alerts, deliveries, keys, policy
from batchmill.store.clock import now_ms
from batchmill.webhooks.message import signed
from batchmill.workers.webhooks import Webhooks

KEY = base64.b64encode(bytes(range(32))).decode()
ENVIRON = {"HOOK_SECRET": f"whsec_{KEY}"}
HOOK = Webhook(url="https://hooks.test/secret-path", secret_env="HOOK_SECRET", name="ops")
ALERT = Alert(
    kind=AlertKind.BUDGET_CRITICAL,
    subject="daily",
    period="2026-11-24",
    text="budget daily: …",
    amount=4_750_000_001,
    limit=5_000_000_000,
)


class Post:
    """Webhooks before a receiver that answers what the test says."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.name = settings.upstream_name
        self.answers: list[httpx.Response | Exception] = []
        self.got: list[httpx.Request] = []
        self.webhooks = Webhooks(redis, settings, environ=ENVIRON, transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.got.append(request)
        answer = self.answers.pop(0) if self.answers else httpx.Response(204)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def raise_alert(self, *hooks: Webhook) -> str:
        await policy.apply(self.redis, self.name, Policy(webhooks=hooks), "test")
        alert_id = await alerts.raise_once(self.redis, self.name, Due(ALERT), [hook.name for hook in hooks])
        assert alert_id is not None
        return alert_id

    async def again(self) -> None:
        """Let the next try be due, and make it."""
        for member in await self.redis.zrange(keys.deliveries(self.name), 0, -1):
            await self.redis.zadd(keys.deliveries(self.name), {member: 0})
        await self.webhooks.deliver()

    async def due_in(self) -> float | None:
        """Seconds until the next try; None when there is none."""
        found = await self.redis.zrange(keys.deliveries(self.name), 0, -1, withscores=True)
        return (found[0][1] - await now_ms(self.redis)) / 1000 if found else None


@pytest.fixture
def post(redis: Redis, settings: Settings) -> Post:
    return Post(redis, settings)


async def test_an_alert_arrives_once_signed_and_exact(post: Post) -> None:
    alert_id = await post.raise_alert(HOOK)
    await post.webhooks.deliver()
    await post.again()
    (request,) = post.got
    assert str(request.url) == HOOK.url
    told = Receiver(ENVIRON["HOOK_SECRET"]).verify(request.content, dict(request.headers))
    assert told["type"] == "budget.critical"
    assert told["timestamp"].endswith("Z")
    assert told["data"] == {
        "id": alert_id,
        "level": "critical",
        "subject": "daily",
        "period": "2026-11-24",
        "text": "budget daily: …",
        "amount_usd": "4.750000001",
        "limit_usd": "5",
        "count": None,
    }


def test_the_signature_is_that_of_the_specification() -> None:
    body = '{"test": "…"}'.encode()
    headers = signed("msg_1", 1_614_265_330, body, KEY)
    digest = hmac.new(bytes(range(32)), b"msg_1.1614265330." + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("msg_1", "1614265330")


async def test_what_fails_is_sent_again_later_under_the_same_id(post: Post) -> None:
    await post.raise_alert(HOOK)
    post.answers = [httpx.Response(500), httpx.ConnectError("no"), httpx.Response(301, headers={"location": "/"})]
    await post.webhooks.deliver()
    pauses = [await post.due_in()]
    for _ in range(2):
        await post.again()
        pauses.append(await post.due_in())
    for pause, least in zip(pauses, (5, 30, 120), strict=True):
        assert pause is not None
        assert least - 1 < pause <= least * 1.2
    await post.again()
    assert await post.due_in() is None
    assert len({request.headers["webhook-id"] for request in post.got}) == 1
    assert len({request.content for request in post.got}) == 1
    assert not await post.redis.exists(keys.delivery_failures(post.name))


async def test_a_receiver_s_own_wait_is_kept(post: Post) -> None:
    await post.raise_alert(HOOK)
    post.answers = [httpx.Response(429, headers={"retry-after": "3000"})]
    await post.webhooks.deliver()
    pause = await post.due_in()
    assert pause is not None
    assert 2_999 < pause <= 3_000


async def test_it_is_given_up_when_the_receiver_is_gone_or_never_takes_it(post: Post) -> None:
    await post.raise_alert(HOOK)
    post.answers = [httpx.Response(500)] * 100
    with capture_logs() as told:
        await post.webhooks.deliver()
        for _ in range(12):
            await post.again()
    assert len(post.got) == 10
    assert [one["tries"] for one in told if one["event"] == "webhook.given_up"] == [10]
    await post.redis.delete(*await post.redis.keys("*mark*"))
    await post.raise_alert(HOOK)
    post.answers = [httpx.Response(410)]
    await post.webhooks.deliver()
    assert await post.due_in() is None


async def test_one_that_fails_keeps_no_other_waiting(post: Post) -> None:
    await post.raise_alert(HOOK, msgspec.structs.replace(HOOK, name="unset", secret_env="NOT_SET"))
    with capture_logs() as told:
        await post.webhooks.deliver()
    assert [one["webhook"] for one in told if one["event"] == "webhook.told"] == ["ops"]
    (failed,) = [one for one in told if one["event"] == "webhook.failed"]
    assert "NOT_SET is not set here" in failed["error"]


async def test_a_webhook_that_left_the_config_is_not_told(post: Post) -> None:
    await post.raise_alert(HOOK)
    await policy.apply(post.redis, post.name, Policy(), "test")
    await post.webhooks.deliver()
    assert post.got == []
    assert await post.due_in() is None


async def test_a_delivery_whose_worker_died_is_made_by_the_next(post: Post) -> None:
    await post.raise_alert(HOOK)
    assert len(await deliveries.of_alerts(post.redis, post.name).take(60.0)) == 1  # and never comes back
    await post.webhooks.deliver()
    assert post.got == []
    await post.again()
    assert len(post.got) == 1


async def test_no_secret_and_no_address_is_in_a_log_and_no_secret_in_redis(post: Post) -> None:
    await post.raise_alert(HOOK)
    post.answers = [httpx.ConnectError(f"can't reach {HOOK.url} with {KEY}"), httpx.Response(500)]
    with capture_logs() as told:
        await post.webhooks.deliver()
        await post.again()
    assert "secret-path" not in repr(told)
    assert KEY not in repr(told)
    for key in await post.redis.keys("*"):
        kind = (await post.redis.type(key)).decode()
        read = {"string": "GET", "hash": "HGETALL", "stream": "XRANGE", "zset": "ZRANGE"}[kind]
        ends = {"stream": ("-", "+"), "zset": (0, -1)}.get(kind, ())
        assert KEY not in repr(await post.redis.execute_command(read, key, *ends))


@pytest.mark.parametrize("value", ["", "whsec_c2hvcnQ=", "whsec_" + "!" * 40, "whsec_ä" + KEY])
def test_a_secret_that_is_none_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^HOOK_SECRET ") as refused:
        find_webhook_secret({"HOOK_SECRET": value}, "HOOK_SECRET")
    assert not value or value not in str(refused.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('url = "ftp://x"\nsecret_env = "A"', "webhooks.url is not an http"),
        ('url = "https://me:pw@x"\nsecret_env = "A"', "holds a user or password"),
        ('url = "https://x"\nsecret_env = "whsec_abc="', "secret_env must name a variable"),
        ('url = "https://x"\nsecret_env = "OPENROUTER_API_KEY"', "secret_env must name a variable"),
        ('url = "https://x"', "secret_env"),
        ('url = "https://x"\nsecret_env = "A"\nevents = []', "events names none"),
        ('url = "https://x"\nsecret_env = "A"\nevents = ["budget.full"]', "budget.full"),
        ('url = "https://x"\nsecret_env = "A"\nsecret = "B"', "unknown key 'webhooks[0].secret'"),
    ],
)
def test_a_webhook_that_can_t_be_meant_is_refused(table: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "batchmill.toml"
    file.write_text(f"[[webhooks]]\n{table}\n")
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(file, {})


@pytest.mark.parametrize(
    "table", ["warning = 0", "warning = 0.9\ncritical = 0.8", "critical = 1.1", "credits_low_usd = -1"]
)
def test_thresholds_that_can_t_be_meant_are_refused(table: str, tmp_path: Path) -> None:
    file = tmp_path / "batchmill.toml"
    file.write_text(f"[alerts]\n{table}\n")
    with pytest.raises(ConfigError, match="alerts"):
        load(file, {})


def test_a_policy_with_alerts_is_the_same_after_redis() -> None:
    known = Policy(webhooks=(HOOK,))
    assert decode_policy(encode_policy(known)) == known
    assert json.loads(encode_policy(known))["alerts"]["warning"] == "0.8"
    assert known.alerts.warning == Decimal("0.8")
