"""Whether a gateway lives, whether it can do its work, and what Prometheus wants to know."""

import asyncio

import msgspec
from redis.exceptions import RedisError
from starlette.responses import Response

from batchmill.service import problems
from batchmill.service.access.gate import identify
from batchmill.service.identity import Scope
from batchmill.service.metrics.exposition import CONTENT_TYPE, exposition
from batchmill.service.operations import Answer, Call, Operation
from batchmill.storage.blobs import StorageError

_PATIENCE = 2.0  # seconds; who asks whether we are ready does not wait for long
_NOBODY = "readyz"  # begins no name of ours


class Health(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str


class Readiness(msgspec.Struct, frozen=True):
    """What a gateway needs, and whether it is there: `ok`, or what is wrong."""

    status: str
    redis: str
    storage: str


async def healthz(call: Call[None, None]) -> Health:  # noqa: ARG001 - every handler gets one
    """Say that the process is alive. It says nothing about Redis: restarting us would not bring that back."""
    return Health("ok")


async def readyz(call: Call[None, None]) -> Answer:
    """Look whether Redis and the storage of files can be reached; 503, and which of them can't, when one can't."""
    redis, storage = await asyncio.gather(_redis(call), _storage(call))
    ready = redis == storage == "ok"
    return Answer(Readiness("ok" if ready else "unavailable", redis, storage), 200 if ready else 503)


async def prometheus(call: Call[None, None]) -> Response:
    """Show every metric of the fleet and of this gateway in Prometheus's text format.

    It needs a key that may read every project, unless `service.open_metrics` is set.
    """
    if not call.service.settings.service.open_metrics:
        identity = await identify(call.service, call.request)
        if identity.project is not None or Scope.READ not in identity.scopes:
            raise problems.forbidden("Metrics are of every project; they need a key that may read all of them.")
    text = await exposition(call.service.redis, call.service.upstream)
    return Response(text, media_type=CONTENT_TYPE)


async def _redis(call: Call[None, None]) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            await call.service.redis.execute_command("PING")
    except (RedisError, OSError, TimeoutError) as error:
        return f"can't be reached ({type(error).__name__})"
    return "ok"


async def _storage(call: Call[None, None]) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            await call.service.blobs.names(_NOBODY)
    except (StorageError, TimeoutError) as error:
        return f"can't be used ({type(error).__name__})"
    return "ok"


OPERATIONS = (
    Operation(
        method="GET", path="/healthz", handler=healthz, tag="health", summary="Is the process alive?",
        scope=Scope.READ, answer=Health, open=True,
    ),
    Operation(
        method="GET", path="/readyz", handler=readyz, tag="health", summary="Can it do its work?",
        scope=Scope.READ, answer=Readiness, open=True, errors=(503,),
    ),
    Operation(
        method="GET", path="/metrics", handler=prometheus, tag="health", summary="Metrics for Prometheus",
        scope=Scope.READ, answer_media="text/plain", open=True,
    ),
)  # fmt: skip
