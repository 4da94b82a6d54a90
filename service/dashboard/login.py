"""A session for an API key, so that a browser need not keep the key."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from batchmill.service.access.gate import COOKIE, identify
from batchmill.service.access.origin import is_https
from batchmill.service.dashboard import forms
from batchmill.service.dashboard.guard import failed
from batchmill.service.dashboard.rendering import page
from batchmill.service.problems import ApiError
from batchmill.store import sessions

_SEE_OTHER = 303


async def show(request: Request) -> Response:
    """Ask for a key."""
    return _page(request, request.query_params.get("next", "/"))


async def enter(request: Request) -> Response:
    """Begin a session, or say why not."""
    service = request.app.state.service
    try:
        fields = await forms.read_form(request, anonymous=True)
        wanted = forms.local(fields.get("next", "/"))
        key = fields.get("key", "").strip()
        if not key:
            return _page(request, wanted, "Enter an API key.", 400)
        identity = await identify(service, forms.with_key(request, key))
    except ApiError as error:
        return _page(request, "/", error.message, error.status)
    answer = RedirectResponse(wanted, _SEE_OTHER)
    if identity.key_id is not None:
        token = await sessions.create(service.redis, identity.key_id)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=is_https(request))
    return answer


async def leave(request: Request) -> Response:
    """End the session."""
    try:
        await forms.read_form(request)
    except ApiError as error:
        return failed(request, error)
    if token := request.cookies.get(COOKIE):
        await sessions.delete(request.app.state.service.redis, token)
    answer = RedirectResponse("/login", _SEE_OTHER)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def _page(request: Request, wanted: str, message: str = "", status: int = 200) -> Response:
    return page(request, "login.html", None, status=status, live=0, wanted=forms.local(wanted), message=message)
