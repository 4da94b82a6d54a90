"""What must be known before calls go to another model, beside its price: facts of the catalogue, none of quality."""

from typing import Final

from batchmill.routing.shelf import Item
from batchmill.spend.usage import Cell

_BATCH: Final = "batch"


def caveats_of(item: Item, own: Item | None, total: Cell, *, cap: int | None, taken: int) -> tuple[str, ...]:
    """Return what speaks against a model for these calls, in words; `cap` is how many a day it may take."""
    found = [*_way(item, total, cap, taken), *_tokens(item, own, total), *_thinking(item, total)]
    if item.price.price.overrides:
        found.append("it has other prices for long prompts, or at certain hours: they are in the sum")
    if item.facts.expires:
        found.append(f"may be removed after {item.facts.expires}")
    return tuple(found)


def _way(item: Item, total: Cell, cap: int | None, taken: int) -> list[str]:
    """Say how the model is called, where that differs."""
    if item.variant == _BATCH:
        return ["through OpenRouter's Batch API, within 24 hours; batchmill does not send there by itself"]
    if not item.free:
        return []
    if cap is None:
        return ["free models have daily caps, and no limit here says which"]
    more = total.requests - taken
    rest = f"; {more:,} calls of busier days stay where they are" if more else ""
    return [f"the limits here let {cap:,} calls of free models go a day{rest}"]


def _tokens(item: Item, own: Item | None, total: Cell) -> list[str]:
    """Say where its tokens may not be as many, or not cost the same, as those that were counted."""
    found = []
    if own is not None and own.facts.tokenizer != item.facts.tokenizer:
        names = f"{own.facts.tokenizer or 'unknown'}, {item.facts.tokenizer or 'unknown'}"
        found.append(f"another tokenizer ({names}): the same text may be more tokens, or fewer")
    if item.free:
        return found
    if total.cached and item.price.cache_read:
        found.append(f"reckoned with the same {total.cached:,} prompt tokens read from a cache, at its price for these")
    if total.cached and item.price.cache_write:
        found.append("what it asks for writing to its cache is not in the sum: no record says how much was written")
    return found


def _thinking(item: Item, total: Cell) -> list[str]:
    if total.reasoning and "reasoning" not in item.capabilities:
        return [f"it does not think: {total.reasoning:,} tokens of thought are reckoned as if it answered with them"]
    if total.reasoning:
        return ["it may think longer, or shorter: reckoned with as many tokens"]
    thinks = item.facts.reasoning is not None and item.facts.reasoning.default_enabled
    return ["it thinks unless it is told not to, which is not in the sum"] if thinks else []
