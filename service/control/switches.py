"""Breakers and pauses over HTTP: which models are held back and why; an operator holds one back, or lets it go."""

from typing import Literal, cast

import msgspec

from batchmill.routing.shelf import Shelf
from batchmill.service import problems
from batchmill.service.context import Service
from batchmill.service.control.common import pause_shape, seconds
from batchmill.service.control.shapes import Breakers, BreakerState, Pauses
from batchmill.service.identity import Identity
from batchmill.store import gauges, operators, policy
from batchmill.store.catalogue import kept_of
from batchmill.store.gauges import ModelGauge
from batchmill.store.operators import UnknownModelError, lanes_of


async def breakers(service: Service, identity: Identity) -> Breakers:
    """Return the breakers of all models that were used lately or are paused."""
    shapes = [breaker_shape(gauge) for gauge in await model_gauges(service)]
    return Breakers(data=tuple(seen_by(identity, shape) for shape in shapes))


def seen_by(identity: Identity, breaker: BreakerState) -> BreakerState:
    """Return a breaker as far as it is theirs to see: what is in the air tells a project that others are at work."""
    return breaker if identity.project is None else msgspec.structs.replace(breaker, in_air=None)


async def trip(service: Service, identity: Identity, model: str) -> BreakerState:
    """Send nothing more to a model, in the whole fleet, until its breaker is reset. Raises ApiError 404."""
    try:
        await operators.trip(service.redis, service.upstream, model, identity.who)
    except UnknownModelError as error:
        raise problems.not_found(f"No lane found for model '{model}'.") from error
    return await _breaker(service, model)


async def reset(service: Service, identity: Identity, model: str) -> BreakerState:
    """Close a model's breaker and forget its failures, its trips and its adaptive share."""
    await operators.reset(service.redis, service.upstream, model, identity.who)
    return await _breaker(service, model)


async def pauses(service: Service, identity: Identity) -> Pauses:  # noqa: ARG001 - the same for everybody
    """Return the pauses that are not over."""
    return Pauses(data=tuple(pause_shape(pause) for pause in await gauges.pauses(service.redis, service.upstream)))


async def pause(
    service: Service, identity: Identity, model: str, reason: str | None = None, *, force: bool = False
) -> Pauses:
    """Send nothing for a model until somebody resumes it; what is in the air lands.

    Raises ApiError 404 for one that is neither listed nor was handed over: a typing error would look like a pause, and
    everything would still be sent; so it would for an alias. With `force` any model is paused.
    """
    if not force:
        await _check_known(service, model)
    await operators.pause(service.redis, service.upstream, model, identity.who, reason)
    service.moments.forget()
    return await pauses(service, identity)


async def resume(service: Service, identity: Identity, model: str) -> Pauses:
    """End the pause of an operator; those that the upstream asked for end by themselves. Raises ApiError 404."""
    if not await operators.resume(service.redis, service.upstream, model, identity.who):
        raise problems.not_found(f"No operator has paused '{model}'.")
    service.moments.forget()
    return await pauses(service, identity)


async def model_gauges(service: Service) -> list[ModelGauge]:
    """Return how models stand at the gate, as of a moment ago."""
    return await service.moments.get(("models at the gate",), lambda: gauges.models(service.redis, service.upstream))


def breaker_shape(gauge: ModelGauge) -> BreakerState:
    """Return a breaker as it is told."""
    return BreakerState(
        model=gauge.model,
        state=cast(Literal["closed", "open", "half"], gauge.state),  # the words of the gate
        until_at=seconds(gauge.until_ms),
        tripped_by=gauge.tripped,
        trips=gauge.trips,
        in_air=gauge.in_air,
        share=gauge.share,
        window=gauge.window,
        pauses=tuple(pause_shape(pause) for pause in gauge.pauses),
    )


async def _check_known(service: Service, model: str) -> None:
    kept = await kept_of(service.redis, service.settings)
    shelf = Shelf(kept.models if kept else {})
    if not len(shelf) or shelf.find(model) is not None or model in await lanes_of(service.redis, service.upstream):
        return  # who lists no models may have any
    in_force = await policy.live(service.redis, service.upstream)
    if alias := in_force.policy.alias(model):
        named = ", ".join(alias.models)
        raise problems.not_found(f"'{model}' stands for several models; pause those: {named}.", "model")
    near = shelf.nearest(model)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise problems.not_found(
        f"No model found with id '{model}'{hint} With \"force\": true it is paused all the same.", "model"
    )


async def _breaker(service: Service, model: str) -> BreakerState:
    service.moments.forget()
    found = await gauges.models(service.redis, service.upstream)
    return breaker_shape(next((gauge for gauge in found if gauge.model == model), ModelGauge(model=model)))
