"""API keys over HTTP: an operator's, or a project's own."""

import msgspec

from batchmill.config.policy import KeyBudget
from batchmill.config.windows import WindowKind
from batchmill.service import problems
from batchmill.service.access.shapes import (
    DeletedKey,
    KeyBudgetObject,
    KeyList,
    KeyObject,
    KeyRequest,
    NewKeyObject,
)
from batchmill.service.identity import Identity, Scope
from batchmill.service.operations import Call, Operation
from batchmill.store import api_keys, key_budgets
from batchmill.store.api_keys import ApiKey, Wanted
from batchmill.store.clock import now_ms

_SECOND_MS = 1000


async def create_key(call: Call[None, KeyRequest]) -> NewKeyObject:
    """Make an API key; its text is in this answer, and nowhere else afterwards.

    A key can give no more than it has: its own project, its scopes, its time. One with a budget of its own can't make
    keys, which would get around it.
    """
    service, identity = call.service, call.identity
    redis, upstream = service.redis, service.upstream
    now = await now_ms(redis) // _SECOND_MS
    own = await api_keys.by_id(redis, upstream, identity.key_id) if identity.key_id else None
    if own is not None and own.id in await key_budgets.every(redis, upstream):
        raise problems.forbidden("A key with a budget of its own can't make keys.")
    wanted = _within(_wanted(call.body, identity), own, now, service.settings.service.requests_per_minute)
    made = await api_keys.create(redis, upstream, wanted, identity.who)
    budgets = await key_budgets.every(redis, upstream)
    told = msgspec.structs.asdict(_object(made.key, budgets.get(made.key.id), None, now))
    return NewKeyObject(**told, key=made.text)


async def list_keys(call: Call[None, None]) -> KeyList:
    """Return every API key that was made for the projects that the asking key sees; revoked ones, too."""
    redis, upstream = call.service.redis, call.service.upstream
    now, used = await now_ms(redis) // _SECOND_MS, await api_keys.used(redis, upstream)
    budgets = await key_budgets.every(redis, upstream)
    return KeyList(
        data=[
            _object(key, budgets.get(key.id), used.get(key.id), now)
            for key in await api_keys.every(redis, upstream)
            if _sees(call.identity, key)
        ]
    )


async def revoke_key(call: Call[None, None]) -> DeletedKey:
    """Let an API key open nothing any more, within two seconds everywhere. What it handed over goes on."""
    redis, upstream, key_id = call.service.redis, call.service.upstream, call.path("key_id")
    key = await api_keys.by_id(redis, upstream, key_id)
    if key is None or not _sees(call.identity, key):
        raise problems.not_found(f"No API key found with id '{key_id}'.")
    await api_keys.revoke(redis, upstream, key_id, call.identity.who)
    return DeletedKey(id=key_id)


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/keys",
        handler=create_key,
        tag="keys",
        summary="Make an API key",
        scope=Scope.ADMIN,
        body=KeyRequest,
        answer=NewKeyObject,
    ),
    Operation(
        method="GET",
        path="/v1/keys",
        handler=list_keys,
        tag="keys",
        summary="List API keys",
        scope=Scope.ADMIN,
        answer=KeyList,
    ),
    Operation(
        method="DELETE",
        path="/v1/keys/{key_id}",
        handler=revoke_key,
        tag="keys",
        summary="Revoke an API key",
        scope=Scope.ADMIN,
        answer=DeletedKey,
        errors=(404,),
    ),
)


def _wanted(body: KeyRequest, identity: Identity) -> Wanted:
    if body.all_projects and body.project is not None:
        raise problems.invalid("A key is for one project or for all, not both.", "all_projects", "invalid_value")
    if identity.project is not None and (body.all_projects or body.project not in (None, identity.project)):
        raise problems.forbidden("This API key makes keys for its own project only.")
    if not set(body.scopes) <= identity.scopes:
        raise problems.forbidden("An API key gives no scope that it lacks itself.")
    return Wanted(
        name=body.name,
        project=None if body.all_projects else body.project or identity.home,
        scopes=tuple(scope.value for scope in body.scopes),
        lasts=body.expires_in,
        budget_usd=body.budget_usd,
        window=WindowKind(body.window),
        requests_per_minute=body.requests_per_minute,
        max_queued_lines=body.max_queued_lines,
    )


def _within(wanted: Wanted, own: ApiKey | None, now: int, usual: int) -> Wanted:
    """Return what the new key may be at most, by the bounds of the key that asks for it.

    `usual` is the rate of a key that has none of its own; more than that is for operators to give.
    """
    if own is None:
        return wanted
    rate = own.requests_per_minute
    if rate is None and own.project is not None and wanted.requests_per_minute is not None:
        rate = usual
    rest = None if own.expires_at is None else max(1, own.expires_at - now)
    return msgspec.structs.replace(
        wanted,
        lasts=_least(wanted.lasts, rest),
        requests_per_minute=_least(wanted.requests_per_minute, rate),
        max_queued_lines=_least(wanted.max_queued_lines, own.max_queued_lines),
    )


def _least(*numbers: int | None) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _sees(identity: Identity, key: ApiKey) -> bool:
    return identity.project is None or key.project == identity.project


def _object(key: ApiKey, budget: KeyBudget | None, used: int | None, now: int) -> KeyObject:
    return KeyObject(
        id=key.id,
        name=key.name,
        project=key.project,
        scopes=tuple(Scope(scope) for scope in key.scopes),
        state=key.state(now),
        created_at=key.created_at,
        created_by=key.created_by,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=used,
        requests_per_minute=key.requests_per_minute,
        max_queued_lines=key.max_queued_lines,
        budget=None if budget is None else KeyBudgetObject(budget.limit_usd, budget.window),
    )
