"""The OpenAPI document (3.1), made of the operations: their types are the schemas."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from batchmill.service.operations import Operation
from batchmill.service.problems import ErrorObject

_ALWAYS = (401, 403, 429, 500, 503)
_WITH_A_BODY = (400, 408, 413)
_PATH_PARTS = re.compile(r"{(\w+)(?::\w+)?}")
_REFERENCE = "#/components/schemas/{name}"
_SAID = {
    400: "The request can't be meant.", 401: "No API key, or none that counts.",
    402: "A budget has no room.", 403: "The key lacks a scope.", 404: "There is none, or not for this key.",
    408: "The body did not come on.", 409: "Not in this state.", 413: "The body is too large.",
    416: "The range begins after the end.", 429: "Too many requests.", 500: "A defect of the service.",
    422: "The model can't make anything of it.",
    502: "The upstream failed, as often as it was asked.",
    504: "It did not come in time.",
    503: "Redis or the storage can't be reached.",
}  # fmt: skip

Schema = dict[str, Any]


def document(operations: Sequence[Operation], version: str) -> Schema:
    """Return the document as what JSON is made of."""
    types = [kind for each in operations for kind in (each.body, each.answer) if kind is not None]
    types = list(dict.fromkeys([*types, ErrorObject]))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    known = dict(zip(types, schemas, strict=True))
    paths: Schema = {}
    for operation in operations:
        path = _PATH_PARTS.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, known)
    whole: Schema = _with_numbers(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "batchmill",
                "version": version,
                "summary": "OpenAI's Batch API for every model, with budgets that hold.",
            },
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "bm-..."}},
            },
            "security": [{"key": []}, {}],
        }
    )
    return whole


def _with_numbers(part: Any) -> Any:
    """Return the document with amounts of money as numbers, which they are in our answers."""
    if isinstance(part, dict):
        if part.get("format") == "decimal":
            default = {"default": float(part["default"])} if isinstance(part.get("default"), str) else {}
            return {name: value for name, value in part.items() if name != "format"} | {"type": "number"} | default
        return {name: _with_numbers(value) for name, value in part.items()}
    return [_with_numbers(each) for each in part] if isinstance(part, list) else part


def _operation(operation: Operation, known: dict[Any, Schema]) -> Schema:
    told: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": inspect.getdoc(operation.handler) or "",
        "tags": [operation.tag],
        "parameters": [*_path_parameters(operation), *_query_parameters(operation)],
        "responses": _responses(operation, known),
        "x-scope": operation.scope.value,
    }
    if operation.body is not None:
        content = {operation.media: {"schema": known[operation.body]}}
        told["requestBody"] = {"required": not operation.body_optional, "content": content}
    return told | (operation.extra or {})


def _path_parameters(operation: Operation) -> list[Schema]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PATH_PARTS.findall(operation.path)
    ]


def _query_parameters(operation: Operation) -> list[Schema]:
    if operation.query is None:
        return []
    (schema,), components = msgspec.json.schema_components([operation.query], ref_template=_REFERENCE)
    whole = components.get(schema.get("$ref", "").rpartition("/")[2], schema)
    required = whole.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": part}
        for name, part in whole["properties"].items()
    ]


def _responses(operation: Operation, known: dict[Any, Schema]) -> Schema:
    good: Schema = {"description": "Done."}
    if operation.answer is not None:
        good["content"] = {operation.answer_media: {"schema": known[operation.answer]}}
    elif operation.answer_media != "application/json":
        good["content"] = {operation.answer_media: {"schema": {"type": "string"}}}
    for media in operation.other_media:
        good.setdefault("content", {})[media] = {"schema": {"type": "string"}}
    responses: Schema = {str(operation.status): good}
    takes_input = operation.body is not None or operation.query is not None
    errors = {*_ALWAYS, *operation.errors, *(_WITH_A_BODY if operation.body is not None else ())}
    if takes_input:
        errors.add(400)
    for status in sorted(errors):
        responses[str(status)] = {
            "description": _SAID.get(status, "An error."),
            "content": {"application/json": {"schema": known[ErrorObject]}},
        }
    return responses
