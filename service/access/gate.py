"""Who a request comes from.

no key was ever made ──► whoever is on this machine is the operator; nobody else gets in
Authorization, x-api-key ──► the key's project and scopes
the dashboard's cookie   ──► those of the key that was shown at its login; changes need the page's own token, too
"""

import hmac
import math

from starlette.requests import Request

from batchmill.service import problems
from batchmill.service.access.origin import SAFE, is_local, is_own
from batchmill.service.context import Service
from batchmill.service.identity import OPERATOR, Identity, Scope
from batchmill.store import rates, sessions
from batchmill.store.api_keys import ApiKey

COOKIE = "batchmill_session"
CSRF_HEADER = "x-csrf-token"

_MISSING = (
    "You didn't provide an API key. Send it in a header: Authorization: Bearer bm-...; "
    "`batchmill keys create NAME{rehearsal}` makes one."
)
_WRONG = (
    "Incorrect API key provided: it is unknown, revoked or expired, or was made for another upstream. "
    "`batchmill keys list{rehearsal}` shows those that count here."
)
_LOCAL_ONLY = (
    "There is no API key yet, so only this machine gets in, by its own name (127.0.0.1 or localhost). "
    "`batchmill keys create NAME{rehearsal}` makes one."
)
_FOREIGN = "Another site caused this request; it was not done."
_NO_TOKEN = "The page is too old, or another site's: its x-csrf-token is missing or wrong. Load it again."  # noqa: S105 - a sentence
_SECOND_MS = 1000


async def identify(service: Service, request: Request, *, form_token: str | None = None) -> Identity:
    """Return who asks. Raises ApiError for a key that does not count, or was used too often.

    `form_token` is what a form of the dashboard sent along, in the place of the header. What the answer should say
    of the key's rate is left in `request.state.access_headers`.
    """
    redis, upstream = service.redis, service.upstream
    if not await service.keyring.needed(redis, upstream):
        return _local(service, request)
    text = _key_in(request)
    token = request.cookies.get(COOKIE)
    if text is not None:
        key = await service.keyring.open(redis, upstream, text)
    elif token:
        _check_page(request, token, form_token)
        key_id = await sessions.key_of(redis, token)
        key = await service.keyring.by_id(redis, upstream, key_id) if key_id else None
    else:
        raise problems.unauthorized(_said(_MISSING, service), code="missing_api_key")
    if key is None:
        raise problems.unauthorized(_said(_WRONG, service))
    _enter(service, request, key)
    await _take_turn(service, request, key)
    return identity_of(key)


def leave(service: Service, whose: str) -> None:
    """Say that a request is over that had come in; the guard does, whose `state` tells whose it is: `under_way`."""
    service.under_way[whose] -= 1
    if not service.under_way[whose]:
        del service.under_way[whose]


def identity_of(key: ApiKey) -> Identity:
    """Return who has a key."""
    return Identity(
        project=key.project,
        scopes=frozenset(Scope(scope) for scope in key.scopes),
        key_id=key.id,
        key_name=key.name,
        max_queued_lines=key.max_queued_lines,
    )


def _said(message: str, service: Service) -> str:
    """Return a message with commands as they have to be for this upstream, to which keys belong."""
    return message.format(rehearsal=" --simulate" if service.settings.simulate else "")


def _local(service: Service, request: Request) -> Identity:
    if not is_local(request):
        raise problems.unauthorized(_said(_LOCAL_ONLY, service), code="missing_api_key")
    if request.method not in SAFE and not is_own(request):
        raise problems.forbidden(_FOREIGN)
    return OPERATOR


def _key_in(request: Request) -> str | None:
    """Return the text that a client sent as its key."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return text.strip()
    given = request.headers.get("x-api-key")
    return given.strip() if given is not None else None


def _check_page(request: Request, token: str, form_token: str | None) -> None:
    """Refuse a change that no page of ours asked for: a browser sends the cookie along, whoever wants it to."""
    if request.method in SAFE:
        return
    if not is_own(request):
        raise problems.forbidden(_FOREIGN)
    given = form_token if form_token is not None else request.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(given.encode(), sessions.csrf_of(token).encode()):
        raise problems.forbidden(_NO_TOKEN)


def _enter(service: Service, request: Request, key: ApiKey) -> None:
    """Let nobody have more than half of the connections: some requests last for minutes, such as events."""
    if hasattr(request.state, "under_way"):
        return
    whose, most = key.project or key.id, max(1, service.settings.service.max_connections // 2)
    if service.under_way[whose] >= most:
        raise problems.too_many(f"This project has {most:,} requests under way at this gateway, as many as it may.", 1)
    service.under_way[whose] += 1
    request.state.under_way = whose


async def _take_turn(service: Service, request: Request, key: ApiKey) -> None:
    a_minute = key.requests_per_minute or service.settings.service.requests_per_minute
    turn = await rates.take(service.redis, service.upstream, key.id, a_minute)
    told = {"x-ratelimit-limit-requests": str(a_minute), "x-ratelimit-remaining-requests": str(turn.left)}
    request.state.access_headers = told
    if turn.granted:
        return
    seconds = max(1, math.ceil(turn.wait_ms / _SECOND_MS))
    error = problems.too_many(
        f"Rate limit reached for requests of this API key: {a_minute:,} a minute. Try again in {seconds} s.", seconds
    )
    error.headers["retry-after-ms"] = str(turn.wait_ms)
    raise error
