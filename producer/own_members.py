"""Members of a body that are for us and are not sent: who may answer the line beside its model, and live tokens.

    fallback_models   models or aliases that are tried after the body's `model`, in that order
    strategy          by which the models are put in order, see `config.strategy`
    requirements      what a model must be, see `lines.Requirements`
    stream_to         true: the answer's tokens are to be seen while they come

A null counts as missing. What a line does not name, its batch may (`InputOptions`).
"""

import re
from functools import lru_cache
from typing import Final

import msgspec

from batchmill.config.spelling import nearest
from batchmill.config.strategy import Strategy
from batchmill.openrouter.capabilities import check_capability
from batchmill.openrouter.options import fault_in_models, fault_in_provider
from batchmill.producer.fields import Members, absent, kind_of, refuse
from batchmill.producer.lines import InputOptions, Requirements, Wish, check_fallbacks

OWN: Final = frozenset({"fallback_models", "strategy", "requirements", "stream_to"})

_TRUE, _FALSE = b"true", b"false"
_PRICES = ("max_input_price", "max_output_price")
_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `([^`]+)`")
_NUMBERS = {"int": "a positive integer", "decimal": "a number of USD for a million tokens"}
_EXPECTED = re.compile(r"Expected `(\w+)")

_encode = msgspec.json.Encoder().encode
_decode_names = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_requirements = msgspec.json.Decoder(Requirements).decode


def wish_of(body: Members, prefix: str, options: InputOptions) -> Wish | None:
    """Return what the body, and for what it does not name the batch, says of who may answer it; None for nothing."""
    batch = batch_wish(options)
    if OWN.isdisjoint(body):
        return batch
    fallbacks = _fallbacks_of(body, f"{prefix}fallback_models")
    strategy = _strategy_of(body, f"{prefix}strategy")
    requirements = _requirements_of(body, f"{prefix}requirements")
    if batch is not None:
        fallbacks = batch.fallbacks if fallbacks is None else fallbacks
        strategy = strategy or batch.strategy
    if not fallbacks and strategy is None and requirements is None:
        return None
    written = _written(fallbacks or (), strategy)
    if requirements is not None:
        written.append(b'"requirements":' + bytes(body["requirements"]))
    return Wish(fallbacks or (), strategy, requirements, b",".join(written))


def batch_wish(options: InputOptions) -> Wish | None:
    """Return what a batch says for lines that say nothing."""
    if not options.fallback and options.strategy is None:
        return None
    return _batch_wish(options.fallback, options.strategy)


def is_live(body: Members, prefix: str) -> bool:
    """Whether the line's tokens are to be seen while they come."""
    if absent(body, "stream_to"):
        return False
    raw = bytes(body["stream_to"])
    if raw not in (_TRUE, _FALSE):
        refuse(f"{prefix}stream_to", f"stream_to must be a boolean, not {kind_of(raw)}.")
    return raw == _TRUE


def check_openrouter(body: Members, prefix: str) -> None:
    """What OpenRouter alone understands, `models` and `provider`: it is sent as it is, but for what can't be right."""
    for name, fault_in in (("models", fault_in_models), ("provider", fault_in_provider)):
        fault = None if name not in body else fault_in(body[name])
        if fault is not None:
            refuse(f"{prefix}{fault.param}", f"{fault.param} must be {fault.reason}.")


@lru_cache(maxsize=64)
def _batch_wish(fallbacks: tuple[str, ...], strategy: Strategy | None) -> Wish:
    return Wish(fallbacks, strategy, None, b",".join(_written(fallbacks, strategy)))


def _written(fallbacks: tuple[str, ...], strategy: Strategy | None) -> list[bytes]:
    """Return the members that say so, in one way whatever the line's looked like: so that alike lines are alike."""
    members = [b'"fallback_models":' + _encode(fallbacks)] if fallbacks else []
    return members + ([b'"strategy":"%s"' % strategy.value.encode()] if strategy else [])


def _fallbacks_of(body: Members, param: str) -> tuple[str, ...] | None:
    if absent(body, "fallback_models"):
        return None
    try:
        fallbacks = _decode_names(body["fallback_models"])
        check_fallbacks(fallbacks)
    except msgspec.ValidationError:
        refuse(param, "fallback_models must be an array of strings, each a model's id or an alias.")
    except ValueError as error:
        refuse(param, f"{str(error)[:1].upper()}{str(error)[1:]}.")
    if not fallbacks:
        refuse(param, "fallback_models names no model; leave it out for none.")
    return fallbacks


def _strategy_of(body: Members, param: str) -> Strategy | None:
    if absent(body, "strategy"):
        return None
    raw = bytes(body["strategy"])
    if not raw.startswith(b'"'):
        refuse(param, f"strategy must be a string, not {kind_of(raw)}.")
    word = msgspec.json.decode(raw)
    try:
        return Strategy(word)
    except ValueError:
        hint = nearest(word, tuple(Strategy))
        refuse(param, f"strategy must be one of {', '.join(Strategy)}{hint}.")


def _requirements_of(body: Members, param: str) -> Requirements | None:
    if absent(body, "requirements"):
        return None
    raw = bytes(body["requirements"])
    if not raw.startswith(b"{"):
        refuse(param, f"requirements must be an object, not {kind_of(raw)}.")
    try:
        found = _decode_requirements(raw)
    except msgspec.ValidationError as error:
        _refuse_requirement(str(error), param)
    for word in found.needs:
        try:
            check_capability(word)
        except ValueError as error:
            refuse(f"{param}.needs", f"{str(error)[:1].upper()}{str(error)[1:]}.")
    for name in _PRICES:
        price = getattr(found, name)
        if price is not None and not (price.is_finite() and price >= 0):
            refuse(f"{param}.{name}", f"{name} must be {_NUMBERS['decimal']}.")
    return found


def _refuse_requirement(problem: str, param: str) -> None:
    unknown = _UNKNOWN.search(problem)
    if unknown:
        hint = nearest(unknown[1], Requirements.__struct_fields__)
        refuse(param, f"requirements has no member '{unknown[1]}'{hint}.")
    place = _PLACE.search(problem)
    name = place[1] if place else ""
    expected = _EXPECTED.match(problem)
    what = _NUMBERS.get(expected[1], "an array of strings") if expected else "an array of strings"
    refuse(f"{param}.{name}", f"{name} must be {what}.")
