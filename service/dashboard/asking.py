"""Pages ask the API: the very operations that clients call, with the rights of who looks at the page.

So no number is on a page that is not in the API, and nobody sees or does more here than there.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from batchmill.service import problems
from batchmill.service.compat.files import FileObject
from batchmill.service.context import Service
from batchmill.service.endpoints import perform
from batchmill.service.identity import Identity
from batchmill.service.multipart import Form
from batchmill.service.operations import Answer, Operation
from batchmill.service.problems import ApiError

_HIDDEN = (403, 404)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks, and the request by which they do."""

    service: Service
    request: Request
    identity: Identity

    async def get(self, path: str, **query: object) -> Any:
        """Return what GET of a path answers; what is None is left out of the query. Raises ApiError."""
        return await self._ask("GET", path, query, {})

    async def get_if_any(self, path: str, **query: object) -> Any:
        """Return what GET of a path answers, None for what is not there for them. Raises ApiError for all else."""
        try:
            return await self.get(path, **query)
        except ApiError as error:
            if error.status in _HIDDEN:
                return None
            raise

    async def do(self, method: str, path: str, **body: object) -> Any:
        """Change something. Raises ApiError."""
        return await self._ask(method, path, {}, body)

    async def upload(self, form: Form) -> FileObject:
        """Store the file of a form that has been read as far as its file. Raises ApiError."""
        stored: FileObject = await self._ask("POST", "/v1/files", {}, form)
        return stored

    async def _ask(self, method: str, path: str, query: Mapping[str, object], body: object) -> Any:
        operation, parts = _find(self.request.app.state.operations, method, path)
        given = {name: str(value) for name, value in query.items() if value not in (None, "")}
        asked = Request({**self.request.scope, "method": method, "path": path, "path_params": parts})
        done = await perform(self.service, operation, asked, self.identity, given, body or None)
        return _value(operation, done)


async def together(**asked: Any) -> dict[str, Any]:
    """Await several answers at once. Raises the first ApiError."""
    return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))


def _find(operations: tuple[Operation, ...], method: str, path: str) -> tuple[Operation, dict[str, Any]]:
    for operation in operations:
        if operation.method == method and (found := _pattern(operation.path).fullmatch(path)):
            return operation, found.groupdict()
    raise problems.unknown_url(method, path)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return compile_path(path)[0]


def _value(operation: Operation, done: Response | Answer | msgspec.Struct) -> Any:
    if isinstance(done, Answer):
        return done.body
    if isinstance(done, Response):
        return msgspec.json.decode(bytes(done.body), type=operation.answer or Any)
    return done
