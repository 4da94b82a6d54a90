"""The pages, and where each is."""

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from batchmill.service.dashboard import actions, handing, login
from batchmill.service.dashboard.asking import Visitor, together
from batchmill.service.dashboard.forms import local, read_form
from batchmill.service.dashboard.guard import done, failed, seen
from batchmill.service.dashboard.rendering import STATIC, THEME, THEMES, page
from batchmill.service.problems import ApiError

_SEE_OTHER = 303
_PAGE = 25
_LINES = 50
_SLOW = 3000  # milliseconds: sums of a month move slowly, and cost more to make
_A_YEAR = 365 * 86_400
LINE_STATES = ("pending", "running", "succeeded", "failed", "cancelled", "expired")
SPEND_BY = ("model", "project", "provider", "batch", "tag")


class _Kept(StaticFiles):
    """Files whose address changes with their content."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Let browsers keep what they got."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = f"public, max-age={_A_YEAR}, immutable"
        return response


async def overview(visitor: Visitor) -> Response:
    """Everything at one moment."""
    shown = await together(
        now=visitor.get("/v1/overview"),
        budgets=visitor.get("/v1/budgets"),
        newest=visitor.get("/v1/batches", limit=8),
        alerts=visitor.get_if_any("/v1/alerts"),
    )
    return page(visitor.request, "overview.html", visitor.identity, **shown)


async def batches(visitor: Visitor) -> Response:
    """All batches, newest first; with an id, that batch."""
    if wanted := visitor.request.query_params.get("id"):
        return RedirectResponse(f"/batches/{quote(wanted.strip(), safe='')}", _SEE_OTHER)
    after = visitor.request.query_params.get("after")
    found = await visitor.get("/v1/batches", limit=_PAGE, after=after)
    return page(
        visitor.request, "batches.html", visitor.identity, found=found, after=after, **handing.choices(visitor.service)
    )


async def batch(visitor: Visitor) -> Response:
    """One batch and its lines."""
    batch_id = visitor.request.path_params["batch_id"]
    asked = visitor.request.query_params
    state, search, cursor = (asked.get(name) or None for name in ("state", "search", "after"))
    shown = await together(
        batch=visitor.get(f"/v1/batches/{batch_id}"),
        causes=visitor.get_if_any(f"/v1/batches/{batch_id}/errors"),
        lines=visitor.get_if_any(
            f"/v1/batches/{batch_id}/lines", limit=_LINES, state=state, search=search, after=cursor
        ),
    )
    filters = {"state": state, "search": search, "after": cursor}
    return page(visitor.request, "batch.html", visitor.identity, filters=filters, states=LINE_STATES, **shown)


async def line(visitor: Visitor) -> Response:
    """One line: what was asked, what came back, and every attempt."""
    batch_id, custom_id = (visitor.request.path_params[name] for name in ("batch_id", "custom_id"))
    found = await visitor.get(f"/v1/batches/{batch_id}/lines/{custom_id}", at=visitor.request.query_params.get("at"))
    return page(visitor.request, "line.html", visitor.identity, live=0, found=found)


async def models(visitor: Visitor) -> Response:
    """How each model does."""
    shown = await together(
        states=visitor.get("/v1/model_states"),
        pauses=visitor.get_if_any("/v1/pauses"),
        limits=visitor.get_if_any("/v1/limits"),
    )
    return page(visitor.request, "models.html", visitor.identity, rates=actions.RATES, **shown)


async def spend(visitor: Visitor) -> Response:
    """What was spent, what may be, and what will be."""
    by = visitor.request.query_params.get("by", SPEND_BY[0])
    shown = await together(
        spent=visitor.get("/v1/spend", by=by if by in SPEND_BY else SPEND_BY[0]),
        budgets=visitor.get("/v1/budgets"),
        forecast=visitor.get_if_any("/v1/spend/forecast"),
        alerts=visitor.get_if_any("/v1/alerts", all=1),
        suspects=visitor.get_if_any("/v1/suspects"),
        advice=visitor.get_if_any("/v1/spend/recommendations"),
    )
    return page(visitor.request, "spend.html", visitor.identity, live=_SLOW, by=by, choices=SPEND_BY, **shown)


async def fleet(visitor: Visitor) -> Response:
    """The workers, their lanes, and who changed what."""
    shown = await together(
        fleet=visitor.get("/v1/fleet"),
        audit=visitor.get_if_any("/v1/audit", limit=_PAGE),
    )
    return page(visitor.request, "fleet.html", visitor.identity, **shown)


async def theme(request: Request) -> Response:
    """Remember light, dark, or as the system is."""
    try:
        fields = await read_form(request, anonymous=True)
    except ApiError as error:
        return failed(request, error)
    chosen = fields.get("theme", "")
    answer = RedirectResponse(local(fields.get("back", "/")), _SEE_OTHER)
    answer.set_cookie(THEME, chosen if chosen in THEMES else THEMES[0], max_age=_A_YEAR, samesite="strict")
    return answer


ROUTES: tuple[BaseRoute, ...] = (
    Route("/", seen(overview)),
    Route("/batches", seen(batches)),
    Route("/batches", handing.hand_over, methods=["POST"]),
    Route("/batches/{batch_id}", seen(batch)),
    Route("/batches/{batch_id}/lines/{custom_id:path}", seen(line)),
    Route("/models", seen(models)),
    Route("/spend", seen(spend)),
    Route("/fleet", seen(fleet)),
    Route("/login", login.show),
    Route("/login", login.enter, methods=["POST"]),
    Route("/logout", login.leave, methods=["POST"]),
    Route("/theme", theme, methods=["POST"]),
    *(Route(path, done(action), methods=["POST"]) for path, action in actions.ACTIONS),
    Mount("/static", _Kept(directory=STATIC), name="static"),
)
"""Every page, form and file of the dashboard."""
