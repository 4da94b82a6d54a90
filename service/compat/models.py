"""Models as OpenAI's clients list them, with what decides between them in fields that begin with `x_`."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Literal

import msgspec

from batchmill.config.policy import AUTO, Alias, Policy
from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError
from batchmill.openrouter.list_prices import ListPrice
from batchmill.openrouter.variants import is_alias, variants_of
from batchmill.routing.health import FOR_EVER, ModelHealth, Window
from batchmill.routing.shelf import Item, Shelf
from batchmill.service import problems
from batchmill.service.context import Service
from batchmill.service.identity import Scope
from batchmill.service.operations import Call, Operation
from batchmill.store import policy
from batchmill.store.catalogue import snapshot_of
from batchmill.store.health import health_of
from batchmill.store.statistics import models_seen

_OURS = "batchmill"
_THOUSAND = 1000


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """USD for a million tokens; `request` and `image` USD each. None: not named. Long prompts may be dearer."""

    input: Decimal | None = None
    output: Decimal | None = None
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    request: Decimal | None = None
    image: Decimal | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What the fleet saw of a model in the last `seconds`: medians, and shares from 0 to 1. None: nobody knows.

    `breaker`: "open" lets nothing through until `open_until` (unix seconds; None: until an operator resets it).
    `uptime` is what the model's endpoints say of themselves.
    """

    calls: int
    seconds: int
    success_rate: float | None
    latency_ms: float | None
    first_token_ms: float | None
    tokens_per_second: float | None
    uptime: float | None
    breaker: Literal["closed", "half_open", "open"]
    open_until: int | None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model, or a name that stands for some: an alias of the policy, or "auto" for any that can serve the line.

    `x_variants` are other entries of the same model, as `:free` and `:batch`; `x_models` what an alias stands for.
    `x_health` is None where nobody used the model in the last day.
    """

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = _OURS
    x_name: str | None = None
    x_context_length: int | None = None
    x_max_completion_tokens: int | None = None
    x_input_modalities: tuple[str, ...] = ()
    x_output_modalities: tuple[str, ...] = ()
    x_prices: Prices | None = None
    x_free: bool = False
    x_capabilities: tuple[str, ...] = ()
    x_variant: str | None = None
    x_variants: tuple[str, ...] = ()
    x_models: tuple[str, ...] = ()
    x_expires: str | None = None
    x_health: Health | None = None


class ModelList(msgspec.Struct, frozen=True):
    """Every model, in the catalogue's order, after the names that stand for some."""

    data: tuple[Model, ...]
    object: Literal["list"] = "list"


async def list_models(call: Call[None, None]) -> ModelList:
    """Return all models that a line may name, with prices, limits, capabilities and how they do."""
    service = call.service
    shelf, rules = await _shelf(service), await _policy(service)
    seen = await models_seen(service.redis, service.upstream, Window.DAY)
    known = await health_of(service.redis, service.upstream, [name for name in seen if name in shelf.models])
    families = _families(shelf)
    models = (_model(item, families[item.base], known.get(item.id)) for item in shelf)
    return ModelList((*_names(rules, shelf), *models))


async def retrieve_model(call: Call[None, None]) -> Model:
    """Return one model, or what an alias stands for."""
    service, asked = call.service, call.path("model")
    shelf, rules = await _shelf(service), await _policy(service)
    for name in _names(rules, shelf):
        if name.id == asked:
            return name
    item = shelf.find(asked)
    if item is None:
        raise problems.not_found(_unknown(asked, shelf), "model", "model_not_found")
    found = await health_of(service.redis, service.upstream, [item.id])
    return _model(item, [item.id, *variants_of(item.id, shelf.models)], found.get(item.id))


async def _shelf(service: Service) -> Shelf:
    try:
        return Shelf((await snapshot_of(service.redis, service.settings)).models)
    except (UpstreamUnavailableError, UpstreamRefusedError) as error:
        raise problems.unavailable(f"The list of models can't be read just now: {error}") from error


async def _policy(service: Service) -> Policy:
    in_force = await policy.live(service.redis, service.upstream)
    if in_force.version == 0 and service.settings.policy is not None:
        return service.settings.policy
    return in_force.policy


def _names(rules: Policy, shelf: Shelf) -> Iterator[Model]:
    """Yield the names that stand for several models."""
    if len(shelf):
        yield Model(id=AUTO, x_name="Any model that can serve the line")
    for alias in rules.aliases:
        yield _alias(alias)


def _alias(alias: Alias) -> Model:
    return Model(id=alias.name, x_name=f"One of {len(alias.models)}", x_models=alias.models)


def _families(shelf: Shelf) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in shelf:
        found.setdefault(item.base, []).append(item.id)
    return found


def _model(item: Item, family: Iterable[str], health: ModelHealth | None) -> Model:
    facts = item.facts
    return Model(
        id=item.id,
        created=facts.created,
        owned_by=item.author,
        x_name=facts.name or None,
        x_context_length=facts.context_length,
        x_max_completion_tokens=facts.max_completion_tokens,
        x_input_modalities=facts.input_modalities,
        x_output_modalities=facts.output_modalities,
        x_prices=_prices(item.price),
        x_free=item.free,
        x_capabilities=tuple(sorted(item.capabilities)),
        x_variant=item.variant,
        x_variants=tuple(sorted(other for other in family if other != item.id)),
        x_models=(facts.alias_target,) if is_alias(facts) and facts.alias_target else (),
        x_expires=facts.expires,
        x_health=_health(health),
    )


def _prices(price: ListPrice) -> Prices:
    return Prices(**{name: getattr(price, name) for name in Prices.__struct_fields__})


def _health(known: ModelHealth | None) -> Health | None:
    if known is None or known == ModelHealth(model=known.model):
        return None
    return Health(
        calls=known.calls,
        seconds=known.seconds,
        success_rate=None if not known.calls else 1 - known.failures / known.calls,
        latency_ms=known.latency_ms,
        first_token_ms=known.first_token_ms,
        tokens_per_second=known.tokens_per_second,
        uptime=known.uptime,
        breaker="open" if known.open else "half_open" if known.half_open else "closed",
        open_until=None if known.open in (0, FOR_EVER) else known.open // _THOUSAND,
    )


def _unknown(asked: str, shelf: Shelf) -> str:
    near = shelf.nearest(asked)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    return f"The model '{asked}' does not exist{hint}"


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/models",
        handler=list_models,
        tag="models",
        summary="List models",
        scope=Scope.READ,
        answer=ModelList,
    ),
    Operation(
        method="GET",
        path="/v1/models/{model:path}",
        handler=retrieve_model,
        tag="models",
        summary="Retrieve a model",
        scope=Scope.READ,
        answer=Model,
        errors=(404,),
    ),
)
