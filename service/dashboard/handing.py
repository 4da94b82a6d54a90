"""A file handed over on a page: uploaded as by a client, and a batch made of it, in one form."""

import secrets
from hashlib import blake2b
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from batchmill.service import problems
from batchmill.service.access.gate import COOKIE
from batchmill.service.compat import files
from batchmill.service.compat.batch_objects import ENDPOINT
from batchmill.service.context import Service
from batchmill.service.dashboard import forms
from batchmill.service.dashboard.actions import amount
from batchmill.service.dashboard.guard import failed, visitor_of
from batchmill.service.multipart import Form
from batchmill.service.problems import ApiError

_SEE_OTHER = 303
_WINDOWS = ("1h", "6h", "24h", "72h", "7d", "30d")
_USUAL = "24h"
_ON_INVALID = {"fail": "run nothing", "skip": "leave out that line"}


def choices(service: Service) -> dict[str, Any]:
    """Return what the form offers. `once` makes one batch of a form that is sent twice."""
    return {
        "windows": _WINDOWS,
        "usual_window": _USUAL,
        "on_invalid": _ON_INVALID,
        "most_bytes": service.settings.service.max_upload_bytes,
        "once": secrets.token_hex(8),
    }


async def hand_over(request: Request) -> Response:
    """Store the file of a form as it comes, create a batch of it, and lead to the batch."""
    try:
        return RedirectResponse(f"/batches/{await _batch_of(request)}", _SEE_OTHER)
    except ClientDisconnect:
        return failed(request, problems.invalid("The connection was closed before the file was complete."))
    except ApiError as error:
        await files.hear_out(request)
        return failed(request, error)


async def _batch_of(request: Request) -> str:
    """Return the id of the batch. What comes before the file is looked at before the file is taken. Raises ApiError."""
    forms.check_origin(request)
    if COOKIE not in request.cookies:
        await visitor_of(request)  # who needs a session and has none is sent to the login before anything is read
    form = Form(request.headers.get("content-type", ""), files.body_of(request.app.state.service, request))
    await form.until_file()
    forms.check_token(request, form.fields)
    visitor = await visitor_of(request, form.fields[forms.FIELD])
    wanted = _wanted(form.fields)
    stored = await visitor.upload(form)
    body = {"input_file_id": stored.id, "endpoint": ENDPOINT, **wanted}
    once = form.fields.get("once") or secrets.token_hex(8)
    key = blake2b(msgspec.json.encode([once, body]), digest_size=16).hexdigest()
    made = await visitor.do("POST", "/v1/batches", **body, idempotency_key=key)
    visitor.service.moments.forget()
    return str(made.id)


def _wanted(fields: dict[str, str]) -> dict[str, object]:
    """Return what the batch is asked for beside its file. Raises ApiError."""
    cost = fields.get("max_cost_usd", "").strip()
    wanted: dict[str, object] = {
        "completion_window": fields.get("completion_window", _USUAL),
        "on_invalid": fields.get("on_invalid", "fail"),
    }
    return wanted | ({"max_cost_usd": amount(cost, "max_cost_usd")} if cost else {})
