"""What a line is likely to take, and on which model: a guess for people, never what money is held by. Pure.

The answer is as long as the model's were lately, else a usual one, and never over the line's limit. A routed line goes
where the fleet would send it now; where chance decides, lines are dealt out by the same shares.
"""

from collections.abc import Mapping

import msgspec

from batchmill.producer.lines import Priced, Request
from batchmill.producer.pricing import Pricer
from batchmill.routing.automatic import likely_cost
from batchmill.routing.candidates import Candidate
from batchmill.routing.health import ModelHealth
from batchmill.routing.needs import LIKELY_OUTPUT, needs_of
from batchmill.routing.strategies import Ranking, rank
from batchmill.store.model import Route

_GOLDEN = 0.6180339887498949  # its multiples fill [0, 1) evenly, however many are taken


class Likely(msgspec.Struct, frozen=True):
    """One line. Money in nano-dollars; `cost` None: no price is known. `worst` is the bound of its dearest road."""

    model: str
    prompt: int
    completion: int
    cost: int | None
    worst: int | None
    bound: int  # on this model: what the gate holds


class Guesser:
    """Guesses for the lines of one batch; what is worked out for a route is kept.

    `answers` are the mean tokens of an answer by model, where they are known; `health` is what roads are chosen by.
    """

    def __init__(
        self, pricer: Pricer, answers: Mapping[str, int], health: Mapping[str, ModelHealth], *, now_ms: int = 0
    ) -> None:
        self._pricer = pricer
        self._answers = answers
        self._health = health
        self._now = now_ms
        self._rankings: dict[str, Ranking] = {}
        self._turns: dict[str, int] = {}

    def guess(self, request: Request, priced: Priced) -> Likely:
        """Return what a line that was priced is likely to take."""
        route = self._pricer.terms(priced.group).route
        if route is None:
            # several that OpenRouter itself chooses from have no one price: the first is asked first
            pricing = self._pricer.terms(request.model).pricing
            worst = None if pricing is None else priced.bound
            return self._likely(request.model, pricing, priced.body, worst, priced.bound)
        place = self._place(priced, route)
        known = None not in [road.pricing for road in route.roads]
        worst = max(fare.bound for fare in priced.fares) if known else None
        road = route.roads[place]
        return self._likely(road.model, road.pricing, priced.body, worst, priced.fares[place].bound)

    def _likely(self, model: str, pricing: bytes | None, body: bytes, worst: int | None, bound: int) -> Likely:
        needs = needs_of(body)
        usual = self._answers.get(model, LIKELY_OUTPUT)
        output = (usual if needs.output is None else min(needs.output, usual)) * needs.answers
        cost = None
        if pricing is not None:
            cost = likely_cost(pricing, msgspec.structs.replace(needs, likely_output=output))
        if cost is not None and worst is not None:
            cost = min(cost, bound)
        return Likely(model, needs.prompt, output, cost, worst, bound)

    def _place(self, priced: Priced, route: Route) -> int:
        """Return the road that the fleet would take first."""
        estimates = [fare.estimate for fare in priced.fares]
        ranking = self._rankings.get(priced.group)
        if ranking is None:
            candidates = [
                Candidate(road.model, estimate, road.weight)
                for road, estimate in zip(route.roads, estimates, strict=True)
            ]
            preferred = self._pricer.routing.prefer_models
            ranking = rank(route.strategy, candidates, self._health, preferred=preferred, now=self._now)
            self._rankings[priced.group] = ranking
        turn = self._turns.get(priced.group, 0)
        self._turns[priced.group] = turn + 1
        return ranking.draw((turn + 1) * _GOLDEN % 1, turn, estimates).order[0]
