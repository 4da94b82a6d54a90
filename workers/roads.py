"""Which model a routed line takes now: its strategy's order, less the roads that are closed to it.

fresh ──► first road of the order that is open ──► gate ──► sent
            │  passed over: no endpoint, too long, flagged, failed already    (closed to this line)
            │               no budget has room at its price                   (until all are so)
            │               breaker open, paused, failing                     (until its valve opens)
            │  waited for:  what [routing] fallback_on does not name, a limit under `order` and `cost` above all
            └─ none ──► waits for a valve
"""

import random
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Protocol

import msgspec

from batchmill.config.policy import Patterns, Trouble
from batchmill.config.strategy import Strategy
from batchmill.openrouter.outcomes import Failure, Retry, Scope
from batchmill.routing.candidates import Candidate, Considered, Decision
from batchmill.routing.health import ModelHealth
from batchmill.routing.strategies import rank
from batchmill.store.gate import Reply, Why
from batchmill.store.model import Road, Route, Routed
from batchmill.store.rules import Rules
from batchmill.workers.valves import Valve

_PATIENT = (Strategy.ORDER, Strategy.COST)  # a limit is worth waiting for; the others spread, and pass on
_HARD = (Trouble.CONTEXT, Trouble.MODERATION, Trouble.NO_ENDPOINT)  # another try of the same line changes nothing
_TROUBLES = {
    "context_length_exceeded": Trouble.CONTEXT,
    "max_tokens_exceeded": Trouble.CONTEXT,
    "token_limit_exceeded": Trouble.CONTEXT,
    "content_policy_violation": Trouble.MODERATION,
    "refusal": Trouble.MODERATION,
    "moderation": Trouble.MODERATION,
    "model_not_found": Trouble.NO_ENDPOINT,
    "not_found": Trouble.NO_ENDPOINT,
    "no_endpoints": Trouble.NO_ENDPOINT,
    "privacy_restricted": Trouble.NO_ENDPOINT,
    "constraint_filtered": Trouble.NO_ENDPOINT,
    "model_deprecated": Trouble.NO_ENDPOINT,
    "free_variant_ended": Trouble.NO_ENDPOINT,
    "region_restricted": Trouble.NO_ENDPOINT,
    "request_exceeds_in_flight_budget": Trouble.BUDGET,
}


class Outlook(Protocol):
    """How the models do; kept up to date by somebody."""

    @property
    def health(self) -> Mapping[str, ModelHealth]:
        """What is known of the models that are watched."""

    def watch(self, models: Iterable[str]) -> None:
        """Keep these models up to date, too."""


class NoOutlook:
    """Nothing is known of any model."""

    health: Mapping[str, ModelHealth] = {}

    def watch(self, models: Iterable[str]) -> None:
        """Do nothing."""


class Guide(msgspec.Struct, frozen=True):
    """What roads are chosen by, beside the line itself; `now` is the clock of Redis (ms)."""

    outlook: Outlook = NoOutlook()
    now: Callable[[], int] = lambda: 0
    preferred: Callable[[], Patterns] = lambda: ()


class Trip:
    """What is particular to one routed line: where it goes now, and which roads are closed to it."""

    __slots__ = ("_broke", "_closed", "_notes", "decision", "place", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.place = 0
        self.decision: Decision | None = None
        self._closed: dict[int, bool] = {}  # place -> for good
        self._broke: set[int] = set()
        self._notes: dict[int, str] = {}

    @property
    def road(self) -> Road:
        """The road of this call, or of the last one."""
        return self.route.roads[self.place]

    @property
    def detours(self) -> bool:
        """Whether any road is closed to it that others may take."""
        return bool(self._closed or self._broke)

    def passes(self, place: int) -> bool:
        """Whether a road is open as far as this line is concerned."""
        return place not in self._closed and place not in self._broke

    def note(self, place: int, why: str) -> None:
        """Keep why a road was not taken."""
        self._notes[place] = why

    def close(self, trouble: Trouble, why: str) -> bool:
        """Close the road of the last call; return whether another is left that was not tried."""
        self._closed[self.place] = trouble in _HARD
        self._notes[self.place] = why
        return any(place not in self._closed for place in range(len(self.route.roads)))

    def reopen(self) -> bool:
        """Open the roads again on which another try may help; return whether there is one."""
        self._closed = {place: hard for place, hard in self._closed.items() if hard}
        return len(self._closed) < len(self.route.roads)

    def broke(self) -> bool:
        """Note that no budget has room for the line on this road; return whether another is worth asking for.

        When none is, all count as unasked again.
        """
        self._broke.add(self.place)
        self._notes[self.place] = "no budget had room for it at that price"
        if Trouble.BUDGET in self.route.fallback_on and any(map(self.passes, range(len(self.route.roads)))):
            return True
        self._broke.clear()
        return False

    def admitted(self) -> None:
        """Note that the gate holds it."""
        self._broke.clear()

    def routed(self) -> Routed | None:
        """Return how the line came to the model of its last call; None when none was ever chosen."""
        if self.decision is None:
            return None
        considered = (
            self._considered(place, known)
            for place, known in zip(self.decision.order, self.decision.considered, strict=True)
        )
        return Routed(self.route.asked, self.route.strategy, self.road.model, (*considered, *self.route.unfit))

    def _considered(self, place: int, known: Considered) -> Considered:
        note = self._notes.get(place)
        if note is None or (place == self.place and place not in self._closed):
            return known
        return Considered(known.model, f"{known.reason}; {note}")


class Roads:
    """The roads of one route in one lane of one process, with a valve each."""

    def __init__(self, route: Route, guide: Guide, valve: Callable[[str], Valve]) -> None:
        self.route = route
        self.valves = [valve(road.model) for road in route.roads]
        self._guide = guide
        self._turns = count(random.randrange(len(route.roads)))  # noqa: S311 - so that workers don't march in step
        self._health: Mapping[str, ModelHealth] | None = None
        self._candidates = [Candidate(road.model, weight=road.weight) for road in route.roads]
        self._models = [road.model for road in route.roads]

    def choose(self, trip: Trip, estimates: tuple[int | None, ...]) -> Valve | None:
        """Send the line down the best road that is open now; None when it should wait for one."""
        decision = self._decide(estimates)
        trip.decision = decision
        for place in decision.order:
            if not trip.passes(place):
                continue
            valve = self.valves[place]
            if valve.open:
                trip.place = place
                return valve
            if not self._may_pass(valve.trouble):
                return None
            trip.note(place, _WORDS.get(valve.trouble, "it had all the lines that it takes at once"))
        return None

    def _decide(self, estimates: tuple[int | None, ...]) -> Decision:
        guide = self._guide
        guide.outlook.watch(self._models)
        health = guide.outlook.health
        if health is not self._health:
            self._health = health
            self._ranking = rank(
                self.route.strategy, self._candidates, health, preferred=guide.preferred(), now=guide.now()
            )
        return self._ranking.draw(random.random(), next(self._turns), estimates)  # noqa: S311 - spreading, no secrets

    def _may_pass(self, trouble: Trouble | None) -> bool:
        route = self.route
        return (
            trouble is None
            or trouble in route.fallback_on
            or (trouble is Trouble.LIMIT and route.strategy not in _PATIENT)
        )


_WORDS: Mapping[Trouble | None, str] = {
    Trouble.BREAKER: "its breaker was open, or an operator had paused it",
    Trouble.LIMIT: "a limit let nothing more through",
    Trouble.BUDGET: "no budget had room for it at that price",
}


def trouble_at_gate(rules: Rules, reply: Reply) -> Trouble | None:
    """Return what kind of trouble the gate's answer is for one model; None for none, or for what holds up all."""
    match reply.why:
        case Why.BREAKER:
            return Trouble.BREAKER
        case Why.PAUSE if rules.scopes[reply.which - 1].startswith("op:"):
            return Trouble.BREAKER
        case Why.PAUSE | Why.SHARE | Why.LIMIT:
            return Trouble.LIMIT
        case Why.BUDGET:
            return Trouble.BUDGET
        case _:
            return None


def trouble_of(failure: Failure) -> Trouble | None:
    """Return what kind of trouble with a model a failed call is; None when another model would not mend it."""
    match failure.retry:
        case Retry.BACKOFF:
            return Trouble.PROVIDER
        case Retry.LATER:
            return Trouble.LIMIT if failure.scope is Scope.MODEL else None
        case Retry.NEVER:
            return _TROUBLES.get(failure.code)
        case _:
            return None
