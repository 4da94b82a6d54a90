"""Our own API about money: spend, forecast, savings, budgets, suspects, alerts, and who changed what."""

from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from batchmill.service import problems
from batchmill.service.control import budgets, notices, savings, spend
from batchmill.service.control.money import (
    Accepted,
    Alerts,
    AlertShape,
    Audit,
    Budgets,
    Forecast,
    Raised,
    Recommendations,
    Released,
    Spend,
    Suspects,
)
from batchmill.service.identity import Scope
from batchmill.service.operations import Call, Operation

Day = Annotated[str, msgspec.Meta(max_length=16, description="A UTC day (2026-11-01), or 7d for the last seven days.")]
Name = Annotated[str, msgspec.Meta(max_length=64)]
Usd = Annotated[
    Decimal, msgspec.Meta(description="A number of dollars from 0 to 9,000,000, nine decimal places at most.")
]


class SpendQuery(msgspec.Struct, frozen=True):
    """What the rows are, and of which UTC days; `until` is today when it is left out."""

    by: Literal["model", "project", "batch", "provider", "day", "tag"] = "model"
    since: Day = "30d"
    until: Day | None = None
    project: Name | None = None


class ForecastQuery(msgspec.Struct, frozen=True):
    """Of which project alone."""

    project: Name | None = None


class SavingsQuery(msgspec.Struct, frozen=True):
    """Of which days, and what the lines need of a model: capabilities with commas between, or "nothing"."""

    since: Day = "30d"
    until: Day | None = None
    project: Name | None = None
    needs: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3


class LimitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new limit."""

    limit_usd: Usd


class ReleaseRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which suspects: some by name, or all of them."""

    holds: tuple[Annotated[str, msgspec.Meta(max_length=256)], ...] = ()
    all: bool = False


class AlertsQuery(msgspec.Struct, frozen=True):
    """`all`: those that somebody acknowledged, too."""

    all: bool = False


class AuditQuery(msgspec.Struct, frozen=True):
    """How many changes."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50


async def get_spend(call: Call[SpendQuery, None]) -> Spend:
    """Cost, requests, tokens and averages by model, project, batch, provider, day or tag, and what each day cost.

    Suspect money is apart and in no average. The key of one project is told of that project.
    """
    asked = call.query
    return await spend.spend(call.service, call.identity, asked.by, asked.since, asked.until, asked.project)


async def get_forecast(call: Call[ForecastQuery, None]) -> Forecast:
    """What today, this week and this month (UTC) will have cost when they end, and how long each budget lasts."""
    return await spend.forecast(call.service, call.identity, call.query.project)


async def get_recommendations(call: Call[SavingsQuery, None]) -> Recommendations:
    """What the calls of each model would have cost on every other model that can take them. Quality is not judged.

    It reads every usage record of these days, so a look serves everybody for a minute.
    """
    asked = call.query
    return await savings.recommendations(
        call.service, call.identity, asked.since, asked.until, asked.project, asked.needs, asked.limit
    )


async def list_budgets(call: Call[None, None]) -> Budgets:
    """Every budget in its present window, and those of live batches: spent + held + suspect never exceed the limit.

    The key of one project sees its own in full, and of those that it shares how much is free.
    """
    return await budgets.budgets(call.service, call.identity)


async def change_budget(call: Call[None, LimitRequest]) -> Raised:
    """Set the limit of a budget, or the cap of a batch, up or down, in the whole fleet, from this instant.

    What is spent or in the air stays so. The key of one project may do this for the caps of its own batches.
    """
    return await budgets.change_limit(call.service, call.identity, call.path("name"), call.body.limit_usd)


async def list_suspects(call: Call[None, None]) -> Suspects:
    """Money of calls whose outcome nobody knows, because a worker died; it counts as spent."""
    return await budgets.unknown_money(call.service, call.identity)


async def release_suspects(call: Call[None, ReleaseRequest]) -> Released:
    """Count suspects as not billed. Look into the upstream's activity first; a bill that comes after all is booked."""
    if bool(call.body.holds) == call.body.all:
        raise problems.invalid("Name suspects in 'holds', or say 'all': true.", "holds", "invalid_value")
    return await budgets.release(call.service, call.identity, None if call.body.all else call.body.holds)


async def accept_books(call: Call[None, None]) -> Accepted:
    """Let the fleet go on after it noticed that Redis holds older books than before: lower the budgets first.

    What was spent since that copy was made is not in them.
    """
    return await budgets.accept(call.service, call.identity)


async def list_alerts(call: Call[AlertsQuery, None]) -> Alerts:
    """Alerts that nobody acknowledged, or all, newest first. The key of one project sees those of its own budgets."""
    return await notices.alerts(call.service, call.identity, everything=call.query.all)


async def acknowledge_alert(call: Call[None, None]) -> AlertShape:
    """Say that you have seen an alert: it leaves the list. Once more changes nothing."""
    return await notices.acknowledge_alert(call.service, call.identity, call.path("alert_id"))


async def list_audit(call: Call[AuditQuery, None]) -> Audit:
    """The newest changes that people and config files made to what may be spent and sent."""
    return await notices.audit(call.service, call.identity, call.query.limit)


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/spend",
        handler=get_spend,
        tag="money",
        summary="Report what was spent",
        scope=Scope.READ,
        answer=Spend,
        query=SpendQuery,
    ),
    Operation(
        method="GET",
        path="/v1/spend/forecast",
        handler=get_forecast,
        tag="money",
        summary="Foresee what it will come to",
        scope=Scope.READ,
        answer=Forecast,
        query=ForecastQuery,
    ),
    Operation(
        method="GET",
        path="/v1/spend/recommendations",
        handler=get_recommendations,
        tag="money",
        summary="See what could be saved",
        scope=Scope.READ,
        answer=Recommendations,
        query=SavingsQuery,
    ),
    Operation(
        method="GET",
        path="/v1/budgets",
        handler=list_budgets,
        tag="money",
        summary="List budgets",
        scope=Scope.READ,
        answer=Budgets,
    ),
    Operation(
        method="PATCH",
        path="/v1/budgets/{name}",
        handler=change_budget,
        tag="money",
        summary="Change the limit of a budget",
        scope=Scope.ADMIN,
        answer=Raised,
        body=LimitRequest,
        errors=(404,),
    ),
    Operation(
        method="GET",
        path="/v1/suspects",
        handler=list_suspects,
        tag="money",
        summary="List money of unknown fate",
        scope=Scope.READ,
        answer=Suspects,
        operator=True,
    ),
    Operation(
        method="POST",
        path="/v1/suspects/release",
        handler=release_suspects,
        tag="money",
        summary="Count suspects as not billed",
        scope=Scope.ADMIN,
        answer=Released,
        body=ReleaseRequest,
        errors=(404,),
        operator=True,
    ),
    Operation(
        method="POST",
        path="/v1/books/accept",
        handler=accept_books,
        tag="money",
        summary="Go on with books that were restored",
        scope=Scope.ADMIN,
        answer=Accepted,
        operator=True,
    ),
    Operation(
        method="GET",
        path="/v1/alerts",
        handler=list_alerts,
        tag="money",
        summary="List alerts",
        scope=Scope.READ,
        answer=Alerts,
        query=AlertsQuery,
    ),
    Operation(
        method="POST",
        path="/v1/alerts/{alert_id}/ack",
        handler=acknowledge_alert,
        tag="money",
        summary="Acknowledge an alert",
        scope=Scope.ADMIN,
        answer=AlertShape,
        errors=(404,),
        operator=True,
    ),
    Operation(
        method="GET",
        path="/v1/audit",
        handler=list_audit,
        tag="money",
        summary="See who changed what",
        scope=Scope.READ,
        answer=Audit,
        query=AuditQuery,
        operator=True,
    ),
)
