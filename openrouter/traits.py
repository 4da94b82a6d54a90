"""Who made a model, what line it comes of, and under which tags people look for it.

The catalogue names neither author nor family: the author is the first half of the id, the family is read off the name.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from batchmill.openrouter.capabilities import capabilities
from batchmill.openrouter.list_prices import list_price
from batchmill.openrouter.models import ModelFacts
from batchmill.openrouter.variants import is_alias, variant_of

LONG_CONTEXT: Final = 200_000
LONG_OUTPUT: Final = 64_000
CHEAP: Final = Decimal("0.5")

TAGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "free": "tokens and calls cost nothing",
        "cheap": f"less than ${CHEAP} for a million tokens, three read to one written, but not free",
        "unpriced": "no usable price for prompt or completion",
        "tiered": "other prices for long prompts or at certain hours",
        "reasoning": "thinks before it answers",
        "multimodal": "reads more than text",
        "long_context": f"takes {LONG_CONTEXT:,} tokens or more",
        "long_output": f"answers with {LONG_OUTPUT:,} tokens or more",
        "code": "its name says that it is made for code",
        "open_weights": "names its weights on Hugging Face",
        "moderated": "the provider moderates prompts",
        "expiring": "names a date after which it may be removed",
        "preview": "its name says preview, beta, alpha or experimental",
        "router": "passes lines on to other models",
        "batch": "an entry of OpenRouter's Batch API",
        "alias": "stands for a model that changes with time",
    }
)
"""Every tag with its rule."""

_ROUTERS: Final = ("openrouter/auto", "openrouter/auto-beta", "openrouter/free")
_CODE: Final = re.compile(r"(?<![a-z])(code|coder|codex|codestral|devstral|starcoder|codellama)(?![a-z])")
_PREVIEW: Final = re.compile(r"(?<![a-z])(preview|beta|alpha|exp|experimental)(?![a-z])")
_FAMILIES: Final = (
    ("gpt", "gpt|chatgpt|codex"), ("claude", "claude"), ("gemini", "gemini"), ("gemma", "gemma"),
    ("llama", "llama|codellama"), ("qwen", "qwen|qwq|qvq"), ("deepseek", "deepseek"),
    ("mistral", "mistral|mixtral|ministral|codestral|devstral|magistral|pixtral|voxtral"), ("grok", "grok"),
    ("nova", "nova"), ("command", "command"), ("glm", "glm"), ("kimi", "kimi"), ("phi", "phi"),
    ("minimax", "minimax"), ("ernie", "ernie"), ("jamba", "jamba"), ("granite", "granite"), ("nemotron", "nemotron"),
    ("olmo", "olmo"), ("hunyuan", "hunyuan"), ("sonar", "sonar"), ("mercury", "mercury"), ("lfm", "lfm"),
    ("solar", "solar"), ("cogito", "cogito"), ("inflection", "inflection"), ("seed", "seed"),
)  # fmt: skip
_FAMILY: Final = re.compile("|".join(rf"(?P<{family}>(?<![a-z])(?:{words}))" for family, words in _FAMILIES))
_TOKENIZERS: Final = {
    "gpt": "gpt", "claude": "claude", "gemini": "gemini", "mistral": "mistral", "deepseek": "deepseek", "grok": "grok",
    "nova": "nova", "cohere": "command", "llama": "llama", "qwen": "qwen",
}  # fmt: skip
_KEPT: Final = 2048  # models: a catalogue has about 500


def author_of(model_id: str) -> str:
    """Return who made a model, as its id says."""
    return model_id.removeprefix("~").partition("/")[0]


def author_name(facts: ModelFacts) -> str:
    """Return the author as people write it: `OpenAI: GPT-4o` is by OpenAI. Without such a name, as the id says."""
    name, colon, _ = facts.name.partition(": ")
    return name if colon else author_of(facts.id)


def family_of(facts: ModelFacts) -> str:
    """Return the line that a model comes of, `other` when neither its name nor its tokenizer tells.

    The name goes first: `nvidia/llama-3.1-nemotron` is a llama, whatever its tokenizer is called.
    """
    found = _FAMILY.search(facts.id.partition("/")[2])
    if found and found.lastgroup:
        return found.lastgroup
    return _TOKENIZERS.get((facts.tokenizer or "").lower().rstrip("0123456789."), "other")


def is_router(facts: ModelFacts) -> bool:
    """Whether it is no model but passes lines on to others, at prices that nobody knows before."""
    return facts.tokenizer == "Router" or facts.id in _ROUTERS


@lru_cache(maxsize=_KEPT)
def tags_of(facts: ModelFacts) -> frozenset[str]:
    """Return the tags of a model; TAGS tells the rule of each."""
    price = list_price(facts.pricing)
    blended = price.blended
    held = {
        "free": price.free,
        "cheap": blended is not None and blended < CHEAP and not price.free,
        "unpriced": blended is None,
        "tiered": bool(price.price.overrides),
        "reasoning": "reasoning" in capabilities(facts),
        "multimodal": any(kind != "text" for kind in facts.input_modalities),
        "long_context": (facts.context_length or 0) >= LONG_CONTEXT,
        "long_output": (facts.max_completion_tokens or 0) >= LONG_OUTPUT,
        "code": _CODE.search(facts.id.lower()) is not None,
        "open_weights": bool(facts.hugging_face_id),
        "moderated": facts.moderated is True,
        "expiring": facts.expires is not None,
        "preview": _PREVIEW.search(facts.id.lower()) is not None,
        "router": is_router(facts),
        "batch": variant_of(facts.id) == "batch",
        "alias": is_alias(facts),
    }
    return frozenset(tag for tag, holds in held.items() if holds)
