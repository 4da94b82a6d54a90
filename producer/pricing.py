"""What a line may cost before it is enqueued: its bound, a limit for its answer, and whether any budget can hold it.

request ── excluded by the policy ───────────── model_excluded
        ├─ no usable price ──────────────────── no_price     (at OpenRouter always, elsewhere under a budget)
        ├─ what no price tells the cost of ──── unbounded    (under a budget)
        ├─ dearer than the whole of a budget ── over_budget
        ├─ routed, and no model can serve it ── no_candidate (see `routes`)
        └─ else ─────────────────────────────── Priced

A line under no budget is never refused for what it may cost, where the upstream names no prices.
"""

from collections.abc import Mapping

import msgspec

from batchmill.config.policy import Policy, Routing
from batchmill.openrouter.bounds import Reading, bound_of, read_body, with_max_tokens
from batchmill.producer.lines import BadLine, Conditions, Priced, Request
from batchmill.producer.routes import Router
from batchmill.producer.tariffs import Refusal, Tariff, Tariffs
from batchmill.routing.health import ModelHealth
from batchmill.store.catalogue import Models
from batchmill.store.model import Terms


class Pricer:
    """Prices the lines of one batch. Pure; what it finds out about a model is kept.

    `strict` is for an upstream that names the prices of all its models, and heeds a `max_price`: OpenRouter. `today`
    is a date, YYYY-MM-DD in UTC: models that have expired by then are on no route. `health` is what "auto" chooses by.
    """

    def __init__(
        self,
        models: Models,
        policy: Policy,
        conditions: Conditions,
        *,
        strict: bool,
        today: str = "",
        health: Mapping[str, ModelHealth] | None = None,
    ) -> None:
        self.conditions = conditions
        self._tariffs = Tariffs(models, policy, conditions, strict=strict)
        self._router = Router(self._tariffs, today=today, health=health)
        self._names = self._router.names
        self._terms: dict[str, Terms] = {}
        self._accepted: set[str] = set()  # models whose lines run whatever is in them

    @property
    def policy(self) -> Policy:
        """The rules that lines are priced by."""
        return self._tariffs.policy

    @property
    def routing(self) -> Routing:
        """What the policy says about routing."""
        return self._tariffs.policy.routing

    def check(self, request: Request) -> Request | BadLine:
        """Return the line when it can be run, else why not; as cheaply as that can be told."""
        if request.model in self._accepted and request.wish is None and not request.models:
            return request
        priced = self.price(request)
        if isinstance(priced, BadLine):
            return priced
        tariff = self._tariffs.of(request.model)
        if not priced.fares and tariff.unlimited and tariff.ceiling is not None:
            self._accepted.add(request.model)
        return request

    def price(self, request: Request) -> Priced | BadLine:
        """Return the line with its bound, or why it can't be run."""
        if (request.wish is not None or request.model in self._names) and self._router.routes(request):
            return self._route(request)
        reading, body = read_body(request.body), request.body
        tariff, group = self._tariffs.of(request.model), request.model
        if reading.models:
            tariff, group = self._together(request.model, reading.models)
        if reading.output is None:
            reading, body = _limited(reading, body, tariff)
        found = bound_of(reading, tariff.facts, tariff.rates) if tariff.unlimited else tariff.bound(reading)
        if isinstance(found, Refusal):
            return BadLine(request.number, found.code, found.param, found.message, request.custom_id)
        return Priced(request.custom_id, request.model, body, found.nano, found.tokens, group, (), request.live)

    def terms(self, group: str) -> Terms:
        """Return what goes for all lines of a group."""
        terms = self._terms.get(group)
        if terms is None:
            terms = self._terms[group] = self._make_terms(self._tariffs.of(group))
        return terms

    def _together(self, model: str, others: tuple[str, ...]) -> tuple[Tariff, str]:
        """Return the tariff and the group of lines that any of the models may answer."""
        tariff, group = self._tariffs.of_all(model, others), " ".join((model, *others))
        if group not in self._terms:
            self._terms[group] = self._make_terms(tariff)
        return tariff, group

    def _route(self, request: Request) -> Priced | BadLine:
        found = self._router.resolve(request)
        if isinstance(found, BadLine):
            return found
        self._terms.setdefault(found.lane, found.terms)
        return Priced(request.custom_id, found.lane, found.body, 0, 0, found.lane, found.fares, request.live)

    def _make_terms(self, tariff: Tariff) -> Terms:
        conditions = self.conditions
        return Terms(
            conditions.project,
            conditions.priority,
            tariff.pricing,
            tariff.max_price,
            conditions.max_cost is not None,
            self._tariffs.provider(),
            tags=conditions.tags,
            cache=conditions.cache,
            key=conditions.key,
        )


def _limited(reading: Reading, body: bytes, tariff: Tariff) -> tuple[Reading, bytes]:
    """Return the body with a limit for its answer, as far as any is known, and what is in it then."""
    limit = tariff.default_output(reading)
    if limit is None:
        return reading, body
    return msgspec.structs.replace(reading, output=limit), with_max_tokens(body, limit)
