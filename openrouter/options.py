"""OpenRouter's own options of a body, `models` and `provider`, typed: what is wrong in them is told before it is sent.

Fields and words after OpenRouter's schema of 2026-10-27 and its page on provider routing. Members that are not known
pass without complaint, and so do words whose list may grow.
"""

import re
from decimal import Decimal
from typing import Annotated, Final, Literal

import msgspec

from batchmill.openrouter.wire import UNREADABLE, is_absent

MAX_MODELS: Final = 3  # of `models`; OpenRouter answers 400 to more

FallbackModels = Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(max_length=MAX_MODELS)]
_Names = list[str] | None
_Number = float | None
_Dollars = Decimal | None


class Percentiles(msgspec.Struct):
    """A wish for each percentile."""

    p50: _Number = None
    p75: _Number = None
    p90: _Number = None
    p99: _Number = None


class Sort(msgspec.Struct):
    """By what endpoints are sorted, and whether over all models or for each."""

    by: Literal["price", "throughput", "latency", "exacto"] | None = None
    partition: Literal["model", "none"] | None = None


class PriceCaps(msgspec.Struct):
    """`max_price`: USD for a million tokens, and for one call, image or minute; numbers or strings with one."""

    prompt: _Dollars = None
    completion: _Dollars = None
    request: _Dollars = None
    image: _Dollars = None
    audio: _Dollars = None


class ProviderOptions(msgspec.Struct):
    """`provider`: who may serve a call, and in which order."""

    order: _Names = None
    only: _Names = None
    ignore: _Names = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: str | None = None
    zdr: bool | None = None
    enforce_distillable_text: bool | None = None
    quantizations: _Names = None
    sort: Literal["price", "throughput", "latency", "exacto"] | Sort | None = None
    preferred_min_throughput: float | Percentiles | None = None
    preferred_max_latency: float | Percentiles | None = None
    max_price: PriceCaps | None = None
    options: dict[str, msgspec.Raw] | None = None


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with an option: its path in the body, and what it must be, in words."""

    param: str
    reason: str


_decode_models = msgspec.json.Decoder(FallbackModels | None).decode
_decode_provider = msgspec.json.Decoder(ProviderOptions | None).decode
_PLACE: Final = re.compile(r" - at `\$([^`]*)`$")
_EXPECTED: Final = re.compile(r"Expected `([^`]+)`")
_TOO_LONG: Final = "of length <="
_KINDS: Final = {
    "str": "a string",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "float": "a number",
    "decimal": "a number",
}
_BY: Final = "one of price, throughput, latency and exacto"
_WORDS: Final = {".sort": _BY, ".sort.by": _BY, ".sort.partition": "model or none"}


def fault_in_models(raw: msgspec.Raw) -> Fault | None:
    """Return what is wrong with `models`; None when nothing is."""
    try:
        _decode_models(raw)
    except msgspec.ValidationError as error:
        place, reason = _told(error)
        if not place and _TOO_LONG in str(error):
            reason = f"an array of at most {MAX_MODELS} models, as OpenRouter takes no more; use fallback_models"
        return Fault(f"models{place}", reason)
    except UNREADABLE:
        return Fault("models", "an array of strings")
    return None


def fault_in_provider(raw: msgspec.Raw) -> Fault | None:
    """Return what is wrong with `provider`; None when nothing is."""
    try:
        _decode_provider(raw)
    except msgspec.ValidationError as error:
        place, reason = _told(error)
        return Fault(f"provider{place}", reason)
    except UNREADABLE:
        return Fault("provider", "an object")
    return None


def models_in(raw: msgspec.Raw) -> tuple[str, ...]:
    """Return the models of a `models` member, none for one that is absent. Raises msgspec.ValidationError."""
    return () if is_absent(raw) else tuple(_decode_models(raw) or ())


def _told(error: msgspec.ValidationError) -> tuple[str, str]:
    """Return the place below the member and what should be there, never what is."""
    text = str(error)
    found = _PLACE.search(text)
    place = found[1] if found else ""
    if place in _WORDS:
        return place, _WORDS[place]
    expected = _EXPECTED.match(text)
    kinds = expected[1].split(" | ") if expected else []
    words = [_KINDS.get(kind, "a number") for kind in kinds if kind != "null"]
    return place, " or ".join(dict.fromkeys(words)) or "of another value"
