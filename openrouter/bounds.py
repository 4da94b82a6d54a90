"""The bound of a line: the most that one call of it can cost, provable before it is sent. Pure, and never a float.

    W = n x (Tin x prompt + Tout x completion + request + images x image), rounded up to a nano-dollar

Tin is at most the UTF-8 bytes of the body, as a byte-level token has at least one byte, and what a chat template adds;
for a body with more than text it is the model's whole context. Tout is the body's own limit. Each rate is the highest
that could apply, and 1 % more: `provider.max_price` gets the same margin, because a ceiling equal to the list price is
reported to fail, so an endpoint that much dearer may serve.

Where a body lets other models answer, too (`models`), rates and context are the highest of all of them, see `covering`.
What makes a cost that no price names (searches, other tiers) leaves a line `Unbounded`.
"""

import re
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from math import ceil
from typing import Final

import msgspec
from msgspec import UNSET

from batchmill.openrouter.features import Reading, Unbounded, read_body
from batchmill.openrouter.models import ModelFacts
from batchmill.openrouter.money import NANO
from batchmill.openrouter.prices import Price, Rate
from batchmill.openrouter.splices import with_max_tokens

__all__ = [
    "Bound",
    "Ceiling",
    "Reading",
    "Unbounded",
    "bound",
    "bound_of",
    "ceiling_of",
    "covering",
    "default_output",
    "max_price",
    "read_body",
    "unbounded",
    "with_max_tokens",
]

TEMPLATE_TOKENS: Final = 128  # what a chat template and its own system text add to what the body says
TOOL_TOKENS: Final = 1024  # and with tools: Anthropic documents up to 530 of its own, others write a manual
MAX_NANO: Final = 1 << 53  # what a Lua number counts exactly; no call costs nine million dollars

_MARGIN = Decimal("1.01")
_MILLION = 1_000_000
_UP = Context(prec=60, rounding=ROUND_CEILING)
_PROMPT = ("prompt", "input_cache_read", "input_cache_write")
_CACHED = (*_PROMPT, "input_cache_write_1h")
_MEDIA = (*_CACHED, "audio", "image_token")
_COMPLETION = ("completion", "internal_reasoning", "image_output", "audio_output")
_SEARCHES_UNASKED = re.compile(r"^perplexity/|deep-research|search-preview")


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """The highest rates of a price in USD, margin included.

    A prompt token costs `prompt` at most, `cached` in a body that asks for caching, `media` in one that holds more
    than text. `list_prompt` and `list_completion` are the plain rates, which are what `max_price` speaks of.
    `searches`: the price has one for searches, which some models do unasked.
    """

    prompt: Decimal
    cached: Decimal
    media: Decimal
    completion: Decimal
    request: Decimal
    image: Decimal
    list_prompt: Decimal
    list_completion: Decimal
    searches: bool = False


_RATES: Final = tuple(name for name in Ceiling.__struct_fields__ if name != "searches")


class Bound(msgspec.Struct, frozen=True):
    """The most that one call of a line can cost (nano-dollars), and the most tokens that it can take."""

    nano: int
    tokens: int


def ceiling_of(price: Price) -> Ceiling | None:
    """Return the highest rates of a price over all its overrides; None when one that may be billed is unknown.

    The discount is ignored: what may end tomorrow bounds nothing.
    """
    if price.discount is None:
        return None

    stages = (price.base, *(override.rates for override in price.overrides))

    def highest(*names: str) -> Decimal | None:
        return _highest(getattr(rates, name) for rates in stages for name in names)

    prompt, cached, media = highest(*_PROMPT), highest(*_CACHED), highest(*_MEDIA)
    completion, request, image = highest(*_COMPLETION), highest("request"), highest("image")
    list_prompt, list_completion = highest("prompt"), highest("completion")
    if (
        prompt is None or cached is None or media is None or completion is None
        or request is None or image is None or list_prompt is None or list_completion is None
    ):  # fmt: skip
        return None
    return Ceiling(
        prompt=prompt,
        cached=cached,
        media=media,
        completion=completion,
        request=request,
        image=image,
        list_prompt=list_prompt,
        list_completion=list_completion,
        searches=highest("web_search") != 0,
    )


def covering(answering: Sequence[tuple[ModelFacts, Ceiling]]) -> tuple[ModelFacts, Ceiling]:
    """Return facts and ceiling that hold whichever model answers: the highest of each rate, the longest context."""
    if len(answering) == 1:
        return answering[0]
    facts, ceilings = [each for each, _ in answering], [ceiling for _, ceiling in answering]
    searching = [each for each, ceiling in answering if ceiling.searches and _SEARCHES_UNASKED.search(each.id)]
    contexts = [each.context_length for each in facts]
    return (
        ModelFacts(
            (searching or facts)[0].id,
            facts[0].pricing,
            None if None in contexts else max(length for length in contexts if length),
        ),
        Ceiling(
            **{name: max(getattr(ceiling, name) for ceiling in ceilings) for name in _RATES},
            searches=bool(searching),
        ),
    )


def bound(body: bytes, facts: ModelFacts, ceiling: Ceiling) -> Bound | Unbounded:
    """Return the bound of a body that says how long its answer may be and lets no other model answer, or its fault."""
    reading = read_body(body)
    if reading.models:
        return Unbounded("models", "a fallback model may cost more than the model")
    found = bound_of(reading, facts, ceiling)
    return unbounded(found, reading, facts, ceiling) or found


def unbounded(found: Bound, reading: Reading, facts: ModelFacts, ceiling: Ceiling) -> Unbounded | None:
    """Return what may cost more than `bound_of` found; None when that is a bound indeed."""
    if reading.unbounded is not None:
        return reading.unbounded
    if ceiling.searches and _SEARCHES_UNASKED.search(facts.id):
        return Unbounded("model", "the model searches the web unasked, for a price that depends on how often")
    if reading.output is None:
        return Unbounded("max_tokens", "nothing says how long the answer may become; set max_tokens")
    if reading.media and facts.context_length is None:
        return Unbounded("messages", "it holds more than text, and the model's context length is not known")
    if found.nano >= MAX_NANO:
        return Unbounded("model", "its price times its tokens is more than any call can cost")
    return None


def bound_of(reading: Reading, facts: ModelFacts, ceiling: Ceiling) -> Bound:
    """Return what the tokens, the images and the call can cost at most, as far as the reading tells."""
    prompt = prompt_tokens(reading, facts)
    rate = ceiling.prompt
    if reading.media:
        rate = ceiling.media
    elif reading.caches:
        rate = ceiling.cached
    output = reading.output or 0
    once = _UP.fma(ceiling.completion, output, _UP.fma(rate, prompt, ceiling.request))
    if reading.images:
        once = _UP.fma(ceiling.image, reading.images, once)
    nano = ceil(_UP.multiply(once, reading.answers * NANO))
    return Bound(min(nano, MAX_NANO), min((prompt + output) * reading.answers, MAX_NANO))


def prompt_tokens(reading: Reading, facts: ModelFacts) -> int:
    """Return the most tokens that go in: a byte is a token, and what is no text may fill the whole context."""
    if reading.media and facts.context_length is not None:
        return facts.context_length
    return reading.size + TEMPLATE_TOKENS + (TOOL_TOKENS if reading.tools else 0)


def default_output(reading: Reading, facts: ModelFacts) -> int | None:
    """Return the limit for an answer that has none: the model's own, as far as its context has room; None if unknown.

    A quarter of the context is always given: a prompt of so many bytes has far fewer tokens, and where it has not,
    the upstream refuses the call in words, which is better than an answer of one token.
    """
    context, limit = facts.context_length, facts.max_completion_tokens
    if context is None:
        return limit
    room = max(context - prompt_tokens(reading, facts), context // 4, 1)
    return room if limit is None else min(limit, room)


def max_price(ceiling: Ceiling) -> bytes | None:
    """Return the JSON for `provider.max_price`, USD per million tokens and per request; None when all is free.

    Whether OpenRouter compares cache and reasoning rates, and in what unit images, is not documented: so only the
    plain rates are in it. A ceiling of zero might fail even where the price is zero, so there is none.
    """
    rates = {
        "prompt": _UP.multiply(ceiling.list_prompt, _MILLION),
        "completion": _UP.multiply(ceiling.list_completion, _MILLION),
        "request": ceiling.request,
    }
    told = [f'"{name}":{rate.normalize(_UP):f}' for name, rate in rates.items() if rate]
    return f"{{{','.join(told)}}}".encode() if told else None


def _highest(rates: Iterable[Rate]) -> Decimal | None:
    """Return the highest rate and the margin; zero when none is named, None when one is unknown."""
    highest = Decimal(0)
    for rate in rates:
        if rate is UNSET:
            continue
        if not isinstance(rate, Decimal):
            return None
        highest = max(highest, rate)
    return _UP.multiply(highest, _MARGIN)
