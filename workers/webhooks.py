"""Tells the webhooks of the policy of alerts; what does not arrive is sent again, for about two days."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import httpx
import msgspec
import structlog
from redis.asyncio import Redis

from batchmill.config.alerting import Webhook
from batchmill.config.credentials import find_webhook_secret
from batchmill.config.errors import ConfigError
from batchmill.config.settings import Settings, variables
from batchmill.openrouter.money import usd_if_known
from batchmill.store import alerts, deliveries, keys, policy
from batchmill.store.alerts import Raised
from batchmill.store.clock import now_ms
from batchmill.store.deliveries import Delivery
from batchmill.store.errors import StoreError
from batchmill.webhooks.message import LEASE, TIMEOUT, Tried, failed, post, signed
from batchmill.webhooks.settling import settle

log = structlog.get_logger()

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
        self._outbox = deliveries.of_alerts(redis, settings.upstream_name)
        self._environ = environ
        self._transport = transport

    async def deliver(self) -> None:
        """Make every delivery that is due, side by side: one receiver that is slow keeps no other waiting."""
        due = await self._outbox.take(LEASE)
        if not due:
            return
        hooks = {hook.name: hook for hook in (await policy.live(self._redis, self._name)).policy.webhooks}
        async with httpx.AsyncClient(timeout=TIMEOUT, transport=self._transport) as client:
            await asyncio.gather(*(self._make(client, hooks, one) for one in due))

    async def _make(self, client: httpx.AsyncClient, hooks: Mapping[str, Webhook], delivery: Delivery) -> None:
        name, _, alert_id = delivery.member.partition(" ")
        hook = hooks.get(name)
        try:
            raised = await alerts.one(self._redis, self._name, alert_id)
        except StoreError as error:  # another version wrote it, and may send it
            log.error("webhook.unreadable", webhook=name, error=str(error))
            return
        if hook is None or raised is None:  # it was taken out of the config, or so many alerts came since
            await self._outbox.drop(delivery)
            return
        tried = await self._post(client, hook, raised)
        await settle(self._outbox, delivery, tried, "webhook", webhook=hook.name, alert=raised.id)

    async def _post(self, client: httpx.AsyncClient, hook: Webhook, raised: Raised) -> Tried:
        try:
            key = find_webhook_secret(variables(self._environ), hook.secret_env)
        except ConfigError as error:  # another worker may have it
            return failed(str(error))
        body, moment = payload(raised), await now_ms(self._redis)
        headers = signed(f"alert_{keys.upstream_tag(self._name)}_{raised.id}", moment // _MS, body, key.reveal())
        return await post(client, client.build_request("POST", hook.url, content=body, headers=headers))


def payload(raised: Raised) -> bytes:
    """Return the event as JSON: type, timestamp and data, as Standard Webhooks recommends; money as exact strings."""
    alert = raised.alert
    data = {
        "id": raised.id,
        "level": alert.level,
        "subject": alert.subject,
        "period": alert.period,
        "text": alert.text,
        "amount_usd": usd_if_known(alert.amount),
        "limit_usd": usd_if_known(alert.limit),
        "count": alert.count,
    }
    timestamp = datetime.fromtimestamp(raised.at / _MS, UTC)
    return _encode({"type": alert.kind.value, "timestamp": timestamp, "data": data})
