"""Forms that change something: only those of our own pages, only from the same site.

A session's pages carry a token that follows from the session. Where no key is needed there is no session; then the
token follows from a secret of this process, and a browser must say besides that the form came from our own address.
"""

import hashlib
import hmac
import secrets
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

from batchmill.service import problems
from batchmill.service.bodies import read_body
from batchmill.store import sessions

COOKIE = "batchmill_session"
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"

_MOST_BYTES = 64 * 1024
_SILENCE = 10.0  # seconds
_SECRET = secrets.token_bytes(32)  # a page from before a restart must be loaded anew


def token_of(request: Request) -> str:
    """Return what the forms of a page carry."""
    session = request.cookies.get(COOKIE)
    return sessions.csrf_of(session) if session else hmac.new(_SECRET, b"csrf", hashlib.sha256).hexdigest()


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form of ours. Raises ApiError: 403 for one that is not, 413, 408."""
    if not _same_site(request):
        raise problems.forbidden("This form was sent by another site; nothing was done.")
    body = await read_body(request, _MOST_BYTES, _SILENCE)
    fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    if not hmac.compare_digest(fields.pop(CSRF_FIELD, "").encode(), token_of(request).encode()):
        raise problems.forbidden("This page is out of date; nothing was done. Load it again and repeat.")
    return fields


def trusted(request: Request, **headers: str) -> Request:
    """Return a request whose form was read and found ours, with the headers that say so, and others if given."""
    more = {CSRF_HEADER: token_of(request), **headers}
    kept = [(name, value) for name, value in request.scope["headers"] if name.decode("latin-1") not in more]
    added = [(name.encode(), value.encode("latin-1", "replace")) for name, value in more.items()]
    return Request({**request.scope, "headers": [*kept, *added]})


def local(address: str) -> str:
    """Return an address if it is one of this service's pages, else the first page."""
    parts = urlsplit(address)
    inside = address.startswith("/") and not address.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return address if inside and "\r" not in address and "\n" not in address else "/"


def _same_site(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
