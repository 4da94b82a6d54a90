"""Whether a model can serve a line, and why not. Pure.

What the catalogue does not say is not held against a model: a capability that nobody tells may be there (`unsure`
says so), an unknown context may be long enough.
"""

from decimal import Decimal
from typing import Final

from batchmill.config.policy import Routing, matches
from batchmill.openrouter.capabilities import CAPABILITIES, EFFORT, capabilities, tells_parameters
from batchmill.openrouter.list_prices import MILLION, list_price
from batchmill.openrouter.models import ModelFacts
from batchmill.openrouter.traits import is_router
from batchmill.openrouter.variants import variant_of
from batchmill.routing.needs import Needs, needs_of

__all__ = ["Needs", "needs_of", "unfit", "unsure"]

_INPUTS: Final = frozenset({"vision", "audio", "video", "files"})
_OUTPUTS: Final = frozenset({"image_output", "audio_output", "streaming"})
_TEXT = "text"
_BATCH = "batch"


def unfit(facts: ModelFacts, needs: Needs, routing: Routing, *, today: str = "") -> str | None:
    """Return why a model can't serve a line, in words; None when it can, or when nobody knows that it can't.

    `today` is a date, YYYY-MM-DD in UTC; without one no model has expired.
    """
    return (
        _barred(facts, needs, routing, today)
        or _too_small(facts, needs)
        or _unable(facts, needs)
        or _too_dear(facts, needs)
    )


def unsure(facts: ModelFacts, needs: Needs) -> str | None:
    """Return what a line needs of which nobody says whether the model can do it; None when there is none."""
    unknown = sorted(word for word in _missing(facts, needs) if not _tells(facts, word))
    return f"nobody says whether it can do {', '.join(unknown)}" if unknown else None


def _barred(facts: ModelFacts, needs: Needs, routing: Routing, today: str) -> str | None:
    if routing.exclude_models and matches(routing.exclude_models, facts.id):
        return "excluded by exclude_models of [routing]"
    if needs.exclude_models and matches(needs.exclude_models, facts.id):
        return "excluded by the line's requirements"
    if variant_of(facts.id) == _BATCH:
        return "it is an entry of OpenRouter's Batch API, which answers no calls"
    if is_router(facts):
        return "it passes lines on to other models, nobody knows to which and at what price"
    if facts.expires and today and facts.expires < today:
        return f"it expired on {facts.expires}"
    return None


def _too_small(facts: ModelFacts, needs: Needs) -> str | None:
    context, limit = facts.context_length, facts.max_completion_tokens
    if needs.min_context is not None and (context is None or context < needs.min_context):
        told = "unknown" if context is None else f"{context:,} tokens"
        return f"the line requires a context of {needs.min_context:,} tokens, its own is {told}"
    if context is not None and needs.prompt + (needs.output or 0) > context:
        output = f" and up to {needs.output:,} come out" if needs.output else ""
        return f"its context of {context:,} tokens is too short: about {needs.prompt:,} go in{output}"
    if limit is not None and needs.output is not None and needs.output > limit:
        return f"it answers with {limit:,} tokens at most, the line asks for up to {needs.output:,}"
    return None


def _unable(facts: ModelFacts, needs: Needs) -> str | None:
    missing = sorted(word for word in _missing(facts, needs) if _tells(facts, word))
    if missing:
        return "; ".join(f"no {word}: nothing says that it {_meaning(word)}" for word in missing)
    if facts.output_modalities and _TEXT not in facts.output_modalities and not needs.capabilities & _OUTPUTS:
        return "it does not answer in text"
    if needs.thoughtless and facts.reasoning is not None and facts.reasoning.mandatory:
        return "it always thinks, and the line switches that off"
    return None


def _missing(facts: ModelFacts, needs: Needs) -> frozenset[str]:
    if not needs.capabilities:
        return frozenset()
    missing = needs.capabilities - capabilities(facts)
    if "json_mode" in missing and "structured_outputs" in capabilities(facts):
        return missing - {"json_mode"}  # who answers by a schema can answer in JSON
    return missing


def _tells(facts: ModelFacts, word: str) -> bool:
    """Whether the catalogue says of the model what it could do of this kind."""
    if word in _INPUTS:
        return bool(facts.input_modalities)
    if word in _OUTPUTS:
        return bool(facts.output_modalities)
    if word.startswith(EFFORT):
        return facts.reasoning is not None and bool(facts.reasoning.efforts)
    return tells_parameters(facts)


def _meaning(word: str) -> str:
    return CAPABILITIES.get(word, "can be told to think so hard")


def _too_dear(facts: ModelFacts, needs: Needs) -> str | None:
    for cap, kind in ((needs.max_input_price, "prompt"), (needs.max_output_price, "completion")):
        if cap is None:
            continue
        price = highest_price(facts, kind, needs.worst)
        if price is None:
            return f"its price is not known, and at most ${cap:f} a million {kind} tokens is allowed"
        if price > cap:
            return f"${price.normalize():f} a million {kind} tokens, over the ${cap:f} that is allowed"
    return None


def highest_price(facts: ModelFacts, kind: str, prompt: int) -> Decimal | None:
    """Return the highest list price of a `kind` of tokens (prompt or completion) for a prompt of so many tokens.

    USD for a million tokens, over all hours and days; None when one that may be asked is unknown.
    """
    price = list_price(facts.pricing).price
    highest = Decimal(0)
    rates = [price.base, *(each.rates for each in price.overrides if (each.min_prompt_tokens or -1) < prompt)]
    for each in rates:
        rate = getattr(each, kind)
        if rate is None:
            return None
        if isinstance(rate, Decimal):
            highest = max(highest, rate)
    return highest * MILLION
