"""What a gateway does for the ends of batches: those whose time is over, and those whose webhook is to be told.

So both happen without any worker; every gateway looks, and what only one may do is leased in Redis.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx
import msgspec
import structlog

from batchmill.config.credentials import find_webhook_secret
from batchmill.config.errors import ConfigError
from batchmill.config.settings import variables
from batchmill.service.context import Service
from batchmill.store import deliveries, endings, events
from batchmill.store.clock import now_ms
from batchmill.store.deliveries import Delivery, Outbox
from batchmill.store.events import Event
from batchmill.webhooks.addresses import AddressError, request_to
from batchmill.webhooks.message import LEASE, TIMEOUT, Tried, failed, post, signed
from batchmill.webhooks.settling import settle

log = structlog.get_logger()

_EVERY: Final = 1.0  # seconds
_MS: Final = 1000


async def end_late_batches(service: Service) -> None:
    """End the batches whose completion window is over. A background task."""
    while True:
        await endings.sweep(service.redis, retention_days=service.settings.results.retention_days)
        await asyncio.sleep(_EVERY)


async def tell_of_ends(service: Service) -> None:
    """Tell the webhooks of batches that these have ended. A background task."""
    teller = Teller(service)
    while True:
        await teller.tell()
        await asyncio.sleep(_EVERY)


class Teller:
    """Sends the events that are due. `tell()` may be called by anybody at any time."""

    def __init__(
        self,
        service: Service,
        *,
        environ: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._redis = service.redis
        self._settings = service.settings.service
        self._outbox: Outbox = deliveries.of_events(service.redis)
        self._environ = environ
        self._transport = transport

    async def tell(self) -> None:
        """Send every event that is due, side by side: one receiver that is slow keeps no other waiting."""
        due = await self._outbox.take(LEASE)
        if not due:
            return
        async with httpx.AsyncClient(timeout=TIMEOUT, transport=self._transport) as client:
            await asyncio.gather(*(self._make(client, one) for one in due))

    async def _make(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        try:
            event = events.read(delivery.member)
        except msgspec.DecodeError:  # another version wrote it, and may send it
            log.error("event.unreadable")
            return
        tried = await self._try(client, event)
        await settle(self._outbox, delivery, tried, "event", batch=event.batch_id, ended=event.ended)

    async def _try(self, client: httpx.AsyncClient, event: Event) -> Tried:
        body, moment = event.body(), await now_ms(self._redis) // _MS
        try:
            secret = find_webhook_secret(variables(self._environ), self._settings.webhook_secret_env)
            request = await request_to(client, event.url, body, private=self._settings.private_webhooks)
        except (ConfigError, AddressError) as error:  # another gateway may have it; the name may be mended
            return failed(str(error))
        request.headers.update(signed(event.id, moment, body, secret.reveal()))
        return await post(client, request)
