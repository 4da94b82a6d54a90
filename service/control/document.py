"""The description of the API, made of the operations that it consists of."""

from functools import lru_cache
from importlib.metadata import version

import msgspec
from starlette.responses import Response

from batchmill.service.identity import Scope
from batchmill.service.openapi import document
from batchmill.service.operations import Call, Operation

_PACKAGE = "batchmill"


async def describe_api(call: Call[None, None]) -> Response:
    """Return the OpenAPI document (3.1) of this gateway: every operation with its types, scopes and errors."""
    return Response(_document(call.request.app.state.operations), media_type="application/json")


@lru_cache(maxsize=1)
def _document(operations: tuple[Operation, ...]) -> bytes:
    return msgspec.json.encode(document(operations, version(_PACKAGE)))


OPERATIONS = (
    Operation(
        method="GET",
        path="/openapi.json",
        handler=describe_api,
        tag="service",
        summary="Describe the API",
        scope=Scope.READ,
    ),
)
