"""In which order the candidates of a line are tried, and why: a pure function of strategy, candidates and health.

    order         as they are named
    cost          the likely cost of this line; within 2 % they are equals
    performance   the time until a call has succeeded: the median time of a call by its success rate
    availability  the success rate; within 2 points they are equals, but for those much slower than the quickest
    round_robin   each in turn
    weighted      by draw: weight times success rate

Equals are drawn by weight times success rate, preferred models before the others (under cost, performance and
availability: round_robin and weighted leave nobody behind). A model whose breaker is open comes last under each.

So that a recovered model is noticed, `performance` and `availability` send a small share of all lines (EXPLORE) first
to one of those that stand behind; `cost` does so among equals alone, for a dearer model is no cheaper when it has
recovered; `order` never does. Chance is the caller's: the same inputs always give the same decision.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from batchmill.config.policy import Patterns, matches
from batchmill.config.strategy import Strategy
from batchmill.routing.candidates import Candidate, Considered, Decision
from batchmill.routing.health import ModelHealth
from batchmill.routing.standings import Picture, Standing, picture_of, standing_of

EXPLORE: Final = 0.04  # the share of lines that go first to a model which is not among the best

Preferred = Patterns | Callable[[str], bool]
"""Which models are preferred: patterns of ids, or whatever tells."""

_BELOW_ONE = 1 - 2**-53
_EXPLORING = "tried first now and then, so that a change is noticed: "


def decide(
    strategy: Strategy,
    candidates: Sequence[Candidate],
    health: Mapping[str, ModelHealth],
    *,
    draw: float,
    turn: int,
    preferred: Preferred = (),
    now: int = 0,
) -> Decision:
    """Return the candidates in the order in which they are to be tried; `rank` and `Ranking.draw` tell the inputs."""
    return rank(strategy, candidates, health, preferred=preferred, now=now).draw(draw, turn)


def rank(
    strategy: Strategy,
    candidates: Sequence[Candidate],
    health: Mapping[str, ModelHealth],
    *,
    preferred: Preferred = (),
    now: int = 0,
) -> "Ranking":
    """Return what goes for every line as long as candidates and health are the same.

    A breaker counts as open while `now` (ms of the Redis clock) is before its time (`ModelHealth.open`).
    """
    standings = [
        standing_of(
            each,
            health.get(each.model),
            preferred(each.model) if callable(preferred) else matches(preferred, each.model),
            now,
        )
        for each in candidates
    ]
    return Ranking(strategy, standings, [each.estimate for each in candidates])


class Ranking:
    """The candidates as they stand at one moment; each line draws its own order from it."""

    __slots__ = ("_picture", "_standings", "_strategy")

    def __init__(self, strategy: Strategy, standings: list[Standing], estimates: Sequence[int | None]) -> None:
        self._strategy = strategy
        self._standings = standings
        self._picture = picture_of(strategy, standings, estimates)

    def draw(self, draw: float, turn: int, estimates: Sequence[int | None] | None = None) -> Decision:
        """Return the order for one line.

        `draw` is a number in [0, 1) that the caller took by chance, `turn` one that grows by 1 with each line;
        `estimates` are what this line is likely to cost (nano-dollars), one a candidate, where they differ from theirs.
        """
        picture = self._picture
        if estimates is not None and self._strategy is Strategy.COST:
            picture = picture_of(self._strategy, self._standings, estimates)
        order, explores = self._order(picture, draw, turn)
        order += picture.shut
        considered = [picture.considered[place] for place in order]
        if explores:
            considered[0] = Considered(considered[0].model, _EXPLORING + considered[0].reason)
        return Decision(self._strategy, tuple(order), tuple(considered))

    def _order(self, picture: Picture, draw: float, turn: int) -> tuple[list[int], bool]:
        """Return the places whose breaker is closed, and whether the first is one that stands behind."""
        if self._strategy is Strategy.ROUND_ROBIN:
            places = [place for group in picture.groups for place in group]
            start = turn % len(places) if places else 0
            return places[start:] + places[:start], False
        order: list[int] = []
        if picture.explorable and draw < EXPLORE:
            draw = self._draw_from(list(picture.explorable), 1, draw / EXPLORE, order)
        elif picture.explorable:
            draw = (draw - EXPLORE) / (1 - EXPLORE)
        explores = bool(order)
        for group in picture.groups:
            left = [place for place in group if place not in order]
            draw = self._draw_from(left, len(left), draw, order)
        return order, explores

    def _draw_from(self, places: list[int], count: int, draw: float, order: list[int]) -> float:
        """Move as many places into the order, by their chances; return what is left of the draw, again in [0, 1)."""
        for _ in range(count):
            if len(places) == 1:
                order.append(places.pop())
                break
            chances = [self._standings[place].chance for place in places]
            at = draw * sum(chances)
            nth = 0
            while nth < len(chances) - 1 and at >= chances[nth]:
                at -= chances[nth]
                nth += 1
            order.append(places.pop(nth))
            draw = min(max(at / chances[nth], 0.0), _BELOW_ONE)
        return draw
