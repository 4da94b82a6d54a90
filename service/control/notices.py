"""Alerts and the audit over HTTP: what somebody should know, who has seen it, and who changed what."""

from batchmill.openrouter.money import usd_if_known
from batchmill.service import problems
from batchmill.service.context import Service
from batchmill.service.control.budgets import budgets
from batchmill.service.control.common import MS
from batchmill.service.control.money import Alerts, AlertShape, Audit, AuditEntry, Seen
from batchmill.service.identity import Identity
from batchmill.store import audit as audited
from batchmill.store.alerts import Raised, UnknownAlertError, acknowledge, listed


async def alerts(service: Service, identity: Identity, *, everything: bool = False) -> Alerts:
    """Return the alerts that nobody acknowledged, or all. A project sees those of the budgets that it has to itself."""
    found = await service.moments.get(
        ("alerts", everything), lambda: listed(service.redis, service.upstream, everything=everything)
    )
    if identity.project is not None:
        own = {budget.name for budget in (await budgets(service, identity)).data}
        found = [raised for raised in found if raised.alert.kind.value.startswith("budget.")]
        found = [raised for raised in found if raised.alert.subject in own]
    return Alerts(data=tuple(alert_shape(raised) for raised in found))


async def acknowledge_alert(service: Service, identity: Identity, alert_id: str) -> AlertShape:
    """Say that somebody has seen an alert; it leaves the list. Again, it changes nothing. Raises ApiError 404."""
    try:
        await acknowledge(service.redis, service.upstream, [alert_id], identity.who)
    except UnknownAlertError as error:
        raise problems.not_found(f"No alert found with id '{alert_id}'.") from error
    service.moments.forget()
    found = await listed(service.redis, service.upstream, everything=True)
    return next(alert_shape(raised) for raised in found if raised.id == alert_id)


async def audit(service: Service, identity: Identity, limit: int = 20) -> Audit:  # noqa: ARG001 - as all of them
    """Return the newest changes to what may be spent and sent. For operators."""
    found = await audited.entries(service.redis, service.upstream, limit)
    return Audit(
        data=tuple(AuditEntry(who=one.who, what=one.what, at=one.at // MS, detail=one.detail) for one in found)
    )


def alert_shape(raised: Raised) -> AlertShape:
    """Return an alert as it is told."""
    alert, seen = raised.alert, raised.acknowledged
    return AlertShape(
        id=raised.id,
        at=raised.at // MS,
        kind=alert.kind.value,
        level=alert.level,
        subject=alert.subject,
        period=alert.period,
        text=alert.text,
        amount_usd=usd_if_known(alert.amount),
        limit_usd=usd_if_known(alert.limit),
        count=alert.count,
        acknowledged=None if seen is None else Seen(who=seen.who, at=seen.at // MS),
    )
