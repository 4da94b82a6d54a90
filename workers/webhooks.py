"""Tells webhooks of alerts, signed after Standard Webhooks; what does not arrive is sent again, for about two days.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: the three headers,
what is signed, and that any 2xx has arrived, 410 wants no more, and a redirect is a failure.
"""

import asyncio
import base64
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import httpx
import msgspec
import structlog
from redis.asyncio import Redis
from standardwebhooks.webhooks import Webhook as Signer

from batchmill.config.alerting import Webhook
from batchmill.config.credentials import find_webhook_secret
from batchmill.config.errors import ConfigError
from batchmill.config.settings import Settings, variables
from batchmill.openrouter.money import to_usd
from batchmill.store import alerts, deliveries, keys, policy
from batchmill.store.alerts import Raised
from batchmill.store.clock import now_ms
from batchmill.store.deliveries import Delivery
from batchmill.store.errors import StoreError

log = structlog.get_logger()

_TIMEOUT: Final = 15.0
_LEASE: Final = 60.0  # longer than a try may take
_PAUSES: Final = (5, 30, 120, 600, 1800, 7200, 14_400, 36_000, 86_400)  # seconds until the next try
_JITTER: Final = 0.2
_GONE: Final = 410
_MS: Final = 1000

_encode = msgspec.json.Encoder(decimal_format="string").encode


class Webhooks:
    """Makes the deliveries that are due. `deliver()` may be called by anybody at any time."""

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        *,
        environ: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._redis = redis
        self._name = settings.upstream_name
        self._environ = environ
        self._transport = transport

    async def deliver(self) -> None:
        """Make every delivery that is due, side by side: one receiver that is slow keeps no other waiting."""
        due = await deliveries.take(self._redis, self._name, _LEASE)
        if not due:
            return
        hooks = {hook.name: hook for hook in (await policy.live(self._redis, self._name)).policy.webhooks}
        async with httpx.AsyncClient(timeout=_TIMEOUT, transport=self._transport) as client:
            await asyncio.gather(*(self._make(client, hooks.get(one.webhook), one) for one in due))

    async def _make(self, client: httpx.AsyncClient, hook: Webhook | None, delivery: Delivery) -> None:
        try:
            raised = await alerts.one(self._redis, self._name, delivery.alert_id)
        except StoreError as error:  # another version wrote it, and may send it
            log.error("webhook.unreadable", webhook=delivery.webhook, error=str(error))
            return
        if hook is None or raised is None:  # it was taken out of the config, or so many alerts came since
            await deliveries.drop(self._redis, self._name, delivery)
            return
        trouble, wait = await self._post(client, hook, raised)
        if trouble is None:
            await deliveries.drop(self._redis, self._name, delivery)
            log.info("webhook.told", webhook=hook.name, alert=raised.id)
        elif wait is None or delivery.failed >= len(_PAUSES):
            await deliveries.drop(self._redis, self._name, delivery)
            log.error("webhook.given_up", webhook=hook.name, alert=raised.id, error=trouble, tries=delivery.failed + 1)
        else:
            pause = max(wait, _PAUSES[delivery.failed] * random.uniform(1, 1 + _JITTER))  # noqa: S311 - no secret
            await deliveries.put_off(self._redis, self._name, delivery, pause)
            log.warning("webhook.failed", webhook=hook.name, alert=raised.id, error=trouble, again_in=round(pause))

    async def _post(self, client: httpx.AsyncClient, hook: Webhook, raised: Raised) -> tuple[str | None, float | None]:
        """Return what went wrong, None if nothing did; and the least wait until another try, None for no other."""
        try:
            key = find_webhook_secret(variables(self._environ), hook.secret_env)
        except ConfigError as error:  # another worker may have it
            return str(error), 0.0
        body, moment = payload(raised), await now_ms(self._redis)
        headers = signed(f"alert_{keys.upstream_tag(self._name)}_{raised.id}", moment // _MS, body, key.reveal())
        try:
            response = await client.post(hook.url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return type(error).__name__, 0.0  # its words may hold the URL, which may hold a token
        if response.is_success:
            return None, None
        return f"HTTP {response.status_code}", None if response.status_code == _GONE else _told_wait(response)


def payload(raised: Raised) -> bytes:
    """Return the event as JSON: type, timestamp and data, as Standard Webhooks recommends; money as exact strings."""
    alert = raised.alert
    data = {
        "id": raised.id,
        "level": alert.level,
        "subject": alert.subject,
        "period": alert.period,
        "text": alert.text,
        "amount_usd": None if alert.amount is None else to_usd(alert.amount),
        "limit_usd": None if alert.limit is None else to_usd(alert.limit),
        "count": alert.count,
    }
    timestamp = datetime.fromtimestamp(raised.at / _MS, UTC)
    return _encode({"type": alert.kind.value, "timestamp": timestamp, "data": data})


def signed(message_id: str, timestamp: int, body: bytes, secret: str) -> dict[str, str]:
    """Return the headers of a message (unix seconds); the same message has the same id in every try.

    `secret` is base64 without its prefix.
    """
    moment = datetime.fromtimestamp(timestamp, UTC)
    signature = Signer(base64.b64decode(secret)).sign(message_id, moment, body.decode())
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature,
    }


def _told_wait(response: httpx.Response) -> float:
    told = response.headers.get("retry-after", "")
    return min(float(told), _PAUSES[-1]) if told.isascii() and told.isdigit() else 0.0
