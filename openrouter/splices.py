"""What is added to a body before it is sent, byte by byte where that is enough: all else stays as it was handed in."""

from decimal import Decimal
from typing import Any, Final

import msgspec

from batchmill.openrouter.wire import UNREADABLE

_ESCAPE: Final = b"\\u00"  # a key may be written with escapes

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def with_max_tokens(body: bytes, limit: int) -> bytes:
    """Return a body that sets no limit (or a null) with one."""
    text = b'"max_tokens":%d' % limit
    if b"max_tokens" not in body and _ESCAPE not in body:
        return _spliced(body, text)
    members = _members(body)
    members.pop("max_tokens", None)
    return _spliced(_encode(members), text)


def to_send(
    body: bytes, *, model: str | None = None, max_price: bytes | None = None, provider: bytes | None = None
) -> bytes:
    """Return what is sent: the body with the model chosen for it, the price that it may not exceed, and who may serve.

    `model` is for a body without one. `max_price` and `provider` are JSON objects: `Terms` or a `Road` hold them. What
    the body says of its provider itself holds, but for a higher price.
    """
    parts = [] if model is None else [b'"model":' + _encode(model)]
    if max_price is None and provider is None:
        return _spliced(body, *parts) if parts else body
    if b'"provider"' not in body and _ESCAPE not in body:
        return _spliced(body, *parts, b'"provider":' + _provider_of({}, max_price, provider))
    members = _members(body)
    own = _table(members.pop("provider", None)) or {}
    return _spliced(_encode(members), *parts, b'"provider":' + _provider_of(own, max_price, provider))


def without_model(body: bytes) -> bytes:
    """Return a body without its model, for a line whose model is chosen later."""
    members = _members(body)
    members.pop("model", None)
    return _encode(members)


def with_members(body: bytes, members: bytes) -> bytes:
    """Return a body with members (JSON without braces) that it does not have: a line as it was handed in."""
    return _spliced(body, members) if members else body


def _provider_of(own: dict[str, msgspec.Raw], max_price: bytes | None, provider: bytes | None) -> bytes:
    if not own and provider is None and max_price is not None:
        return b'{"max_price":%b}' % max_price
    merged = (_members(provider) if provider else {}) | own
    if max_price is not None:
        named = _table(own.get("max_price")) or {}
        prices = named | {name: _lower(named.get(name), rate) for name, rate in _members(max_price).items()}
        merged["max_price"] = msgspec.Raw(_encode(prices))
    return _encode(merged)


def _spliced(body: bytes, *members: bytes) -> bytes:
    head = body.rstrip()[:-1].rstrip()
    comma = b"" if head.endswith(b"{") else b","  # no value ends so: the object is empty
    return head + comma + b",".join(members) + b"}"


def _table(raw: msgspec.Raw | None) -> dict[str, msgspec.Raw] | None:
    if raw is None:
        return None
    try:
        return _members(raw)
    except UNREADABLE:
        return None


def _lower(own: msgspec.Raw | None, rate: msgspec.Raw) -> msgspec.Raw:
    """Return the lower of two prices, each a number or a string with one; what can't be read does not count."""
    value = _number(own)
    highest = _number(rate)
    return own if own is not None and value is not None and highest is not None and value < highest else rate


def _number(raw: msgspec.Raw | None) -> Decimal | None:
    if raw is None:
        return None
    try:
        value: Any = msgspec.json.decode(raw, type=Decimal)
    except UNREADABLE:
        return None
    return value if value.is_finite() and value >= 0 else None
