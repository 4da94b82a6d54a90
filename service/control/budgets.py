"""Budgets and suspects over HTTP: what may be spent and what is; a limit is changed in the whole fleet at once."""

from decimal import Decimal

from batchmill.config.policy import KEY_PREFIX, check_limit
from batchmill.config.windows import OF_BATCH
from batchmill.openrouter.money import to_nano, to_usd, usd_if_known
from batchmill.service import problems
from batchmill.service.context import Service
from batchmill.service.control.common import seconds
from batchmill.service.control.money import Accepted, Budget, Budgets, Raised, Released, SharedBudget, Suspect, Suspects
from batchmill.service.identity import Identity
from batchmill.store import epoch, gauges, key_budgets, keys, lanes, suspects
from batchmill.store.errors import UnknownBudgetError
from batchmill.store.gauges import BudgetGauge
from batchmill.store.policy import raise_budget

_PERCENT = 100


async def budgets(service: Service, identity: Identity) -> Budgets:
    """Return the budgets in their present windows: of a project its own, and what is free of those that it shares."""
    found = await service.moments.get(("budgets",), lambda: gauges.budgets(service.redis, service.upstream))
    if identity.project is None:
        return Budgets(data=tuple(budget_shape(gauge) for gauge in found))
    owners = await _owners(service, [gauge for gauge in found if gauge.window == OF_BATCH])
    own = [gauge for gauge in found if owners.get(gauge.name, gauge.project) == identity.project]
    shared = [gauge for gauge in found if gauge.project is None and gauge.window != OF_BATCH]
    shared = [gauge for gauge in shared if not gauge.name.startswith(KEY_PREFIX)]  # that of a key of all projects
    return Budgets(
        data=tuple(budget_shape(gauge) for gauge in own), shared=tuple(_shared_shape(gauge) for gauge in shared)
    )


async def change_limit(service: Service, identity: Identity, name: str, limit_usd: Decimal) -> Raised:
    """Set the limit of a budget, up or down, from this instant. A project's key may do so for its own batches only.

    Raises ApiError: 404 for a budget that is not there, 403 for one that is the operator's, or that of the key which
    asks, 400 for no such limit.
    """
    await _may_change(service, identity, name)
    try:
        check_limit(limit_usd)  # before it is rounded to what can be booked
        raised = await raise_budget(service.redis, service.upstream, name, to_nano(limit_usd), identity.who)
    except UnknownBudgetError as error:
        raise problems.not_found(f"No budget found with name '{name}'.") from error
    except ValueError as error:
        raise problems.invalid(str(error), "limit_usd", "invalid_value") from error
    await lanes.unpark_all(service.redis, service.upstream)
    service.moments.forget()
    found = [gauge for gauge in await gauges.budgets(service.redis, service.upstream) if gauge.name == name]
    return Raised(
        name=name,
        before_usd=to_usd(raised.before),
        after_usd=to_usd(raised.after),
        budget=budget_shape(found[0]) if found else None,
    )


async def unknown_money(service: Service, identity: Identity) -> Suspects:  # noqa: ARG001 - the signature of all
    """Return the suspects. For operators."""
    found = await gauges.suspects(service.redis, service.upstream)
    return Suspects(
        data=tuple(_suspect_shape(suspect) for suspect in found),
        total_usd=to_usd(sum(suspect.amount for suspect in found)),
    )


async def release(service: Service, identity: Identity, holds: tuple[str, ...] | None) -> Released:
    """Free these suspects, or all (None): from now on they count as not billed. Raises ApiError 404 for no suspect."""
    known = {suspect.hold: suspect for suspect in await gauges.suspects(service.redis, service.upstream)}
    for hold in holds or ():
        if hold not in known:
            raise problems.not_found(f"No suspect found with hold '{hold}'.")
    asked = list(known) if holds is None else list(dict.fromkeys(holds))
    freed = await suspects.release(service.redis, service.upstream, asked, identity.who) if asked else []
    service.moments.forget()
    return Released(holds=tuple(freed), total_usd=to_usd(sum(known[hold].amount for hold in freed)))


async def accept(service: Service, identity: Identity) -> Accepted:
    """Go on with books that were restored from an older copy. For operators."""
    return Accepted(accepted=await epoch.accept(service.redis, service.upstream, identity.who))


def budget_shape(gauge: BudgetGauge) -> Budget:
    """Return a budget as it is told."""
    return Budget(
        name=gauge.name,
        window=gauge.window,
        timezone=gauge.timezone,
        period=gauge.period,
        resets_at=seconds(gauge.resets_ms),
        models=gauge.models,
        project=gauge.project,
        declared_usd=usd_if_known(gauge.declared),
        limit_usd=to_usd(gauge.limit),
        spent_usd=to_usd(gauge.spent),
        held_usd=to_usd(gauge.held),
        suspect_usd=to_usd(gauge.suspect),
        debt_usd=to_usd(gauge.debt),
        free_usd=to_usd(gauge.free),
    )


def _shared_shape(gauge: BudgetGauge) -> SharedBudget:
    return SharedBudget(
        name=gauge.name,
        window=gauge.window,
        resets_at=seconds(gauge.resets_ms),
        free_percent=_PERCENT * gauge.free // gauge.limit if gauge.limit else 0,
    )


def _suspect_shape(suspect: gauges.Suspect) -> Suspect:
    return Suspect(
        hold=suspect.hold,
        amount_usd=to_usd(suspect.amount),
        at=seconds(suspect.at),
        model=suspect.model,
        batch=suspect.batch,
        index=suspect.index,
        generation_id=suspect.generation,
    )


async def _owners(service: Service, found: list[BudgetGauge]) -> dict[str, str]:
    """Return whose the batches are that have these budgets."""
    async with service.redis.pipeline(transaction=False) as pipe:
        for gauge in found:
            pipe.execute_command("HGET", keys.batch(gauge.name), "project")
        owners = await pipe.execute() if found else []
    return {gauge.name: (owner or b"").decode() for gauge, owner in zip(found, owners, strict=True)}


async def _may_change(service: Service, identity: Identity, name: str) -> None:
    if identity.project is None:
        own_budget = (await key_budgets.every(service.redis, service.upstream)).get(identity.key_id or "")
        if own_budget is not None and own_budget.name == name:
            raise problems.forbidden("A key can't change the budget that it is under itself.")
        return
    visible = await budgets(service, identity)
    own = {budget.name: budget for budget in visible.data}
    if name not in own and name not in {budget.name for budget in visible.shared}:
        raise problems.not_found(f"No budget found with name '{name}'.")
    if name not in own or own[name].window != OF_BATCH:
        raise problems.forbidden("This budget is the operator's; it needs an API key that is not bound to a project.")
