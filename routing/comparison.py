"""Models side by side: what a mix of tokens costs, what they can do, how they did, and which wins at what. Pure."""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

import msgspec

from batchmill.openrouter.prices import Billable, cost
from batchmill.routing.health import ModelHealth
from batchmill.routing.performance import Figure, Health, answer_ms, first_token_ms, success, tokens_per_second, trouble
from batchmill.routing.quality import Benchmark, benchmark_of
from batchmill.routing.shelf import Item, Shelf

_FEWEST: Final = 2  # nobody wins alone


class Mix(msgspec.Struct, frozen=True):
    """The tokens of one call. `cached` are part of the prompt's, read from a cache."""

    prompt: int = 3000
    completion: int = 1000
    cached: int = 0

    def __post_init__(self) -> None:
        if min(self.prompt, self.completion, self.cached) < 0 or self.cached > self.prompt:
            raise ValueError("a mix has no negative numbers, and no more cached tokens than the prompt has")


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a comparison. `cost` is what the mix costs at its listed price, exact USD; None: unknown."""

    item: Item
    cost: Decimal | None
    answer_ms: Figure | None
    first_token_ms: Figure | None
    tokens_per_second: Figure | None
    success: Figure | None
    trouble: str | None
    benchmark: Benchmark | None
    health: ModelHealth | None


class Comparison(msgspec.Struct, frozen=True):
    """Models side by side. `wins` has for each criterion the ids of the best; none where fewer than two are known."""

    mix: Mix
    models: tuple[Compared, ...]
    capabilities: tuple[str, ...]  # that any of them has
    wins: dict[str, tuple[str, ...]]


class UnknownModelError(LookupError):
    """No model has this id; `nearest` are those that were probably meant."""

    def __init__(self, model: str, nearest: tuple[str, ...]) -> None:
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        super().__init__(f"no model '{model}' in the catalogue{hint}")
        self.model = model
        self.nearest = nearest


def compare(
    shelf: Shelf, ids: Sequence[str], *, at: datetime, mix: Mix | None = None, health: Health | None = None
) -> Comparison:
    """Return the models side by side, at the prices of an instant that knows its time zone.

    Raises UnknownModelError.
    """
    tokens = mix or Mix()
    models = tuple(_compared(find(shelf, model), tokens, at, health or {}) for model in dict.fromkeys(ids))
    able = sorted({word for model in models for word in model.item.capabilities})
    wins = {name: _best(models, value) for name, value in CRITERIA.items()}
    return Comparison(tokens, models, tuple(able), {name: best for name, best in wins.items() if best})


def find(shelf: Shelf, model_id: str) -> Item:
    """Return a model of the shelf. Raises UnknownModelError, which names the nearest ids."""
    item = shelf.find(model_id)
    if item is None:
        raise UnknownModelError(model_id, shelf.nearest(model_id))
    return item


def _compared(item: Item, mix: Mix, at: datetime, health: Health) -> Compared:
    seen = health.get(item.id)
    usage = Billable(prompt_tokens=mix.prompt, completion_tokens=mix.completion, cached_tokens=mix.cached)
    return Compared(
        item=item,
        cost=cost(item.price.price, usage, at),
        answer_ms=answer_ms(seen),
        first_token_ms=first_token_ms(seen),
        tokens_per_second=tokens_per_second(seen),
        success=success(seen),
        trouble=trouble(seen),
        benchmark=benchmark_of(item.facts.benchmarks),
        health=seen,
    )


def _value(figure: Figure | None, sign: int = 1) -> float | None:
    return None if figure is None else sign * figure.value


CRITERIA: Final[dict[str, Callable[[Compared], Decimal | float | None]]] = {
    "cost": lambda model: None if model.cost is None else -model.cost,
    "context": lambda model: model.item.facts.context_length,
    "output": lambda model: model.item.facts.max_completion_tokens,
    "capabilities": lambda model: len(model.item.capabilities),
    "answer time": lambda model: _value(model.answer_ms, -1),
    "first token": lambda model: _value(model.first_token_ms, -1),
    "tokens a second": lambda model: _value(model.tokens_per_second),
    "success": lambda model: _value(model.success),
    "age": lambda model: model.item.facts.created or None,
}
"""What models can win at; the highest number does."""


def _best(models: Sequence[Compared], value: Callable[[Compared], Decimal | float | None]) -> tuple[str, ...]:
    """Return who has the highest; nobody when fewer than two are known or all are equal."""
    known = [(number, model.item.id) for model in models if (number := value(model)) is not None]
    highest = max((number for number, _ in known), default=None)
    best = tuple(model for number, model in known if number == highest)
    return best if len(known) >= _FEWEST and len(best) < len(known) else ()
