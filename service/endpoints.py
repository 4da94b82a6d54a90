"""From an operation to what Starlette calls: who asks, query, body, the work, the answer, and every way to fail."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from batchmill.config.errors import BatchmillError, ConfigError
from batchmill.producer.errors import InputError
from batchmill.service import problems
from batchmill.service.access.gate import identify
from batchmill.service.bodies import read_body
from batchmill.service.context import Service
from batchmill.service.identity import OPERATOR, Identity
from batchmill.service.metrics.exposition import answered
from batchmill.service.operations import Answer, Call, Operation
from batchmill.service.problems import ApiError
from batchmill.storage.blobs import StorageError
from batchmill.store.errors import StoreError, UnknownBatchError

log = structlog.get_logger()

JSON = "application/json"
encode = msgspec.json.Encoder(decimal_format="number").encode

Endpoint = Callable[[Request], Awaitable[Response]]


def endpoint_of(operation: Operation) -> Endpoint:
    """Return the function that answers requests for an operation. It never raises but to be cancelled."""

    async def endpoint(request: Request) -> Response:
        began = time.perf_counter()
        request_id = f"req_{secrets.token_hex(12)}"
        request.state.request_id = request_id
        with structlog.contextvars.bound_contextvars(request_id=request_id, operation=operation.name):
            try:
                response = await _answered(operation, request)
            except ApiError as error:
                response = failed(error)
        took = time.perf_counter() - began
        answered(operation.name, response.status_code, took)
        response.headers.update(getattr(request.state, "access_headers", {}))
        response.headers["x-request-id"] = request_id
        response.headers["openai-processing-ms"] = str(round(took * 1000))
        return response

    endpoint.__name__ = operation.name
    return endpoint


def failed(error: ApiError) -> Response:
    """Return the answer that tells of an error."""
    return Response(encode(problems.error_object(error)), error.status, error.headers, JSON)


async def perform(
    service: Service,
    operation: Operation,
    request: Request,
    identity: Identity,
    query: Mapping[str, str],
    body: object,
) -> Response | Answer | msgspec.Struct:
    """Do what an operation does, for a page of ours. Raises ApiError, and nothing else but to be cancelled.

    `body` is what it is asked as, or None; for a `raw` operation, what the page has begun to read itself.
    """
    try:
        _permit(operation, identity)
        asked = msgspec.convert(query, operation.query, strict=False) if operation.query else None
        given = (
            body if operation.raw or not operation.body else msgspec.convert(body or {}, operation.body, strict=False)
        )
        return await operation.handler(Call(service, request, identity, asked, given))
    except (ApiError, asyncio.CancelledError):
        raise
    except msgspec.ValidationError as error:
        raise problems.of_validation(error) from error
    except Exception as error:
        raise _known(error) from error


async def _answered(operation: Operation, request: Request) -> Response:
    try:
        service = request.app.state.service
        identity = OPERATOR
        if not operation.open:
            identity = await identify(service, request)
            _permit(operation, identity)
        query = _query(operation, request)
        body = await _body(operation, request, service.settings.service)
        done = await operation.handler(Call(service, request, identity, query, body))
        return _response(operation, done)
    except (ApiError, asyncio.CancelledError):
        raise
    except Exception as error:
        raise _known(error) from error


def _permit(operation: Operation, identity: Identity) -> None:
    if operation.scope not in identity.scopes:
        raise problems.forbidden(f"This API key lacks the scope '{operation.scope.value}', which this needs.")
    if operation.operator and identity.project is not None:
        raise problems.forbidden("This concerns every project; it needs an API key that is not bound to one.")


def _query(operation: Operation, request: Request) -> Any:
    if operation.query is None:
        return None
    try:
        return msgspec.convert(dict(request.query_params), operation.query, strict=False)
    except msgspec.ValidationError as error:
        raise problems.of_validation(error, shape=operation.query) from error


async def _body(operation: Operation, request: Request, limits: Any) -> Any:
    if operation.body is None or operation.raw:
        return None
    data = await read_body(request, limits.max_body_bytes, limits.body_timeout)
    if not data.strip() and operation.body_optional:
        return None
    try:
        return msgspec.json.decode(data, type=operation.body)
    except msgspec.ValidationError as error:
        raise problems.of_validation(error, shape=operation.body) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.invalid(
            "We could not parse the JSON body of your request. The API expects a JSON object.", code="invalid_json"
        ) from error


def _response(operation: Operation, done: Any) -> Response:
    if isinstance(done, Response):
        return done
    if isinstance(done, Answer):
        return Response(encode(done.body), done.status, done.headers, JSON)
    return Response(encode(done), operation.status, media_type=JSON)


def _known(error: Exception) -> ApiError:
    """Return what a client is told of an error that a handler did not turn into an answer itself."""
    match error:
        case UnknownBatchError():
            return problems.not_found(str(error))
        case InputError() | ConfigError():
            return problems.invalid(str(error))
        case StoreError() | RedisError() | StorageError() | TimeoutError():
            log.warning("service.cannot", error=str(error))
            return problems.unavailable("The service can't reach what it needs just now; nothing was done. Try again.")
        case BatchmillError():
            return problems.invalid(str(error))
        case ClientDisconnect():
            return problems.invalid("The connection was closed before the request was complete.")
        case _:
            log.error("service.defect", exc_info=error)
            return ApiError(500, "The service had an error while it processed your request.", kind="server_error")
