"""What goes for all lines of one model: its facts, the ceiling of its price, and the narrowest budget over them."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from batchmill.config.policy import Budget, Policy, Routing, matches
from batchmill.openrouter.bounds import (
    Bound,
    Ceiling,
    Reading,
    Unbounded,
    bound_of,
    ceiling_of,
    covering,
    default_output,
    max_price,
    unbounded,
)
from batchmill.openrouter.models import ModelFacts, find_model
from batchmill.openrouter.money import to_usd
from batchmill.openrouter.prices import decode_price
from batchmill.producer.lines import Conditions
from batchmill.store.catalogue import Models

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
_SIMILAR = 3


class Cap(msgspec.Struct, frozen=True):
    """A budget that covers lines of one model; without a name it is the batch's own. Money in nano-dollars."""

    limit: int
    name: str | None = None


class Refusal(msgspec.Struct, frozen=True):
    """Why a line can't be run: the code and the field that a BadLine has, and the reason in words."""

    code: str
    param: str | None
    message: str


class Tariff(msgspec.Struct, frozen=True):
    """What goes for all lines of one model, or of those that OpenRouter's `models` names beside it.

    `ceiling` is None when a price is unknown, `rates` then that of nothing; `narrowest` the budget with the lowest
    limit, None when none covers the lines; `refusal` why none of them can run; `unlimited` whether they run whatever
    they may cost.
    """

    model: str
    facts: ModelFacts
    answering: tuple[ModelFacts, ...]
    ceiling: Ceiling | None
    pricing: bytes | None
    max_price: bytes | None
    narrowest: Cap | None
    refusal: Refusal | None = None
    rates: Ceiling = _NO_PRICE
    unlimited: bool = False

    def __post_init__(self) -> None:
        if self.ceiling is not None:
            msgspec.structs.force_setattr(self, "rates", self.ceiling)
        msgspec.structs.force_setattr(self, "unlimited", self.refusal is None and self.narrowest is None)

    def default_output(self, reading: Reading) -> int | None:
        """Return the limit for an answer that has none: one that all models which may answer take; None if unknown."""
        if reading.unbounded is not None and reading.unbounded.param is None:
            return None
        limits = [default_output(reading, facts) for facts in self.answering]
        return min((limit for limit in limits if limit is not None), default=None)

    def bound(self, reading: Reading) -> Bound | Refusal:
        """Return what a call of a line costs at most, or why the line can't be run."""
        if self.refusal is not None:
            return self.refusal
        found = bound_of(reading, self.facts, self.rates)
        cap = self.narrowest
        if cap is None:
            return found
        blame = unbounded(found, reading, self.facts, self.rates)
        if blame is not None:
            return Refusal("unbounded", blame.param, _unbounded(blame, cap))
        if found.nano > cap.limit:
            return Refusal("over_budget", "max_tokens", _over(found, reading, cap))
        return found


class Tariffs:
    """The tariffs of one batch. Pure; what it finds out about a model is kept.

    `strict` is for an upstream that names the prices of all its models, and heeds a `max_price`: OpenRouter.
    """

    def __init__(self, models: Models, policy: Policy, conditions: Conditions, *, strict: bool) -> None:
        self.models = models
        self.policy = policy
        self.conditions = conditions
        self.strict = strict
        self._kept: dict[str, Tariff] = {}
        self._combined: dict[tuple[str, ...], Tariff] = {}

    def of(self, model: str) -> Tariff:
        """Return the tariff of a model."""
        tariff = self._kept.get(model)
        if tariff is None:
            tariff = self._kept[model] = self._make(model)
        return tariff

    def of_all(self, model: str, others: Sequence[str]) -> Tariff:
        """Return the tariff of lines that any of the models may answer."""
        if not others:
            return self.of(model)
        named = (model, *others)
        tariff = self._combined.get(named)
        if tariff is None:
            tariff = self._combined[named] = self._combine(named)
        return tariff

    def provider(self, only: Sequence[str] = ()) -> bytes | None:
        """Return the members for `provider` that the policy, and a line that lets nobody else answer, ask for."""
        if not self.strict:
            return None
        return provider_members(self.policy.routing, only)

    def _make(self, model: str) -> Tariff:
        known = find_model(self.models, model)
        rule = self.policy.price_for(model)
        pricing = rule.pricing() if rule else known.pricing if known else None
        ceiling = ceiling_of(decode_price(pricing)) if pricing else None
        caps = [Cap(each.limit, each.name) for each in self._budgets(model)]
        if self.conditions.max_cost is not None:
            caps.append(Cap(self.conditions.max_cost))
        # a listing without prices (most are not OpenRouter's) says too little of its limits to give a line one
        facts = known if known and known.names_price else ModelFacts(model, pricing or b"{}")
        narrowest = min(caps, key=lambda cap: cap.limit, default=None)
        return Tariff(
            model,
            facts,
            (facts,),
            ceiling,
            pricing if ceiling else None,
            max_price(ceiling) if ceiling and known and self.strict else None,
            narrowest,
            self._refusal(model, ceiling, narrowest),
        )

    def _budgets(self, model: str) -> tuple[Budget, ...]:
        return self.policy.budgets_for(model, self.conditions.project, self.conditions.key)

    def _refusal(self, model: str, ceiling: Ceiling | None, narrowest: Cap | None) -> Refusal | None:
        if matches(self.policy.routing.exclude_models, model):
            return Refusal("model_excluded", "model", f"{model} is excluded by exclude_models of [routing]")
        if ceiling is None and (self.strict or narrowest):
            return Refusal("no_price", "model", _no_price(model, self._similar(model), listed=model in self.models))
        return None

    def _similar(self, model: str) -> list[str]:
        """Return models that may have been meant, by a plain look: a file may name 50,000 that don't exist."""
        if model in self.models:
            return []
        word = model.lower()
        return sorted((known for known in self.models if word in known.lower()), key=len)[:_SIMILAR]

    def _combine(self, named: tuple[str, ...]) -> Tariff:
        """Return what holds whichever of the models answers."""
        tariffs = [self.of(model) for model in named]
        first = tariffs[0]
        priced = [(each.facts, each.ceiling) for each in tariffs if each.ceiling is not None]
        facts, ceiling = covering(priced) if priced else (first.facts, None)
        refusal = next((each.refusal for each in tariffs if each.refusal is not None), None) or self._foreign(named)
        if refusal is not None and first.refusal is None:
            refusal = msgspec.structs.replace(refusal, param="models")
        whole = len(priced) == len(tariffs)
        return Tariff(
            first.model,
            facts,
            tuple(each.facts for each in tariffs),
            ceiling,
            first.pricing if len({each.pricing for each in tariffs}) == 1 else None,  # nobody knows whose it will be
            max_price(ceiling) if ceiling is not None and whole and first.max_price else None,
            first.narrowest,
            refusal,
        )

    def _foreign(self, named: tuple[str, ...]) -> Refusal | None:
        """Refuse what could be spent past a budget: a call is booked for its line's model, whoever answers it."""
        model, *others = named
        booked = self._budgets(model)
        for other in others:
            for budget in self._budgets(other):
                if budget not in booked:
                    return Refusal("unbounded", "models", _past(budget.name, other, model))
        return None


def provider_members(routing: Routing, only: Sequence[str] = ()) -> bytes | None:
    """Return the `provider` object (JSON) that an operator's lists of providers make, None for none."""
    lists = {"order": routing.prefer_providers, "ignore": routing.exclude_providers, "only": only}
    named = {name: providers for name, providers in lists.items() if providers}
    return msgspec.json.encode(named) if named else None


def _no_price(model: str, similar: Sequence[str], *, listed: bool) -> str:
    unknown = f"no usable price is known for {model}, so nothing bounds what it costs. "
    if similar:
        meant = " or ".join(similar)
        return f"{unknown}Did you mean {meant}? [[aliases]] in the config file can give a model another name."
    known = "" if listed else "`batchmill models list` has those that are known. "
    return (
        f"{unknown}{known}Say what it costs at most in the config file: [[prices]] with match, prompt and completion "
        "(USD per million tokens)."
    )


def _past(budget: str, other: str, model: str) -> str:
    return (
        f"{other} may answer, and budget {budget} covers it but not {model}, for which the call is booked. "
        "Name it in fallback_models: then each model is paid from its own budgets."
    )


def _unbounded(blame: Unbounded, cap: Cap) -> str:
    return f"nothing bounds what this line costs, and {_named(cap)} must hold: {blame.reason}."


def _over(found: Bound, reading: Reading, cap: Cap) -> str:
    what_else = f"raise it: {_COMMAND} {cap.name} USD" if cap.name else "give a higher --max-cost"
    return (
        f"one call can cost up to {_dollars(found.nano)}, over the whole of {_named(cap)} ({_dollars(cap.limit)}). "
        f"Lower max_tokens (now {reading.output:,}), or {what_else}."
    )


def _named(cap: Cap) -> str:
    return f"budget {cap.name}" if cap.name else "the batch's --max-cost"


def _dollars(nano: int) -> str:
    """Return an amount with all its digits, and cents at least."""
    usd = to_usd(nano)
    return f"${usd.quantize(_CENT) if usd == usd.quantize(_CENT) else usd.normalize():f}"
