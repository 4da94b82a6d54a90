"""Errors as OpenAI's clients know them: `{"error": {"message", "type", "param", "code"}}` with the right status.

Clients retry 408, 409, 429 and 5xx unless `x-should-retry` says otherwise, so whatever a second try can't mend says so.
"""

import difflib
import re
from collections.abc import Mapping

import msgspec
import msgspec.inspect

INVALID = "invalid_request_error"
_FINAL = (400, 401, 403, 404, 405, 409, 413, 416, 422)
_WHERE = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_CHOICE = re.compile(r"Invalid enum value (?P<value>.+)$")
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


def unknown_url(method: str, path: str) -> ApiError:
    """Return the error of an address that nothing answers at, with what was probably meant."""
    if path.startswith("/v1/v1"):
        meant = "; /v1 is there twice: a client's base URL ends in one"
    elif not path.startswith("/v1"):
        meant = "; the API is at /v1, so a client's base URL ends in /v1"
    else:
        meant = "; GET /openapi.json lists all that there is"
    return not_found(f"Invalid URL ({method} {path}){meant}.", code="unknown_url")


def too_many(message: str, retry_after: int) -> ApiError:
    """Return the error of a client that asks too often; in so many seconds (1 or more) it may again."""
    return ApiError(
        429, message, kind="rate_limit_error", code="rate_limit_exceeded", headers={"retry-after": str(retry_after)}
    )


def unavailable(message: str) -> ApiError:
    """Return the error of a moment in which we can't answer; nothing was done."""
    return ApiError(503, message, kind="server_error", headers={"retry-after": "1"})


def of_validation(
    error: msgspec.ValidationError, within: str = "", shape: type[msgspec.Struct] | None = None
) -> ApiError:
    """Return what a client is told of a body (or, `within`, a part of it) that has not the right shape.

    Where that shape is told, so is what its fields may be.
    """
    said = str(error)
    found = _WHERE.search(said)
    path = ".".join(part for part in (within, found["path"] if found else "") if part)
    what = said[: found.start()] if found else said
    if missing := _MISSING.search(what):
        name = f"{path}.{missing['name']}" if path else missing["name"]
        return invalid(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if unknown := _UNKNOWN.search(what):
        name = f"{path}.{unknown['name']}" if path else unknown["name"]
        near = difflib.get_close_matches(name, shape.__struct_encode_fields__ if shape else (), n=1)
        meant = f"; did you mean '{near[0]}'?" if near else "."
        return invalid(f"Unknown parameter: '{name}'{meant}", name, "unknown_parameter")
    if types := _TYPES.search(what):
        wanted, got = (_NOUNS.get(types[side], types[side]) for side in ("wanted", "got"))
        where = f"'{path}'" if path else "the body"
        said = f"Invalid type for {where}: expected {wanted}, but got {got} instead."
        return invalid(said, path or None, "invalid_type")
    if (choice := _CHOICE.search(what)) and (known := _choices(shape, path)):
        supported = ", ".join(f"'{value}'" for value in known)
        said = f"Invalid value: {choice['value']}. Supported values are: {supported}."
        return invalid(said, path, "invalid_value")
    return invalid(f"Invalid value for '{path}': {what}." if path else what, path or None, "invalid_value")


def _choices(shape: type[msgspec.Struct] | None, name: str) -> tuple[object, ...]:
    """Return the values of a field that takes a few only, nothing for any other."""
    if shape is None or name not in shape.__struct_encode_fields__:
        return ()
    declared = msgspec.inspect.type_info(shape).fields  # type: ignore[attr-defined]  # of a Struct's info
    kind = next(field.type for field in declared if field.encode_name == name)
    for each in kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,):
        if isinstance(each, msgspec.inspect.EnumType):
            return tuple(member.value for member in each.cls)
        if isinstance(each, msgspec.inspect.LiteralType):
            return tuple(each.values)
    return ()
