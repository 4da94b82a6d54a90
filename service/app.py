"""The application: every operation, the pages, and what runs beside them."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from batchmill.service import ends, health, problems
from batchmill.service.access import keys
from batchmill.service.access.guard import Guard
from batchmill.service.background import Task, running
from batchmill.service.compat import batches, chat, file_estimates, files, models, outputs
from batchmill.service.context import Service
from batchmill.service.control import document, money_api, work_api
from batchmill.service.dashboard import pages as dashboard
from batchmill.service.endpoints import endpoint_of, failed
from batchmill.service.intake_task import take_intakes
from batchmill.service.operations import Operation

OPERATIONS: tuple[Operation, ...] = (
    *files.OPERATIONS,
    *file_estimates.OPERATIONS,
    *batches.OPERATIONS,
    *models.OPERATIONS,
    *chat.OPERATIONS,
    *keys.OPERATIONS,
    *health.OPERATIONS,
    *work_api.OPERATIONS,
    *money_api.OPERATIONS,
    *document.OPERATIONS,
)
"""Whatever the API can do, in the order of the document."""

TASKS: tuple[Task, ...] = (
    take_intakes,
    files.sweep_files,
    outputs.write_outputs,
    ends.end_late_batches,
    ends.tell_of_ends,
)
"""Whatever a gateway does beside answering."""

PAGES: tuple[BaseRoute, ...] = dashboard.ROUTES
"""What people see: the dashboard."""


def make_app(service: Service) -> Starlette:
    """Return the ASGI application of one gateway."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with running(service, TASKS):
            yield

    routes = [Route(each.path, endpoint_of(each), methods=[each.method]) for each in OPERATIONS]
    app = Starlette(
        routes=[*routes, *PAGES],
        lifespan=lifespan,
        middleware=[Middleware(Guard)],
        exception_handlers={HTTPException: _no_route},
    )
    app.state.service = service
    app.state.operations = OPERATIONS
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:  # noqa: PLR2004 - an HTTP status
        message = f"Not allowed to {request.method} on {request.url.path}."
        return failed(problems.ApiError(status, message, headers=getattr(error, "headers", None)))
    if status == 404:  # noqa: PLR2004 - an HTTP status
        return failed(problems.unknown_url(request.method, request.url.path))
    return failed(problems.ApiError(status, str(error)))
