"""What the models of an upstream cost and can do, kept in Redis for everybody who hands lines over.

fresh enough ──────────────► the copy
older, or none ── GET /models ──► a new copy
                     └─ fails ──► the last good copy, for a day; none left: the failure
"""

from functools import cache

import msgspec
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError
from batchmill.openrouter.models import ModelFacts, decode_models
from batchmill.store import keys

Models = dict[str, ModelFacts]

FRESH_SECONDS = 300
_KEPT_SECONDS = 86_400
_CONNECT_SECONDS = 5.0
_TOTAL_SECONDS = 30.0

_decode = msgspec.msgpack.Decoder(list[ModelFacts]).decode
_encode = msgspec.msgpack.Encoder().encode


async def models_of(redis: Redis, settings: Settings) -> Models:
    """Return the priced models of the settings' upstream; of a simulator those that are packaged.

    An endpoint that names no prices has none, and one that can't be asked has none either. Only OpenRouter names
    prices for sure: raises UpstreamUnavailableError or UpstreamRefusedError when it can't be asked and no copy is left.
    """
    if settings.simulate:
        return _packaged()
    key = keys.catalogue(settings.upstream_name)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("GET", key)
        pipe.execute_command("TTL", key)
        stored, left = await pipe.execute()
    copy = _read(stored)
    if copy is not None and _KEPT_SECONDS - left < FRESH_SECONDS:
        return copy
    try:
        models = await _ask(settings)
    except (UpstreamUnavailableError, UpstreamRefusedError):
        if copy is None and settings.speaks_openrouter:
            raise
        return copy or {}
    if copy and not models:  # an answer that is no listing, from an upstream that had one
        return copy
    await redis.execute_command("SET", key, _encode(list(models.values())), "EX", _KEPT_SECONDS)
    return models


async def _ask(settings: Settings) -> Models:
    from batchmill.openrouter.client import Upstream

    upstream = msgspec.structs.replace(
        settings.upstream,
        connect_timeout=min(_CONNECT_SECONDS, settings.upstream.connect_timeout),
        total_timeout=min(_TOTAL_SECONDS, settings.upstream.total_timeout),
    )
    async with Upstream(upstream, settings.api_key, max_connections=1) as client:
        return await client.models()


def _read(stored: bytes | None) -> Models | None:
    if stored is None:
        return None
    try:
        return {facts.id: facts for facts in _decode(stored)}
    except msgspec.DecodeError:  # written by another version
        return None


@cache
def _packaged() -> Models:
    from batchmill.openrouter.simulator.catalogue import load_catalogue

    return decode_models(load_catalogue().listing)
