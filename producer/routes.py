"""Which models may answer a line that does not name one alone, worked out when the line is handed over. Pure.

request ── model "auto" ──────── the best few of all that can serve it (`routing.automatic`) ─┐
        ├─ an alias ──────────── its models ──────────────────────────────────────────────────┤
        └─ fallback_models ───── the model, then they; aliases among them are their models ───┤
                                                                                              ▼
    each model: excluded, unfit, without a price, nothing bounds it, dearer than a budget? ── left out, with the reason
                                                                                              ▼
    none left: no_candidate          one or more: a Route; the line has a fare on each of its roads

Which of the roads a call takes is chosen when it is sent, by `routing.strategies`. A line with one road left is still
routed, so that its result tells why. Lines with the same roads share a lane, whose name is `<asked>#<digest>`.
"""

from collections.abc import Iterator, Mapping
from hashlib import blake2b

import msgspec

from batchmill.config.policy import AUTO, Alias
from batchmill.config.strategy import Strategy
from batchmill.openrouter.bounds import Reading, read_body, with_max_tokens
from batchmill.openrouter.features import dear_model
from batchmill.openrouter.splices import without_model
from batchmill.producer.lines import BadLine, Request, Wish
from batchmill.producer.tariffs import Refusal, Tariff, Tariffs
from batchmill.routing import automatic
from batchmill.routing.automatic import likely_cost
from batchmill.routing.candidates import Considered
from batchmill.routing.eligibility import unfit
from batchmill.routing.health import ModelHealth
from batchmill.routing.needs import Needs, needs_of, rounded
from batchmill.store.model import LANE_OF_A_ROUTE, Fare, Road, Route, Terms

_DIGEST_BYTES = 4
_TOLD = 3  # reasons in a refusal
_MAX_KEPT = 4096  # of what is worked out for similar lines
_NO_WISH = Wish()
_BRIEF = {
    "model_excluded": "excluded by exclude_models of [routing]",
    "no_price": "no usable price is known for it",
}

_encode = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode


class Resolved(msgspec.Struct, frozen=True):
    """A routed line: where it waits, what goes for it there, what is kept of its body, and its fare on each road."""

    lane: str
    terms: Terms  # with the route
    body: bytes
    fares: tuple[Fare, ...]


class _Named(msgspec.Struct, frozen=True):
    """A model that is on the way of a line, before anybody has looked whether it can serve it."""

    model: str
    weight: float = 1.0


class Router:
    """Resolves the lines of one batch; what it finds out for one is kept for those like it.

    `names` are the words for a model that are none.
    """

    def __init__(self, tariffs: Tariffs, *, today: str = "", health: Mapping[str, ModelHealth] | None = None) -> None:
        self._tariffs = tariffs
        self._policy = tariffs.policy
        self._today = today
        self._health = health or {}
        self.names = frozenset((AUTO, *(alias.name for alias in self._policy.aliases)))
        self._chosen: dict[tuple[Needs, Strategy], tuple[tuple[str, ...], tuple[Considered, ...]]] = {}
        self._routes: dict[object, tuple[str, Terms]] = {}

    def routes(self, request: Request) -> bool:
        """Whether the line does not simply go to the model that it names."""
        if request.model in self.names:
            return True
        wish = request.wish
        return wish is not None and (bool(wish.fallbacks) or wish.requirements is not None)

    def resolve(self, request: Request) -> Resolved | BadLine:
        """Return the line as it is enqueued, or why no model can serve it."""
        wish = request.wish or _NO_WISH
        strategy = self.strategy_of(request)
        body = without_model(request.body)
        reading, needs = read_body(body), _required(needs_of(body), wish)
        unfit_ones: list[Considered] = []
        fit: list[tuple[_Named, Tariff]] = []
        for named in self._named(request, needs, strategy, unfit_ones):
            tariff = self._tariffs.of_all(named.model, reading.models)
            reason = self._unfit(tariff, named.model, needs)
            if reason is None:
                fit.append((named, tariff))
            else:
                unfit_ones.append(Considered(named.model, reason))
        reading, body = _limited(reading, body, [tariff for _, tariff in fit])
        roads: list[tuple[_Named, Tariff]] = []
        fares: list[Fare] = []
        needs = msgspec.structs.replace(needs, output=reading.output)
        for named, tariff in fit:
            found = tariff.bound(reading)
            if isinstance(found, Refusal):
                unfit_ones.append(Considered(named.model, found.message))
            else:
                roads.append((named, tariff))
                fares.append(Fare(found.nano, found.tokens, _estimate(tariff, needs)))
        if not roads:
            return _refused(request, unfit_ones)
        lane, terms = self._route(request, wish, strategy, roads, tuple(unfit_ones))
        return Resolved(lane, terms, body, tuple(fares))

    def strategy_of(self, request: Request) -> Strategy:
        """Return how the models of a line are put in order: its own word, its batch's, the alias's, the policy's.

        A list of fallbacks goes by its order, whatever comes before it.
        """
        wish = request.wish or _NO_WISH
        if wish.strategy is not None:
            return wish.strategy
        if wish.fallbacks or request.model not in self.names:
            return Strategy.ORDER
        alias = self._policy.alias(request.model)
        return (alias and alias.strategy) or self._policy.routing.strategy

    def _named(
        self, request: Request, needs: Needs, strategy: Strategy, unfit_ones: list[Considered]
    ) -> Iterator[_Named]:
        """Yield the models that are meant, each once, in order; what "auto" leaves out goes to the unfit."""
        seen: set[str] = set()
        for word in (request.model, *(request.wish or _NO_WISH).fallbacks):
            for named in self._meant(word, needs, strategy, unfit_ones):
                if named.model not in seen:
                    seen.add(named.model)
                    yield named

    def _meant(self, word: str, needs: Needs, strategy: Strategy, unfit_ones: list[Considered]) -> Iterator[_Named]:
        if word == AUTO:
            models, considered = self._choose(needs, strategy)
            unfit_ones += [each for each in considered if each.model not in models]
            yield from map(_Named, models)
            return
        alias = self._policy.alias(word) if word in self.names else None
        yield from (_Named(word),) if alias is None else _weighted(alias)

    def _choose(self, needs: Needs, strategy: Strategy) -> tuple[tuple[str, ...], tuple[Considered, ...]]:
        """Return what "auto" may choose from; looked up for similar lines together, but rather exactly than in vain."""
        found = self._chosen_for(rounded(needs), strategy)
        return found if found[0] else self._chosen_for(needs, strategy)

    def _chosen_for(self, needs: Needs, strategy: Strategy) -> tuple[tuple[str, ...], tuple[Considered, ...]]:
        found = self._chosen.get((needs, strategy))
        if found is None:
            if len(self._chosen) >= _MAX_KEPT:
                self._chosen.clear()
            routing, today = self._policy.routing, self._today
            models, considered = automatic.choose(
                self._tariffs.models, needs, routing, strategy, self._health, today=today
            )
            found = self._chosen[needs, strategy] = (tuple(facts.id for facts in models), considered)
        return found

    def _unfit(self, tariff: Tariff, model: str, needs: Needs) -> str | None:
        if tariff.refusal is not None:
            return _BRIEF.get(tariff.refusal.code, tariff.refusal.message)
        dear = None if tariff.narrowest is None else dear_model(model)
        if dear is not None:
            return f"nothing bounds what a line costs there: {dear.reason}"
        return unfit(tariff.answering[0], needs, self._policy.routing, today=self._today)

    def _route(
        self,
        request: Request,
        wish: Wish,
        strategy: Strategy,
        roads: list[tuple[_Named, Tariff]],
        left_out: tuple[Considered, ...],
    ) -> tuple[str, Terms]:
        """Return lane and terms; lines with the same roads and the same models left out have the same.

        Why a model was left out is then told as for the first of them.
        """
        key = (
            request.model, wish, strategy,
            tuple((named, tariff.model, tariff.max_price) for named, tariff in roads),
            tuple(each.model for each in left_out),
        )  # fmt: skip
        found = self._routes.get(key)
        if found is None:
            if len(self._routes) >= _MAX_KEPT:
                self._routes.clear()
            found = self._routes[key] = self._make_route(request.model, wish, strategy, roads, left_out)
        return found

    def _make_route(
        self,
        asked: str,
        wish: Wish,
        strategy: Strategy,
        roads: list[tuple[_Named, Tariff]],
        left_out: tuple[Considered, ...],
    ) -> tuple[str, Terms]:
        conditions, routing = self._tariffs.conditions, self._policy.routing
        provider = self._tariffs.provider(wish.requirements.providers if wish.requirements else ())
        members = b'"model":' + _encode_json(asked) + (b"," + wish.members if wish.members else b"")
        route = Route(
            asked,
            strategy,
            tuple(
                Road(named.model, tariff.pricing, tariff.max_price, provider, named.weight) for named, tariff in roads
            ),
            members,
            left_out,
            routing.max_attempts,
            routing.retry_delay,
            tuple(trouble.value for trouble in routing.fallback_on),
        )
        terms = Terms(
            conditions.project,
            conditions.priority,
            capped=conditions.max_cost is not None,
            provider=provider,
            route=route,
            tags=conditions.tags,
            cache=conditions.cache,
            key=conditions.key,
        )
        return lane_of(route), terms


def lane_of(route: Route) -> str:
    """Return the name of the lane of a route, the same for the same route."""
    nameless = msgspec.structs.replace(route, unfit=tuple(Considered(each.model, "") for each in route.unfit))
    return f"{route.asked}{LANE_OF_A_ROUTE}{blake2b(_encode(nameless), digest_size=_DIGEST_BYTES).hexdigest()}"


def _weighted(alias: Alias) -> Iterator[_Named]:
    weights = alias.weights or (1.0,) * len(alias.models)
    return map(_Named, alias.models, weights)


def _required(needs: Needs, wish: Wish) -> Needs:
    """Return what the body needs together with what it requires in so many words."""
    wanted = wish.requirements
    if wanted is None:
        return needs
    return msgspec.structs.replace(
        needs,
        capabilities=needs.capabilities | frozenset(wanted.needs),
        min_context=wanted.min_context,
        max_input_price=wanted.max_input_price,
        max_output_price=wanted.max_output_price,
        exclude_models=wanted.exclude_models,
    )


def _limited(reading: Reading, body: bytes, tariffs: list[Tariff]) -> tuple[Reading, bytes]:
    """Return the body with a limit that each of the models takes, where it has none and any is known."""
    if reading.output is not None:
        return reading, body
    limits = [tariff.default_output(reading) for tariff in tariffs]
    limit = min((each for each in limits if each is not None), default=None)
    if limit is None:
        return reading, body
    return msgspec.structs.replace(reading, output=limit), with_max_tokens(body, limit)


def _estimate(tariff: Tariff, needs: Needs) -> int | None:
    return None if tariff.pricing is None else likely_cost(tariff.pricing, needs)


def _refused(request: Request, left_out: list[Considered]) -> BadLine:
    told = [f"{each.model}: {each.reason.rstrip('.')}" for each in left_out[:_TOLD]]
    more = len(left_out) - len(told)
    told += [f"and {more:,} more"] if more > 0 else []
    reasons = "; ".join(told) or "the catalogue has no model"
    message = f"no model can serve this line. {reasons}."
    return BadLine(request.number, "no_candidate", "model", message, request.custom_id)
