"""Errors as OpenAI's clients know them: `{"error": {"message", "type", "param", "code"}}` with the right status.

Clients retry 408, 409, 429 and 5xx unless `x-should-retry` says otherwise, so whatever a second try can't mend says so.
"""

import re
from collections.abc import Mapping

import msgspec

INVALID = "invalid_request_error"
_FINAL = (400, 401, 403, 404, 405, 409, 413, 416, 422)
_WHERE = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_TYPES = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`")
_NOUNS = {
    "str": "a string", "int": "an integer", "float": "a number", "bool": "a boolean", "array": "an array",
    "object": "an object", "null": "null", "int | null": "an integer", "str | null": "a string",
}  # fmt: skip


class ApiError(Exception):
    """What a client is told instead of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        if status in _FINAL:
            self.headers.setdefault("x-should-retry", "false")


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorObject(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    error: ErrorDetail


def error_object(error: ApiError) -> ErrorObject:
    """Return the body that tells of an error."""
    return ErrorObject(ErrorDetail(error.message, error.kind, error.param, error.code))


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error of a request that can't be meant."""
    return ApiError(400, message, param=param, code=code)


def unauthorized(message: str, code: str = "invalid_api_key") -> ApiError:
    """Return the error of a request without a key that counts."""
    return ApiError(401, message, code=code, headers={"www-authenticate": "Bearer"})


def forbidden(message: str) -> ApiError:
    """Return the error of a key that may not do this."""
    return ApiError(403, message, kind="permission_error", code="insufficient_permissions")


def not_found(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error of what does not exist, or not for who asks."""
    return ApiError(404, message, param=param, code=code)


def conflict(message: str) -> ApiError:
    """Return the error of what can't be done in this state. A second try would not help."""
    return ApiError(409, message)


def too_large(message: str) -> ApiError:
    """Return the error of a body over its limit."""
    return ApiError(413, message, code="request_too_large")


def too_many(message: str, retry_after: int) -> ApiError:
    """Return the error of a client that asks too often; in so many seconds (1 or more) it may again."""
    return ApiError(
        429, message, kind="rate_limit_error", code="rate_limit_exceeded", headers={"retry-after": str(retry_after)}
    )


def unavailable(message: str) -> ApiError:
    """Return the error of a moment in which we can't answer; nothing was done."""
    return ApiError(503, message, kind="server_error", headers={"retry-after": "1"})


def of_validation(error: msgspec.ValidationError, within: str = "") -> ApiError:
    """Return what a client is told of a body (or, `within`, a part of it) that has not the right shape."""
    said = str(error)
    found = _WHERE.search(said)
    path = ".".join(part for part in (within, found["path"] if found else "") if part)
    what = said[: found.start()] if found else said
    if missing := _MISSING.search(what):
        name = f"{path}.{missing['name']}" if path else missing["name"]
        return invalid(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if unknown := _UNKNOWN.search(what):
        name = f"{path}.{unknown['name']}" if path else unknown["name"]
        return invalid(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    if types := _TYPES.search(what):
        wanted, got = (_NOUNS.get(types[side], types[side]) for side in ("wanted", "got"))
        where = f"'{path}'" if path else "the body"
        said = f"Invalid type for {where}: expected {wanted}, but got {got} instead."
        return invalid(said, path or None, "invalid_type")
    return invalid(f"Invalid value for '{path}': {what}." if path else what, path or None, "invalid_value")
