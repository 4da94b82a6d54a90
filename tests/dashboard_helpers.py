"""The dashboard under test: an API whose answers are made up, and what pages asked of it."""

from decimal import Decimal
from typing import Any, Literal

import msgspec

from batchmill.service.compat.batch_objects import BatchList
from batchmill.service.compat.causes import Cause, Causes
from batchmill.service.control import money, shapes
from batchmill.service.identity import Scope
from batchmill.service.operations import Call, Operation

from .dashboard_samples import (
    DAY,
    MODELS,
    NOW,
    D,
    advice,
    alerts,
    batch,
    batches,
    budget,
    detail,
    fleet,
    forecast,
    lines,
    model_state,
    overview,
    spent,
    suspects,
)

Method = Literal["GET", "POST", "PATCH", "DELETE"]
Told = dict[tuple[Method, str], Any]
"""What the made-up API answers, by method and path. An exception is raised."""


def answers() -> Told:
    """Return what the made-up API answers, by method and path."""
    audit = money.AuditEntry(who="key 1", what="budget_raised", at=NOW - 300, detail={"name": "daily", "to": "20"})
    one = batch(1)
    return {
        ("GET", "/v1/overview"): overview(),
        ("GET", "/v1/batches"): BatchList(batches(), True),
        ("GET", "/v1/batches/{batch_id}"): one,
        ("POST", "/v1/batches/{batch_id}/cancel"): batch(1, "cancelling"),
        ("POST", "/v1/batches/{batch_id}/retry"): batch(9),
        ("GET", "/v1/batches/{batch_id}/errors"): Causes(
            (Cause("Too long", "context_length_exceeded", 62, 400, ("a/b?c#d",)),), 62
        ),
        ("GET", "/v1/batches/{batch_id}/lines"): lines(),
        ("GET", "/v1/batches/{batch_id}/lines/{custom_id:path}"): detail(),
        ("GET", "/v1/model_states"): shapes.ModelStates(
            at=NOW,
            data=(
                model_state(MODELS[0]),
                model_state(MODELS[1], "open"),
                model_state(MODELS[2], latency_ms=None, price=None, limits=()),
            ),
        ),
        ("GET", "/v1/pauses"): shapes.Pauses(
            data=(shapes.Pause(scope="operator", model=MODELS[2], reason="maintenance", by_operator=True),)
        ),
        ("GET", "/v1/budgets"): money.Budgets(
            data=(
                budget(),
                budget(
                    "search",
                    limit_usd=D(5),
                    spent_usd=D("5"),
                    held_usd=D(0),
                    suspect_usd=D(0),
                    debt_usd=D("0.02"),
                    free_usd=D(0),
                ),
            ),
            shared=(money.SharedBudget(name="company", window="month", resets_at=NOW + DAY, free_percent=41),),
        ),
        ("GET", "/v1/spend"): spent(),
        ("GET", "/v1/spend/forecast"): forecast(),
        ("GET", "/v1/spend/recommendations"): advice(),
        ("GET", "/v1/alerts"): alerts(),
        ("GET", "/v1/fleet"): fleet(),
        ("GET", "/v1/limits"): shapes.Limits(data=model_state(MODELS[0]).limits),
        ("GET", "/v1/suspects"): suspects(),
        ("GET", "/v1/audit"): money.Audit(data=(audit,)),
    }


class Asked(msgspec.Struct):
    """What the pages asked of the made-up API."""

    calls: list[tuple[str, str, Any]] = []


class AnyBody(msgspec.Struct):
    """Whatever an action may send."""

    limit_usd: Decimal | None = None
    model: str | None = None
    holds: tuple[str, ...] | None = None
    requests_per_minute: int | None = None
    max_concurrency: int | None = 0


class AnyQuery(msgspec.Struct):
    """Whatever a page may ask for."""

    limit: int | None = None
    after: str | None = None
    state: str | None = None
    search: str | None = None
    by: str | None = None
    at: str | None = None
    all: bool = False


def operations(told: Told, asked: Asked) -> tuple[Operation, ...]:
    """Return the made-up API. An answer that is an exception is raised."""

    def made(method: Method, path: str, scope: Scope, body: type[msgspec.Struct] | None = None) -> Operation:
        async def handler(call: Call[Any, Any]) -> Any:
            asked.calls.append((method, call.request.scope["path"], call.body or call.query))
            answer = told.get((method, path))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return Operation(
            method=method, path=path, handler=handler, tag="t", summary="s", scope=scope, query=AnyQuery, body=body
        )

    reads = [made(method, path, Scope.READ) for method, path in told if method == "GET"]
    posts = [made(method, path, Scope.SUBMIT) for method, path in told if method == "POST"]
    admin = [
        made("PATCH", "/v1/budgets/{name:path}", Scope.ADMIN, AnyBody),
        made("POST", "/v1/alerts/{alert_id:path}/ack", Scope.ADMIN),
        made("POST", "/v1/pauses", Scope.ADMIN, AnyBody),
        made("DELETE", "/v1/pauses/{model:path}", Scope.ADMIN),
        made("POST", "/v1/books/accept", Scope.ADMIN),
        made("PATCH", "/v1/limits/{name}", Scope.ADMIN, AnyBody),
        made("POST", "/v1/suspects/release", Scope.ADMIN, AnyBody),
        made("POST", "/v1/breakers/{model:path}/trip", Scope.ADMIN),
        made("POST", "/v1/breakers/{model:path}/reset", Scope.ADMIN),
    ]
    return (*reads, *posts, *admin)
