"""Sessions of the dashboard: whoever showed an API key once need not show it again for twelve hours.

A session is known by a random token, of which only a hash is kept. It ends with its key.
"""

import hashlib
import hmac
import secrets

from redis.asyncio import Redis

from batchmill.store import service_keys

LASTS = 12 * 3600
"""Seconds after the last use."""

_TOKEN_BYTES = 32


async def create(redis: Redis, key_id: str) -> str:
    """Begin a session of an API key; return its token, which is for the cookie alone."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    name = service_keys.session(_digest(token))
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("HSET", name, "key", key_id)
        pipe.execute_command("EXPIRE", name, LASTS)
        await pipe.execute()
    return token


async def key_of(redis: Redis, token: str) -> str | None:
    """Return the id of the API key whose session this is, and let the session last on; None when there is none."""
    name = service_keys.session(_digest(token))
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("HGET", name, "key")
        pipe.execute_command("EXPIRE", name, LASTS)
        found, _ = await pipe.execute()
    return None if found is None else str(found.decode())


async def delete(redis: Redis, token: str) -> None:
    """End a session."""
    await redis.execute_command("DEL", service_keys.session(_digest(token)))


def csrf_of(token: str) -> str:
    """Return what a page of the session sends along with each change, and another site can't know."""
    return hmac.new(token.encode(), b"batchmill csrf", hashlib.sha256).hexdigest()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
