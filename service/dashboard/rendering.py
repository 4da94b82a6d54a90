"""From a template and what it shows to an answer."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from batchmill.service.access.origin import is_https
from batchmill.service.dashboard import charts, forms
from batchmill.service.dashboard.figures import FILTERS
from batchmill.service.identity import Identity, Scope

STATIC = Path(__file__).parent / "static"
THEME = "batchmill_theme"
LIVE = "x-live"
"""The header by which our script asks for the middle of a page alone."""

LIVELY = 1000
"""Milliseconds between two looks at a page that is kept up to date."""

THEMES = ("auto", "light", "dark")
_HEADERS = {
    "cache-control": "no-store",
    # with "no-referrer" browsers would send forms with the origin "null", which tells nobody that they are ours
    "referrer-policy": "same-origin",
}
_NAVIGATION = (
    ("/", "Overview"),
    ("/batches", "Batches"),
    ("/models", "Models"),
    ("/spend", "Spend"),
    ("/fleet", "Fleet"),
)


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("batchmill.service.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FILTERS)
    made.globals.update(columns=charts.columns, divided=charts.divided, static=_address)
    return made


def page(
    request: Request, template: str, identity: Identity | None, *, status: int = 200, live: int = LIVELY, **shown: Any
) -> Response:
    """Return a page; only its middle when our script asks for that.

    `live`: milliseconds after which it may be brought up to date, 0 for never.
    """
    theme = request.cookies.get(THEME, THEMES[0])
    text = _templates().get_template(template).render(
        shown,
        frame="bare.html" if LIVE in request.headers else "layout.html",
        live=live,
        path=request.url.path,
        here=str(request.url.path) + (f"?{request.url.query}" if request.url.query else ""),
        navigation=_NAVIGATION,
        identity=identity,
        may_operate=identity is not None and identity.project is None and Scope.ADMIN in identity.scopes,
        may_change=identity is not None and Scope.ADMIN in identity.scopes,
        may_submit=identity is not None and Scope.SUBMIT in identity.scopes,
        theme=theme if theme in THEMES else THEMES[0],
        csrf=forms.token_of(request),
        rehearsal=" --simulate" if request.app.state.service.settings.simulate else "",
        api=f"http{'s' if is_https(request) else ''}://{request.url.netloc}/v1",
    )  # fmt: skip
    return HTMLResponse(text, status, _HEADERS)


@cache
def _address(name: str) -> str:
    """Return where a file of ours is; the address changes with its content, so a browser may keep it."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"
