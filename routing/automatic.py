"""Which models may answer a line that leaves the choice to us (`model: "auto"`), and why others may not. Pure.

Of all models that fit, the best few by the strategy: the cheapest under `cost` and whatever says nothing of good and
bad, those that do best as far as anybody knows under `performance` and `availability`, then the cheapest of the rest.
Preferred models that fit get their places first. Which of the few answers is decided for each call, see `strategies`.
"""

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Final

import msgspec

from batchmill.config.policy import Routing, matches
from batchmill.config.strategy import Strategy
from batchmill.openrouter.list_prices import MILLION, list_price
from batchmill.openrouter.models import ModelFacts
from batchmill.openrouter.money import NANO
from batchmill.openrouter.variants import is_alias
from batchmill.routing import reasons
from batchmill.routing.candidates import Considered
from batchmill.routing.eligibility import unfit, unsure
from batchmill.routing.health import ModelHealth
from batchmill.routing.needs import Needs
from batchmill.routing.performance import answer_ms
from batchmill.routing.scores import success_rate, until_success_ms

TOLD: Final = 5  # refused models whose reason is told

_STEPS = 50  # success rates are compared in steps of 2 points
_KEPT = 2048  # prices: a catalogue has about 500
_ANY = ("*",)
_UNKNOWN_COST = 1 << 62  # sorts last

Score = tuple[bool, float, int]


class _Rates(msgspec.Struct, frozen=True):
    prompt: Decimal
    completion: Decimal
    request: Decimal


def choose(
    models: Mapping[str, ModelFacts],
    needs: Needs,
    routing: Routing,
    strategy: Strategy,
    health: Mapping[str, ModelHealth],
    *,
    today: str = "",
) -> tuple[tuple[ModelFacts, ...], tuple[Considered, ...]]:
    """Return the candidates, best first, and the reasons: theirs, and those of the cheapest that were refused.

    No candidate when nothing fits; then the reasons tell why. `today` is a date, YYYY-MM-DD in UTC. Similar lines get
    the same answer: ask with `needs.rounded` and keep it as long as models, health and routing are the same.
    """
    capped = _capped(needs, routing)
    fit: list[tuple[tuple[bool, Score, str], ModelFacts]] = []
    refused: list[tuple[bool, int, str, str]] = []
    for facts in models.values():
        cost = likely_cost(facts.pricing, needs)
        unwanted = _unwanted(facts, routing, cost)
        reason = unwanted or unfit(facts, capped, routing, today=today)
        if reason is None and cost is not None:
            preferred = bool(routing.prefer_models) and matches(routing.prefer_models, facts.id)
            fit.append(((not preferred, _score(strategy, health.get(facts.id), cost), facts.id), facts))
        elif reason is not None:
            refused.append((unwanted is not None, _UNKNOWN_COST if cost is None else cost, facts.id, reason))
    fit.sort()
    chosen = tuple(facts for _, facts in fit[: routing.auto_candidates])
    return chosen, (
        *(Considered(facts.id, _why(facts, len(fit), needs, health.get(facts.id))) for facts in chosen),
        *(Considered(model, reason) for _, _, model, reason in sorted(refused)[:TOLD]),
    )


def likely_cost(pricing: bytes, needs: Needs) -> int | None:
    """Return what a line is likely to cost at a price (nano-dollars), None when its price is unknown.

    A guess for comparing: from list prices, the length of the prompt and a usual answer. What it costs at most is its
    bound, see `bounds`.
    """
    rates = _rates(pricing)
    if rates is None:
        return None
    usd = rates.prompt * needs.prompt + rates.completion * needs.likely_output + rates.request
    return int((usd * NANO).to_integral_value(rounding=ROUND_CEILING))


@lru_cache(maxsize=_KEPT)
def _rates(pricing: bytes) -> _Rates | None:
    """Return USD for one token or call; None when a rate that every call needs is unknown."""
    price = list_price(pricing)
    if price.input is None or price.output is None or price.price.base.request is None:
        return None
    return _Rates(price.input / MILLION, price.output / MILLION, price.request or Decimal(0))


def _unwanted(facts: ModelFacts, routing: Routing, cost: int | None) -> str | None:
    """Return why "auto" may not choose a model whatever the line is; None when it may."""
    if routing.auto_models != _ANY and not matches(routing.auto_models, facts.id):
        return "not among auto_models of [routing]"
    if is_alias(facts):
        return "it stands for a model that changes, and its price with it"
    if cost is None:
        return "no usable price is known for it"
    if not routing.auto_free and list_price(facts.pricing).free:
        return "it is free, with daily caps, and auto_free of [routing] is off"
    return None


def _capped(needs: Needs, routing: Routing) -> Needs:
    """Return the needs under the lower of the line's price caps and those of the policy."""
    own = routing.auto_max_input_price, routing.auto_max_output_price
    if own == (None, None):
        return needs
    return msgspec.structs.replace(
        needs,
        max_input_price=_lower(needs.max_input_price, own[0]),
        max_output_price=_lower(needs.max_output_price, own[1]),
    )


def _lower(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    caps = [cap for cap in (one, other) if cap is not None]
    return min(caps, default=None)


def _score(strategy: Strategy, health: ModelHealth | None, cost: int) -> Score:
    """Return what models are sorted by: whether anything is known of how they do, how well they do, what they cost."""
    if strategy not in (Strategy.PERFORMANCE, Strategy.AVAILABILITY):
        return (False, 0.0, cost)
    if health is None:
        return (True, 0.0, cost)
    success = success_rate(health)
    if strategy is Strategy.PERFORMANCE:
        took = answer_ms(health)
        return (took is None, until_success_ms(took.value, success) if took else 0.0, cost)
    known = bool(health.calls) or health.uptime is not None
    return (not known, -round(success * _STEPS) if known else 0.0, cost)


def _why(facts: ModelFacts, fit: int, needs: Needs, health: ModelHealth | None) -> str:
    parts = [f"among the best of {fit:,} that fit", reasons.of_estimate(likely_cost(facts.pricing, needs))]
    if health is not None:
        parts.append(reasons.of_health(health))
    unknown = unsure(facts, needs)
    return "; ".join([*parts, unknown] if unknown else parts)
