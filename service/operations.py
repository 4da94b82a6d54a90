"""What the API can do, as values: the routes and the OpenAPI document are both made of them.

OPERATIONS = (
    Operation("GET", "/v1/batches/{batch_id}", retrieve, answer=BatchObject, errors=(404,), tag="batches"),
)
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from batchmill.service.context import Service
from batchmill.service.identity import Identity, Scope

Q = TypeVar("Q")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """One request, as its handler sees it: who asks, and the query and the body in their types."""

    service: Service
    request: Request
    identity: Identity
    query: Q
    body: B

    def path(self, name: str) -> str:
        """Return a part of the path."""
        return str(self.request.path_params[name])


@dataclass(frozen=True, slots=True)
class Answer:
    """A body with another status, or with headers of its own."""

    body: Any
    status: int = 200
    headers: dict[str, str] | None = None


Handler = Callable[[Call[Any, Any]], Awaitable[Response | Answer | msgspec.Struct]]
"""Does the work. A struct is answered as JSON; ApiError says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing that can be asked for. `summary` and, below it, the handler's docstring describe it to people.

    `query` and `body` are structs; with `raw` the handler reads the body itself, and `body` only describes it, of the
    `media` type. `answer` is a struct, or None for what is no JSON: then `answer_media` says what. `errors` are the
    statuses that it may answer beside those that every operation has. `operator` is for who sees every project.
    """

    method: Literal["GET", "POST", "PATCH", "PUT", "DELETE"]
    path: str
    handler: Handler
    tag: str
    summary: str
    scope: Scope
    query: type[msgspec.Struct] | None = None
    body: Any = None
    raw: bool = False
    media: str = "application/json"
    answer: Any = None
    answer_media: str = "application/json"
    other_media: tuple[str, ...] = ()  # as which it may be answered, too
    status: int = 200
    also: tuple[int, ...] = ()  # other statuses that are no errors: 206 with a part of the answer, 304 with nothing
    errors: tuple[int, ...] = ()
    headers: dict[str, str] | None = None  # of the request that it heeds, each in a sentence
    operator: bool = False
    body_optional: bool = False
    open: bool = False  # anybody may ask, without a key; or the handler looks at who asks itself
    extra: dict[str, Any] | None = None  # more of the OpenAPI operation, for what the types can't say

    @property
    def name(self) -> str:
        """The operation's id: its handler's name."""
        return self.handler.__name__
