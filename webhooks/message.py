"""One message and one try to deliver it, after Standard Webhooks.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: the three headers,
what is signed, and that any 2xx has arrived, 410 wants no more, and a redirect is a failure.
"""

import asyncio
import base64
import random
from datetime import UTC, datetime
from typing import Final

import httpx
import msgspec
from standardwebhooks.webhooks import Webhook as Signer

TIMEOUT: Final = 15.0
"""Seconds that one step of a try may take."""

WHOLE: Final = 30.0
"""Seconds that a whole try may take, however slowly its receiver goes on."""

LEASE: Final = 60.0
"""Seconds that whoever makes a delivery has it alone: longer than a try may take."""

_PAUSES: Final = (5, 30, 120, 600, 1800, 7200, 14_400, 36_000, 86_400)  # seconds until the next try
_JITTER: Final = 0.2
_GONE: Final = 410


class Tried(msgspec.Struct, frozen=True):
    """How a try ended: `trouble` None, it has arrived; `wait` is the least wait until another, None for no other."""

    trouble: str | None = None
    wait: float | None = None


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


async def post(client: httpx.AsyncClient, request: httpx.Request) -> Tried:
    """Send a message once. What the answer says is not read: it may have no end."""
    try:
        async with asyncio.timeout(WHOLE):
            response = await client.send(request, follow_redirects=False, stream=True)
            await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return failed(type(error).__name__)  # its words may hold the URL, which may hold a token
    if response.is_success:
        return Tried()
    return Tried(f"HTTP {response.status_code}", None if response.status_code == _GONE else _told_wait(response))


def failed(trouble: str) -> Tried:
    """Return a try that may be made again."""
    return Tried(trouble, 0.0)


def pause_after(tried: Tried, failures: int) -> float | None:
    """Return the seconds until the next try, after so many failures before this one; None when it is given up."""
    if tried.wait is None or failures >= len(_PAUSES):
        return None
    return max(tried.wait, _PAUSES[failures] * random.uniform(1, 1 + _JITTER))  # noqa: S311 - no secret


def _told_wait(response: httpx.Response) -> float:
    told = response.headers.get("retry-after", "")
    return min(float(told), _PAUSES[-1]) if told.isascii() and told.isdigit() else 0.0
