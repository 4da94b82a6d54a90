"""Forms that change something: only those of our own pages, only from the same site.

A session's pages carry a token that follows from the session. Where no key is needed there is no session; then the
token follows from a secret of this process, and a browser must say besides that the form came from our own address.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

from batchmill.service import problems
from batchmill.service.access.gate import COOKIE
from batchmill.service.access.origin import is_own
from batchmill.service.bodies import read_body
from batchmill.store import sessions

FIELD = "csrf"
"""The field with the token."""

_IDENTITY = (b"authorization", b"x-api-key", b"cookie")
_MOST_BYTES = 64 * 1024
_SILENCE = 10.0  # seconds
_SECRET = secrets.token_bytes(32)  # a page from before a restart must be loaded anew


def token_of(request: Request) -> str:
    """Return what the forms of a page carry."""
    session = request.cookies.get(COOKIE)
    return sessions.csrf_of(session) if session else hmac.new(_SECRET, b"csrf", hashlib.sha256).hexdigest()


async def read_form(request: Request, *, anonymous: bool = False) -> dict[str, str]:
    """Return the fields of a form of ours, its token among them. Raises ApiError: 403 for one that is not, 413, 408.

    `anonymous` forms need no token: they do nothing with anybody's rights, and may come to another gateway.
    """
    check_origin(request)
    body = await read_body(request, _MOST_BYTES, _SILENCE)
    fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    if not anonymous:
        check_token(request, fields)
    return fields


def check_origin(request: Request) -> None:
    """Raise ApiError 403 for a form of another site."""
    if not is_own(request):
        raise problems.forbidden("This form was sent by another site; nothing was done.")


def check_token(request: Request, fields: Mapping[str, str]) -> None:
    """Raise ApiError 403 for a form without this page's token."""
    if not hmac.compare_digest(fields.get(FIELD, "").encode(), token_of(request).encode()):
        raise problems.forbidden("This page is out of date; nothing was done. Load it again and repeat.")


def with_key(request: Request, key: str) -> Request:
    """Return a request as if its sender had a key, and no session."""
    kept = [(name, value) for name, value in request.scope["headers"] if name not in _IDENTITY]
    return Request({**request.scope, "headers": [*kept, (b"authorization", f"Bearer {key}".encode())]})


def local(address: str) -> str:
    """Return an address if it is one of this service's pages, else the first page."""
    parts = urlsplit(address)
    inside = address.startswith("/") and not address.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return address if inside and "\r" not in address and "\n" not in address else "/"
