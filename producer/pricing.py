"""What a line may cost before it is enqueued: its bound, a limit for its answer, and whether any budget can hold it.

request ── no usable price ──────────────────── no_price     (at OpenRouter always, elsewhere under a budget)
        ├─ what no price tells the cost of ──── unbounded    (under a budget)
        ├─ dearer than the whole of a budget ── over_budget
        └─ else ─────────────────────────────── Priced

A line under no budget is never refused for what it may cost, where the upstream names no prices.
"""

from decimal import Decimal

import msgspec

from batchmill.config.policy import Policy
from batchmill.openrouter.bounds import (
    Bound,
    Ceiling,
    Reading,
    Unbounded,
    bound_of,
    ceiling_of,
    default_output,
    max_price,
    read_body,
    unbounded,
    with_max_tokens,
)
from batchmill.openrouter.models import ModelFacts, find_model
from batchmill.openrouter.money import to_usd
from batchmill.openrouter.prices import decode_price
from batchmill.producer.lines import BadLine, Conditions, Priced, Request
from batchmill.store.catalogue import Models
from batchmill.store.model import Terms

_NO_PRICE = Ceiling(
    prompt=Decimal(0),
    cached=Decimal(0),
    media=Decimal(0),
    completion=Decimal(0),
    request=Decimal(0),
    image=Decimal(0),
    list_prompt=Decimal(0),
    list_completion=Decimal(0),
)
_CENT = Decimal("0.01")
_COMMAND = "batchmill budgets raise"


class _Cap(msgspec.Struct, frozen=True):
    """A budget that covers lines of one model; without a name it is the batch's own. Money in nano-dollars."""

    limit: int
    name: str | None = None


class _Tariff(msgspec.Struct, frozen=True):
    """What goes for all lines of one model."""

    facts: ModelFacts
    ceiling: Ceiling | None
    terms: Terms
    narrowest: _Cap | None  # the budget with the lowest limit; None when none covers the lines


class Pricer:
    """Prices the lines of one batch. Pure; what it finds out about a model is kept.

    `strict` is for an upstream that names the prices of all its models, and heeds a `max_price`: OpenRouter.
    """

    def __init__(self, models: Models, policy: Policy, conditions: Conditions, *, strict: bool) -> None:
        self.conditions = conditions
        self._models = models
        self._policy = policy
        self._strict = strict
        self._tariffs: dict[str, _Tariff] = {}

    def check(self, request: Request) -> Request | BadLine:
        """Return the line when it can be run, else why not; as cheaply as that can be told."""
        tariff = self._tariff(request.model)
        if tariff.narrowest is None and tariff.ceiling is not None:
            return request
        priced = self.price(request)
        return priced if isinstance(priced, BadLine) else request

    def price(self, request: Request) -> Priced | BadLine:
        """Return the line with its bound, or why it can't be run."""
        tariff = self._tariff(request.model)
        if tariff.ceiling is None and (self._strict or tariff.narrowest):
            return _refused(request, "no_price", "model", _no_price(request.model))
        ceiling = tariff.ceiling or _NO_PRICE
        reading, body = _limited(request.body, tariff.facts)
        found = bound_of(reading, tariff.facts, ceiling)
        if tariff.narrowest is not None:
            blame = unbounded(found, reading, tariff.facts, ceiling)
            if blame is not None:
                return _refused(request, "unbounded", blame.param, _unbounded(blame, tariff.narrowest))
            if found.nano > tariff.narrowest.limit:
                return _refused(request, "over_budget", "max_tokens", _over(found, reading, tariff.narrowest))
        return Priced(request.custom_id, request.model, body, found.nano, found.tokens)

    def terms(self, model: str) -> Terms:
        """Return what goes for all lines of a model."""
        return self._tariff(model).terms

    def _tariff(self, model: str) -> _Tariff:
        tariff = self._tariffs.get(model)
        if tariff is None:
            tariff = self._tariffs[model] = self._make_tariff(model)
        return tariff

    def _make_tariff(self, model: str) -> _Tariff:
        known = find_model(self._models, model)
        rule = self._policy.price_for(model)
        pricing = rule.pricing() if rule else known.pricing if known else None
        ceiling = ceiling_of(decode_price(pricing)) if pricing else None
        conditions = self.conditions
        caps = [_Cap(budget.limit, budget.name) for budget in self._policy.budgets_for(model, conditions.project)]
        if conditions.max_cost is not None:
            caps.append(_Cap(conditions.max_cost))
        terms = Terms(
            conditions.project,
            conditions.priority,
            pricing if ceiling else None,
            max_price(ceiling) if ceiling and known and self._strict else None,
            conditions.max_cost is not None,
        )
        # a listing without prices (most are not OpenRouter's) says too little of its limits to give a line one
        facts = known if known and known.names_price else ModelFacts(model, pricing or b"{}")
        return _Tariff(facts, ceiling, terms, min(caps, key=lambda cap: cap.limit, default=None))


def _limited(body: bytes, facts: ModelFacts) -> tuple[Reading, bytes]:
    """Return the body with a limit for its answer, as far as any is known, and what is in it."""
    reading = read_body(body)
    if reading.output is not None:
        return reading, body
    limit = default_output(reading, facts)
    if limit is None or (reading.unbounded is not None and reading.unbounded.param is None):
        return reading, body
    return msgspec.structs.replace(reading, output=limit), with_max_tokens(body, limit)


def _refused(request: Request, code: str, param: str | None, message: str) -> BadLine:
    return BadLine(request.number, code, param, message, request.custom_id)


def _no_price(model: str) -> str:
    return (
        f"no usable price is known for {model}, so nothing bounds what it costs. Say what it costs at most in the "
        "config file: [[prices]] with match, prompt and completion (USD per million tokens)."
    )


def _unbounded(blame: Unbounded, cap: _Cap) -> str:
    return f"nothing bounds what this line costs, and {_named(cap)} must hold: {blame.reason}."


def _over(found: Bound, reading: Reading, cap: _Cap) -> str:
    what_else = f"raise it: {_COMMAND} {cap.name} USD" if cap.name else "give a higher --max-cost"
    return (
        f"one call can cost up to {_dollars(found.nano)}, over the whole of {_named(cap)} ({_dollars(cap.limit)}). "
        f"Lower max_tokens (now {reading.output:,}), or {what_else}."
    )


def _named(cap: _Cap) -> str:
    return f"budget {cap.name}" if cap.name else "the batch's --max-cost"


def _dollars(nano: int) -> str:
    """Return an amount with all its digits, and cents at least."""
    usd = to_usd(nano)
    return f"${usd.quantize(_CENT) if usd == usd.quantize(_CENT) else usd.normalize():f}"
