"""How the candidates stand to one another: who is whose equal, who is better. Pure, and nothing of chance."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from batchmill.config.strategy import Strategy
from batchmill.routing import reasons
from batchmill.routing.candidates import Candidate, Considered
from batchmill.routing.health import ModelHealth
from batchmill.routing.performance import answer_ms
from batchmill.routing.scores import success_rate, until_success_ms

SAME_COST: Final = 0.02  # more than the least, and still its equal
SAME_TIME: Final = 0.15  # medians come from buckets about 10 % wide, so equals may look so far apart
SAME_SUCCESS: Final = 0.02  # points of a success rate
MUCH_SLOWER: Final = 0.5  # more than the quickest takes: among those that succeed as often, no equal

_LEAST_CHANCE = 0.02  # of the weight: among equals nobody's share is nothing
_UNKNOWN_TIME = 1.0  # where no candidate's is known

Groups = list[list[int]]
"""Places of candidates: in each group equals, the best group first."""


class Standing(msgspec.Struct, frozen=True):
    """What of a candidate does not change with the line. `open`: until when its breaker is (ms), 0 for closed."""

    model: str
    success: float
    took_ms: float | None
    chance: float  # among equals: weight times success rate
    preferred: bool
    open: int
    reason: str


class Picture(msgspec.Struct, frozen=True):
    """The candidates by their places: equals in groups, who else may be tried first, whose breaker is open."""

    groups: Groups
    explorable: list[int]
    shut: list[int]  # the one that opens first before the others
    considered: list[Considered]  # by place


def standing_of(candidate: Candidate, health: ModelHealth | None, preferred: bool, now: int) -> Standing:
    """Return how a candidate stands at a moment (ms of the Redis clock)."""
    known = health or ModelHealth(model=candidate.model)
    success = success_rate(known)
    took = answer_ms(known)
    return Standing(
        model=candidate.model,
        success=success,
        took_ms=took.value if took else None,
        chance=candidate.weight * max(success, _LEAST_CHANCE),
        preferred=preferred,
        open=known.open if known.open > now else 0,
        reason=_reason(candidate, known, preferred),
    )


def picture_of(strategy: Strategy, standings: Sequence[Standing], estimates: Sequence[int | None]) -> Picture:
    """Return who is better than whom under a strategy; `estimates` are one a candidate (nano-dollars)."""
    places = [place for place, each in enumerate(standings) if not each.open]
    shut = sorted((place for place, each in enumerate(standings) if each.open), key=lambda place: standings[place].open)
    tiers = _tiers(strategy, standings, places, estimates)
    groups, explorable = tiers, list[int]()
    if strategy in (Strategy.COST, Strategy.PERFORMANCE, Strategy.AVAILABILITY):
        groups = [part for tier in tiers for part in _preferred_first(standings, tier)]
        reachable = tiers[:1] if strategy is Strategy.COST else tiers
        explorable = [place for tier in reachable for place in tier if place not in groups[0]]
    considered = [
        Considered(each.model, _words(strategy, each, estimate))
        for each, estimate in zip(standings, estimates, strict=True)
    ]
    return Picture(groups, explorable, shut, considered)


def _tiers(
    strategy: Strategy, standings: Sequence[Standing], places: list[int], estimates: Sequence[int | None]
) -> Groups:
    match strategy:
        case Strategy.COST:
            return _by_cost(places, estimates)
        case Strategy.PERFORMANCE:
            return _by_time(standings, places)
        case Strategy.AVAILABILITY:
            return _by_success(standings, places)
        case Strategy.ORDER:
            return [[place] for place in places]
        case Strategy.ROUND_ROBIN | Strategy.WEIGHTED:
            return [places] if places else []


def _by_cost(places: list[int], estimates: Sequence[int | None]) -> Groups:
    """Group by likely cost; those of which nobody knows it come last."""
    known = {place: estimate for place in places if (estimate := estimates[place]) is not None}
    unknown = [place for place in places if place not in known]
    return _grouped(known, lambda least: least * (1 + SAME_COST)) + ([unknown] if unknown else [])


def _by_time(standings: Sequence[Standing], places: list[int]) -> Groups:
    """Group by the time until a success. Where the time of a call is unknown, the best one's is hoped for."""
    known = [took for place in places if (took := standings[place].took_ms) is not None]
    hoped = min(known, default=_UNKNOWN_TIME)
    times = {}
    for place in places:
        took = standings[place].took_ms
        times[place] = until_success_ms(hoped if took is None else took, standings[place].success)
    return _grouped(times, lambda least: least * (1 + SAME_TIME))


def _by_success(standings: Sequence[Standing], places: list[int]) -> Groups:
    """Group by the share that fails, and then part those that are much slower from the quick."""
    fails = {place: 1 - standings[place].success for place in places}
    groups = []
    for tier in _grouped(fails, lambda least: least + SAME_SUCCESS):
        known = [took for place in tier if (took := standings[place].took_ms) is not None]
        hoped = min(known, default=_UNKNOWN_TIME)
        times = {place: hoped if (took := standings[place].took_ms) is None else took for place in tier}
        groups += _grouped(times, lambda least: least * (1 + MUCH_SLOWER))
    return groups


def _grouped(scores: dict[int, int] | dict[int, float], reach: Callable[[float], float]) -> Groups:
    """Group places whose scores are within the reach of the lowest in their group, lowest first."""
    groups: Groups = []
    limit = 0.0
    for place in sorted(scores, key=scores.__getitem__):
        if not groups or scores[place] > limit:
            groups.append([])
            limit = reach(scores[place])
        groups[-1].append(place)
    return groups


def _preferred_first(standings: Sequence[Standing], tier: list[int]) -> Groups:
    preferred = [place for place in tier if standings[place].preferred]
    others = [place for place in tier if not standings[place].preferred]
    return [part for part in (preferred, others) if part]


def _reason(candidate: Candidate, health: ModelHealth, preferred: bool) -> str:
    parts = [] if candidate.weight == 1 else [f"weight {candidate.weight:g}"]
    parts.append(reasons.of_health(health))
    return "; ".join([*parts, "preferred"] if preferred else parts)


def _words(strategy: Strategy, standing: Standing, estimate: int | None) -> str:
    if standing.open:
        return reasons.of_breaker(standing.open)
    if strategy is Strategy.COST:
        return f"{reasons.of_estimate(estimate)}; {standing.reason}"
    return standing.reason
