"""How models do, over HTTP: breaker, limits in use, latency, price and what waits, of every model that is in use."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from batchmill.config.policy import matches
from batchmill.openrouter.list_prices import list_price
from batchmill.openrouter.models import find_model
from batchmill.routing.health import FOR_EVER, ModelHealth, Window, tallied, youngest
from batchmill.routing.histogram import Counts, quantiles
from batchmill.service.context import Service
from batchmill.service.control import limits as rates
from batchmill.service.control import switches
from batchmill.service.control.common import MS
from batchmill.service.control.limits import limit_gauges, limit_shape
from batchmill.service.control.overview import lanes
from batchmill.service.control.savings import price_shape
from batchmill.service.control.shapes import BreakerState, LimitUse, ModelState, ModelStates, Spread
from batchmill.service.control.switches import breaker_shape, model_gauges
from batchmill.service.identity import Identity
from batchmill.store.catalogue import Models, kept_of
from batchmill.store.clock import now_ms
from batchmill.store.gauges import LimitGauge, ModelGauge
from batchmill.store.health import HealthReader
from batchmill.store.model import LANE_OF_A_ROUTE
from batchmill.store.statistics import Seen, SlotReader, models_seen

_Word = Literal["ok", "degraded", "held", "unknown"]

_WINDOWS = tuple(Window)
_CATALOGUE_SECONDS = 60.0
_POOR = 0.9  # of the calls must succeed, of the minutes the endpoints be up, or a model is degraded
_ENOUGH = 5  # calls, below which nothing is said of the share that failed


async def model_states(service: Service, identity: Identity) -> ModelStates:
    """Return every model that has work, was used in the last day, or is held back. Of a project's key, its own work."""
    waiting = {lane.lane: lane.lines for lane in await lanes(service, identity.project)}
    gauged = {gauge.model: gauge for gauge in await model_gauges(service)}
    seen = await service.moments.get(
        ("models", "seen"), lambda: models_seen(service.redis, service.upstream, Window.DAY)
    )
    names = sorted({*seen, *gauged, *(lane for lane in waiting if LANE_OF_A_ROUTE not in lane)})
    health, spreads = await service.moments.get(("models", tuple(names)), lambda: _look(service, names))
    catalogue = await service.moments.get(("catalogue",), lambda: _catalogue(service), _CATALOGUE_SECONDS)
    limits = await limit_gauges(service)
    states = (
        _state(
            gauged.get(name, ModelGauge(model=name)),
            health[name],
            spreads[name],
            _limits_of(name, limits),
            catalogue,
            waiting.get(name, 0),
        )
        for name in names
    )
    return ModelStates(at=await now_ms(service.redis) // MS, data=tuple(_seen_by(identity, state) for state in states))


def _seen_by(identity: Identity, state: ModelState) -> ModelState:
    """Return a model as far as it is theirs to see: how well it does, and not how much others call it."""
    if identity.project is None:
        return state
    return msgspec.structs.replace(
        state,
        breaker=switches.seen_by(identity, state.breaker),
        limits=tuple(rates.seen_by(identity, use) for use in state.limits),
        calls=None,
        failures=None,
        limited=None,
    )


Spreads = dict[str, tuple[Spread | None, Spread | None]]
"""Model -> how its latencies are spread, and the times to its first token."""


async def _look(service: Service, names: list[str]) -> tuple[dict[str, ModelHealth], Spreads]:
    moments = service.moments
    health = moments.keep("health", lambda: HealthReader(service.redis, service.upstream))
    slots = moments.keep("spreads", lambda: SlotReader(service.redis, service.upstream))
    found = await health.read(names)
    seen, _ = await slots.read(names, _WINDOWS)
    return found, {name: _spreads(seen, name) for name in names}


async def _catalogue(service: Service) -> Models:
    kept = await kept_of(service.redis, service.settings)
    return kept.models if kept else {}


def _spreads(seen: Seen, model: str) -> tuple[Spread | None, Spread | None]:
    window = _WINDOWS[youngest([seen.calls(model, one) for one in _WINDOWS])]
    tally = tallied(one for slot in seen.slots[model, window] for one in slot.providers.values())
    return _spread(tally.latency), _spread(tally.first_token)


def _spread(counts: Counts) -> Spread | None:
    if not counts:
        return None
    p50, p90, p95, p99 = (round(time, 1) for time in quantiles(counts, 0.5, 0.9, 0.95, 0.99))
    return Spread(p50=p50, p90=p90, p95=p95, p99=p99)


def _limits_of(model: str, found: Iterable[LimitGauge]) -> tuple[LimitUse, ...]:
    """Return the limits that a model is under, each by the bucket that it draws from."""
    under = [gauge for gauge in found if matches(gauge.limit.match, model)]
    return tuple(limit_shape(gauge) for gauge in under if gauge.scope in (None, gauge.limit.scope_of(model)))


def _state(
    gauge: ModelGauge,
    health: ModelHealth,
    spreads: tuple[Spread | None, Spread | None],
    limits: tuple[LimitUse, ...],
    catalogue: Models,
    waiting: int,
) -> ModelState:
    facts = find_model(catalogue, gauge.model)
    breaker = breaker_shape(gauge)
    word, why = _word(breaker, health)
    return ModelState(
        model=gauge.model,
        health=word,
        why=why,
        breaker=breaker,
        paused=bool(gauge.pauses),
        limits=limits,
        lines_waiting=waiting,
        calls=health.calls,
        failures=health.failures,
        limited=health.limited,
        seconds=health.seconds,
        latency_ms=spreads[0],
        first_token_ms=spreads[1],
        tokens_per_second=health.tokens_per_second,
        uptime=health.uptime,
        price=None if facts is None else price_shape(list_price(facts.pricing)),
    )


def _word(breaker: BreakerState, health: ModelHealth) -> tuple[_Word, str | None]:
    """Return how a model does, and why where that is not well."""
    if breaker.state == "open" or health.open:
        by = f"by {breaker.tripped_by}, until it is reset" if health.open == FOR_EVER else "after failures"
        return "held", f"its breaker is open {by}"
    if breaker.pauses:
        return "held", "; ".join(pause.reason for pause in breaker.pauses)
    if breaker.state == "half":
        return "degraded", "its breaker is half open: a few lines probe it"
    if health.calls >= _ENOUGH and health.failures > (1 - _POOR) * health.calls:
        return "degraded", f"{health.failures / health.calls:.0%} of its last calls failed"
    if health.uptime is not None and health.uptime < _POOR:
        return "degraded", f"its endpoints were up {100 * health.uptime:.0f} % of the time, as they say"
    return ("unknown", "nobody called it lately") if not health.calls else ("ok", None)
