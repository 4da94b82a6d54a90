"""What a model can do, each with the field of the catalogue that says so.

Names of fields and parameters are those of `GET /models` (schema of 2026-10-27). Nothing is guessed from a model's
name: what no field says, it can't do, unless the model names no parameters at all, see `tells_parameters`.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from batchmill.config.spelling import nearest
from batchmill.openrouter.models import ModelFacts
from batchmill.openrouter.prices import decode_price

EFFORT: Final = "reasoning_effort:"
"""Begins a capability that names an effort, e.g. `reasoning_effort:high`."""

CAPABILITIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tools": "calls functions of the caller",
        "tool_choice": "can be told which function to call",
        "parallel_tool_calls": "can be told whether to call several functions at once",
        "structured_outputs": "answers by a JSON schema",
        "json_mode": "takes `response_format`, so that it answers in JSON",
        "reasoning": "thinks before it answers",
        "vision": "reads images",
        "audio": "listens",
        "video": "watches videos",
        "files": "reads files, e.g. PDF",
        "image_output": "draws",
        "audio_output": "speaks",
        "caching": "has a price of its own for prompts that are read from a cache",
        "logprobs": "tells how likely its tokens were",
        "seed": "takes a seed",
        "stop": "takes stop sequences",
        "web_search": "searches the web by itself (at a price of its own)",
        "streaming": "answers token by token",
    }
)
"""Every capability with what it means; beside them those that begin with EFFORT."""

_BY_PARAMETER: Final = (
    ("tools", "tools"),
    ("tool_choice", "tool_choice"),
    ("parallel_tool_calls", "parallel_tool_calls"),
    ("structured_outputs", "structured_outputs"),
    ("response_format", "json_mode"),
    ("include_reasoning", "reasoning"),
    ("reasoning", "reasoning"),
    ("logprobs", "logprobs"),
    ("seed", "seed"),
    ("stop", "stop"),
    ("web_search_options", "web_search"),
)
_BY_INPUT: Final = (("image", "vision"), ("audio", "audio"), ("video", "video"), ("file", "files"))
_BY_OUTPUT: Final = (("image", "image_output"), ("audio", "audio_output"))
_KEPT: Final = 2048  # models: a catalogue has about 500, and a refresh brings new values for all that changed


def capabilities(facts: ModelFacts) -> frozenset[str]:
    """Return the words of what a model can do, of CAPABILITIES and with its efforts."""
    return _known(facts)[0]


def evidence(facts: ModelFacts) -> Mapping[str, str]:
    """Return each capability of a model with the field of its catalogue entry that says so."""
    return _known(facts)[1]


def tells_parameters(facts: ModelFacts) -> bool:
    """Whether the model says what it takes at all; if not, a missing capability only means that nobody knows."""
    return bool(facts.parameters)


def check_capability(word: str) -> None:
    """Raise ValueError, which names the nearest known word, for one that is no capability."""
    if word not in CAPABILITIES and not (word.startswith(EFFORT) and len(word) > len(EFFORT)):
        raise ValueError(f"no capability is named '{word}'{nearest(word, tuple(CAPABILITIES))}")


@lru_cache(maxsize=_KEPT)
def _known(facts: ModelFacts) -> tuple[frozenset[str], Mapping[str, str]]:
    found = _by_lists(facts)
    if facts.reasoning is not None:
        found["reasoning"] = "reasoning"
        found.update((EFFORT + effort, "reasoning.supported_efforts") for effort in facts.reasoning.efforts)
    rates = decode_price(facts.pricing).base
    if isinstance(rates.input_cache_read, Decimal):
        found["caching"] = "pricing.input_cache_read"
    if isinstance(rates.web_search, Decimal) and rates.web_search > 0:  # "0" is named for models that can't, too
        found.setdefault("web_search", "pricing.web_search")
    return frozenset(found), MappingProxyType(found)


def _by_lists(facts: ModelFacts) -> dict[str, str]:
    found: dict[str, str] = {}
    parameters, inputs, outputs = facts.parameters, facts.input_modalities, facts.output_modalities
    for name, word in _BY_PARAMETER:
        if name in parameters:
            found[word] = f"supported_parameters: {name}"
    for name, word in _BY_INPUT:
        if name in inputs:
            found[word] = f"architecture.input_modalities: {name}"
    for name, word in _BY_OUTPUT:
        if name in outputs:
            found[word] = f"architecture.output_modalities: {name}"
    if not outputs:
        found["streaming"] = "every chat model does"
    elif "text" in outputs:
        found["streaming"] = "architecture.output_modalities: text"
    return found

