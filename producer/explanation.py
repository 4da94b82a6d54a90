"""How a line would go if it were handed over now: the resolution that enqueues it, and the choice that is made to send.

Nothing is enqueued. What a line may cost, and where it may go, is asked of the same `Pricer` that a batch is priced by.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.config.strategy import Strategy
from batchmill.producer.lines import BadLine, Priced, Request
from batchmill.producer.pricing import Pricer
from batchmill.routing import reasons
from batchmill.routing.automatic import likely_cost
from batchmill.routing.candidates import Candidate, Considered
from batchmill.routing.health import ModelHealth
from batchmill.routing.needs import needs_of
from batchmill.routing.strategies import Preferred, Ranking, rank
from batchmill.store.clock import now_ms
from batchmill.store.health import health_of
from batchmill.store.model import Fare, Road, Route, Terms

SAMPLE: Final = 1000
"""Lines of which it is told how many go first to each candidate; a share is exact to that."""

_MIDDLE = 0.5  # of all draws: one that looks at nothing out of turn
_ALONE = "the line names it alone"


class Way(msgspec.Struct, frozen=True):
    """A candidate: why it has its place, and the share of such lines (0 to 1) that go there first.

    `bound` is what one call costs at most, `estimate` what it is likely to cost (nano-dollars; None: no price is
    known), `tokens` what it takes at most.
    """

    model: str
    reason: str
    share: float
    bound: int | None
    estimate: int | None
    tokens: int


class Explanation(msgspec.Struct, frozen=True):
    """The candidates of a line in the order in which they would be tried, and the models that can't serve it.

    `strategy` is None for a line that is not routed: it names its model and no other.
    """

    custom_id: str
    asked: str
    strategy: Strategy | None
    ways: tuple[Way, ...]
    unfit: tuple[Considered, ...] = ()


async def explain(redis: Redis, settings: Settings, request: Request, pricer: Pricer) -> Explanation | BadLine:
    """Return how a line would go now, or why it could not be enqueued. Raises redis-py's errors in an outage."""
    priced = pricer.price(request)
    if isinstance(priced, BadLine):
        return priced
    terms = pricer.terms(priced.group)
    models = [road.model for road in terms.route.roads] if terms.route else [request.model]
    health = await health_of(redis, settings.upstream_name, models)
    if terms.route is None:
        return _alone(request, priced, terms, health.get(request.model))
    return _routed(request, priced, terms.route, health, pricer.routing.prefer_models, await now_ms(redis))


def _alone(request: Request, priced: Priced, terms: Terms, health: ModelHealth | None) -> Explanation:
    known = f"; {reasons.of_health(health)}" if health and reasons.of_health(health) != reasons.NOTHING_KNOWN else ""
    bound, estimate = (
        (None, None) if terms.pricing is None else (priced.bound, likely_cost(terms.pricing, needs_of(priced.body)))
    )
    way = Way(request.model, _ALONE + known, 1.0, bound, estimate, priced.tokens)
    return Explanation(request.custom_id, request.model, None, (way,))


def _routed(
    request: Request,
    priced: Priced,
    route: Route,
    health: Mapping[str, ModelHealth],
    preferred: Preferred,
    now: int,
) -> Explanation:
    pairs = list(zip(route.roads, priced.fares, strict=True))
    candidates = [Candidate(road.model, fare.estimate, road.weight) for road, fare in pairs]
    ranking = rank(route.strategy, candidates, health, preferred=preferred, now=now)
    decision = ranking.draw(_MIDDLE, 0)
    shares = _shares(ranking)
    ways = tuple(
        _way(*pairs[place], considered, shares[place] / SAMPLE)
        for place, considered in zip(decision.order, decision.considered, strict=True)
    )
    return Explanation(request.custom_id, route.asked, route.strategy, ways, route.unfit)


def _way(road: Road, fare: Fare, considered: Considered, share: float) -> Way:
    bound = None if road.pricing is None else fare.bound
    return Way(road.model, considered.reason, share, bound, fare.estimate, fare.tokens)


def _shares(ranking: Ranking) -> Counter[int]:
    """Return how many of a sample of lines would go first to each candidate, by its place."""
    return Counter(ranking.draw((turn + _MIDDLE) / SAMPLE, turn).order[0] for turn in range(SAMPLE))
