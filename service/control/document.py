"""The description of the API, made of the operations that it consists of."""

from importlib.metadata import version

import msgspec
from starlette.responses import Response

from batchmill.service.identity import Scope
from batchmill.service.openapi import document
from batchmill.service.operations import Call, Operation

_PACKAGE = "batchmill"


async def describe_api(call: Call[None, None]) -> Response:
    """Return the OpenAPI document (3.1) of this gateway: every operation with its types, scopes and errors."""
    operations: tuple[Operation, ...] = call.request.app.state.operations
    told = call.service.moments.keep("openapi", lambda: msgspec.json.encode(document(operations, version(_PACKAGE))))
    return Response(told, media_type="application/json")


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
