"""Which endpoint serves a call: the `provider` object of its body, as OpenRouter's provider routing reads it."""

from collections.abc import Callable, Sequence
from decimal import Decimal

import msgspec

from batchmill.openrouter.simulator import refusals
from batchmill.openrouter.simulator.catalogue import Endpoint, Model
from batchmill.openrouter.simulator.draws import Draws
from batchmill.openrouter.simulator.refusals import Refusal
from batchmill.openrouter.simulator.traffic import EndpointTraffic, Traffic
from batchmill.openrouter.simulator.wire import CompletionRequest, MaxPrice, ProviderPreferences, SortPreference

_MILLION = 1_000_000
_ENDPOINT = 4  # slot of a body's draws
_NEVER_SEEN = float("inf")
# what `require_parameters` looks at: the parameters of a body that a model may lack
_PARAMETERS = frozenset(
    (
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "min_p",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning",
        "repetition_penalty",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "tool_choice",
        "tools",
        "top_a",
        "top_k",
        "top_logprobs",
        "top_p",
    )
)
_ALWAYS_FIT = 0.0


def choose_endpoint(
    model: Model, request: CompletionRequest, body: bytes, traffic: Traffic, spill_rate: float, draws: Draws
) -> Endpoint | Refusal:
    """Return who serves: the catalogue's endpoint, sometimes a dearer one; the 404 when none is left to choose from."""
    candidates = model.endpoints
    wishes = request.provider
    if wishes is not None:
        for step, fits in _steps(wishes, model, body):
            candidates = tuple(each for each in candidates if fits(each))
            if not candidates:
                return refusals.constraint_filtered(model.id, [each.provider for each in model.endpoints], step)
        if wishes.order or wishes.sort:
            return _ordered(candidates, wishes, model, traffic)[0]
    spilled = len(candidates) > 1 and draws.fraction(_ENDPOINT) < spill_rate
    return candidates[1] if spilled else candidates[0]


def _steps(wishes: ProviderPreferences, model: Model, body: bytes) -> Sequence[tuple[str, Callable[[Endpoint], bool]]]:
    """Return the filters in the order in which they are asked, by the name that a refusal gives them."""
    only, ignore, ceiling = wishes.only, wishes.ignore, wishes.max_price
    steps: list[tuple[str, Callable[[Endpoint], bool]]] = []
    if only is not None:
        steps.append(("only", lambda each: _named(each, only)))
    if ignore is not None:
        steps.append(("ignore", lambda each: not _named(each, ignore)))
    order = wishes.order
    if order and wishes.allow_fallbacks is False:
        steps.append(("order", lambda each: _named(each, order)))
    if wishes.require_parameters:
        named = msgspec.json.decode(body, type=dict[str, msgspec.Raw]).keys() & _PARAMETERS
        steps.append(("require_parameters", lambda _: named <= model.supported_parameters))
    if ceiling is not None:
        steps.append(("max_price", lambda each: _affordable(each, ceiling)))
    return steps


def _named(endpoint: Endpoint, names: Sequence[str]) -> bool:
    """Tell whether one of the names is the endpoint's tag, or its provider's: `deepinfra` stands for all of its."""
    return endpoint.tag in names or endpoint.tag.partition("/")[0] in names


def _ordered(
    candidates: Sequence[Endpoint], wishes: ProviderPreferences, model: Model, traffic: Traffic
) -> Sequence[Endpoint]:
    sort = wishes.sort.by if isinstance(wishes.sort, SortPreference) else wishes.sort
    if sort:
        candidates = sorted(candidates, key=lambda each: _rank(each, sort, traffic.of(model.id, each.tag)))
    order = wishes.order or []
    return sorted(
        candidates, key=lambda each: next((at for at, name in enumerate(order) if _named(each, [name])), len(order))
    )


def _rank(endpoint: Endpoint, sort: str, seen: EndpointTraffic) -> float | Decimal:
    base = endpoint.price.base
    match sort:
        case "price":
            return sum(rate for rate in (base.prompt, base.completion) if isinstance(rate, Decimal))
        case "throughput":
            return -seen.throughput["p50"] if seen.throughput else _NEVER_SEEN
        case "latency":
            return seen.latency["p50"] if seen.latency else _NEVER_SEEN
    return _ALWAYS_FIT


def _affordable(endpoint: Endpoint, ceiling: MaxPrice) -> bool:
    base = endpoint.price.base
    for rate, dearest, unit in (
        (base.prompt, ceiling.prompt, _MILLION),
        (base.completion, ceiling.completion, _MILLION),
        (base.request, ceiling.request, 1),
    ):
        if dearest is not None and isinstance(rate, Decimal) and rate * unit > dearest:
            return False
    return True
