"""Who may see a page, and what they see when something is amiss."""

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from batchmill.config.errors import BatchmillError
from batchmill.service import problems
from batchmill.service.access.gate import identify
from batchmill.service.dashboard.asking import Visitor
from batchmill.service.dashboard.forms import FIELD, local, read_form
from batchmill.service.dashboard.rendering import page
from batchmill.service.endpoints import failed as api_failed
from batchmill.service.problems import ApiError

View = Callable[[Visitor], Awaitable[Response]]
Action = Callable[[Visitor, dict[str, str]], Awaitable[str | None]]
Endpoint = Callable[[Request], Awaitable[Response]]

_SEE_OTHER = 303
_UNAUTHORIZED = 401
_TITLES = {
    400: "That can't be done", 403: "Not allowed", 404: "Not found", 408: "Too slow", 409: "Not in this state",
    413: "Too large", 429: "Too many requests", 503: "Redis can't be reached",
}  # fmt: skip


def seen(view: View) -> Endpoint:
    """Return the endpoint of a page. Who has no session, where one is needed, is led to the login."""

    async def endpoint(request: Request) -> Response:
        if _is_client(request):
            return api_failed(problems.unknown_url(request.method, request.url.path))
        try:
            visitor = await visitor_of(request)
            return await view(visitor)
        except ApiError as error:
            return failed(request, error)

    endpoint.__name__ = view.__name__
    return endpoint


def done(action: Action) -> Endpoint:
    """Return the endpoint of a form: it does what is asked and leads to where the action says, or back."""

    async def endpoint(request: Request) -> Response:
        try:
            fields = await read_form(request)
            back = local(fields.pop("back", "/"))
            visitor = await visitor_of(request, fields.pop(FIELD))
            leads = await action(visitor, fields)
            visitor.service.moments.forget()
            return RedirectResponse(leads or back, _SEE_OTHER)
        except ApiError as error:
            return failed(request, error)

    endpoint.__name__ = action.__name__
    return endpoint


def failed(request: Request, error: ApiError) -> Response:
    """Return the page that tells of an error."""
    if error.status == _UNAUTHORIZED:
        return RedirectResponse(f"/login?next={quote(request.url.path)}", _SEE_OTHER)
    title = _TITLES.get(error.status, "Something went wrong")
    return page(request, "problem.html", None, status=error.status, live=0, title=title, message=error.message)


def _is_client(request: Request) -> bool:
    """Whether a program asks that wants JSON alone: its base URL lacks /v1, and some pages have names of the API's."""
    return request.headers.get("accept") == "application/json"


async def visitor_of(request: Request, form_token: str | None = None) -> Visitor:
    """Return who looks, or whose form this is, by its token. Raises ApiError."""
    service = request.app.state.service
    try:
        identity = await identify(service, request, form_token=form_token)
    except (RedisError, BatchmillError, TimeoutError) as error:
        raise problems.unavailable("Nothing can be shown, and nothing is sent, until Redis is back.") from error
    return Visitor(service, request, identity)
