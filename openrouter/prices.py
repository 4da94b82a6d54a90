"""What a call costs: a model's `pricing` object as a value, and the bill of one call as a pure function.

OpenRouter states prices as decimal strings, USD per token or per unit, in `GET /models` and in each endpoint. Three
states differ and stay apart: a rate that is *not named* (`UNSET`: something else is charged instead), one that is
*unknown* (None: negative, "-1", missing though required, or unreadable), and a number. Nothing here is a float.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Context, Decimal, InvalidOperation
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from batchmill.openrouter.wire import UNREADABLE

Rate = Decimal | None | UnsetType

# wide enough for every product and sum of a readable rate and a token count, so that no bill is ever rounded
_EXACT = Context(prec=120)
_MAX_DIGITS = 40
_MAX_RATE = Decimal(1_000_000)  # USD for one token or one call: beyond it, it is no price
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")  # as datetime.weekday() counts
_END_OF_DAY = 2400  # HHMM

_decoder = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What one token (or call, or image) costs in USD; see the module for what UNSET and None mean.

    `bill` looks at those up to `input_cache_write`; a bound looks at all of them.
    """

    prompt: Rate = UNSET
    completion: Rate = UNSET
    request: Rate = UNSET
    image: Rate = UNSET
    internal_reasoning: Rate = UNSET
    input_cache_read: Rate = UNSET
    input_cache_write: Rate = UNSET
    input_cache_write_1h: Rate = UNSET
    audio: Rate = UNSET
    image_token: Rate = UNSET
    image_output: Rate = UNSET
    audio_output: Rate = UNSET
    web_search: Rate = UNSET


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """Rates that replace the base ones while all conditions hold. Times are UTC as HHMM, the end exclusive."""

    rates: Rates
    min_prompt_tokens: int | None = None  # must be exceeded
    days: frozenset[int] | None = None  # 0 = Monday
    start: int | None = None
    end: int | None = None

    def applies(self, prompt_tokens: int, at: datetime) -> bool:
        """Tell whether all conditions hold for a call with this prompt at this instant."""
        if self.min_prompt_tokens is not None and prompt_tokens <= self.min_prompt_tokens:
            return False
        instant = at.astimezone(UTC)
        if self.days is not None and instant.weekday() not in self.days:
            return False
        if self.start is None and self.end is None:
            return True
        start, end = self.start or 0, _END_OF_DAY if self.end is None else self.end
        now = instant.hour * 100 + instant.minute
        return start <= now < end if start < end else (now >= start or now < end)


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """A model's or an endpoint's price. `discount` is a share of every rate, None when it can't be read."""

    base: Rates
    overrides: tuple[Override, ...] = ()
    discount: Decimal | None = Decimal(0)


class Billable(msgspec.Struct, frozen=True, kw_only=True):
    """What a call is billed for. Cached and written tokens are part of the prompt's, reasoning of the completion's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    images: int = 0


class Bill(msgspec.Struct, frozen=True):
    """One call's cost in USD, exact: the input with its cache and images, the output, and the call itself."""

    prompt: Decimal
    completion: Decimal
    request: Decimal

    @property
    def total(self) -> Decimal:
        """The sum, exact."""
        return _EXACT.add(_EXACT.add(self.prompt, self.completion), self.request)


def decode_price(pricing: bytes | msgspec.Raw) -> Price:
    """Read a `pricing` object from its JSON text. Whatever can't be read becomes an unknown rate, never an error."""
    try:
        return price_of(_decoder.decode(pricing))
    except UNREADABLE:
        return price_of({})


def price_of(pricing: Mapping[str, Any]) -> Price:
    """Read a `pricing` object whose numbers, if any, were decoded as int or Decimal."""
    base = _rates(pricing)
    required = {name: None for name in ("prompt", "completion") if getattr(base, name) is UNSET}
    overrides = pricing.get("overrides") or ()
    if not isinstance(overrides, list | tuple):
        overrides = ({"prompt": None, "completion": None},)
    return Price(
        base=msgspec.structs.replace(base, **required),
        overrides=tuple(_override(entry) for entry in overrides),
        discount=_discount(pricing.get("discount", 0)),
    )


def rates_at(price: Price, prompt_tokens: int, at: datetime) -> Rates:
    """Return the rates in force: later overrides win key by key, and what they don't name is inherited."""
    named: dict[str, Rate] = {}
    for override in price.overrides:
        if override.applies(prompt_tokens, at):
            named.update(
                (name, rate) for name, rate in msgspec.structs.asdict(override.rates).items() if rate is not UNSET
            )
    return msgspec.structs.replace(price.base, **named) if named else price.base


def bill(price: Price, usage: Billable, at: datetime) -> Bill | None:
    """Bill one call as OpenRouter does, item by item; None when a rate that it needs is unknown.

    `at` must know its time zone. A cache rate that is not named costs as much as a plain prompt token; a reasoning
    rate that is not named or zero as much as a completion token, because the catalogue names it "0" for every model
    without a rate of its own.
    """
    if at.tzinfo is None:
        raise ValueError("a bill needs an instant with a time zone")
    rates = rates_at(price, usage.prompt_tokens, at)
    plain = max(0, usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens)
    visible = max(0, usage.completion_tokens - usage.reasoning_tokens)
    reasoning = rates.completion if rates.internal_reasoning == 0 else rates.internal_reasoning
    prompt = _sum(
        (plain, rates.prompt),
        (usage.cached_tokens, _first(rates.input_cache_read, rates.prompt)),
        (usage.cache_write_tokens, _first(rates.input_cache_write, rates.prompt)),
        (usage.images, _first(rates.image, Decimal(0))),
    )
    completion = _sum(
        (visible, rates.completion),
        (usage.reasoning_tokens, _first(reasoning, rates.completion)),
    )
    request = _sum((1, _first(rates.request, Decimal(0))))
    if prompt is None or completion is None or request is None or price.discount is None:
        return None
    if not price.discount:
        return Bill(prompt, completion, request)
    share = _EXACT.subtract(Decimal(1), price.discount)
    return Bill(_EXACT.multiply(prompt, share), _EXACT.multiply(completion, share), _EXACT.multiply(request, share))


def cost(price: Price, usage: Billable, at: datetime) -> Decimal | None:
    """Return what one call costs in USD, exact and unrounded; None when a rate that it needs is unknown."""
    billed = bill(price, usage, at)
    return None if billed is None else billed.total


def _first(rate: Rate, otherwise: Rate) -> Rate:
    return otherwise if rate is UNSET else rate


def _sum(*items: tuple[int, Rate]) -> Decimal | None:
    total = Decimal(0)
    for count, rate in items:
        if not count:
            continue
        if not isinstance(rate, Decimal):
            return None
        total = _EXACT.fma(rate, count, total)
    return total


def _rates(entry: Mapping[str, Any]) -> Rates:
    return Rates(**{name: _rate(entry[name]) for name in Rates.__struct_fields__ if name in entry})


def _rate(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        rate = Decimal(value)
    except InvalidOperation:
        return None
    if not rate.is_finite() or rate < 0 or rate > _MAX_RATE:
        return None
    _, digits, exponent = rate.as_tuple()
    if len(digits) > _MAX_DIGITS or not isinstance(exponent, int) or abs(exponent) > _MAX_DIGITS:
        return None
    return rate


def _discount(value: object) -> Decimal | None:
    discount = Decimal(0) if value is None else _rate(value)
    return discount if discount is not None and discount <= 1 else None


def _override(entry: object) -> Override:
    """Read one override. One whose conditions can't be read may apply at any time, so what it names is unknown."""
    if not isinstance(entry, dict):
        return Override(rates=Rates(prompt=None, completion=None))
    rates = _rates(entry)
    try:
        conditions = msgspec.convert(entry, _Conditions)
        days = None if conditions.utc_days is None else frozenset(_DAYS.index(day) for day in conditions.utc_days)
    except (msgspec.ValidationError, ValueError):
        named = {name: None for name, rate in msgspec.structs.asdict(rates).items() if rate is not UNSET}
        return Override(rates=Rates(**named))
    return Override(
        rates=rates,
        min_prompt_tokens=conditions.min_prompt_tokens,
        days=days,
        start=conditions.utc_start,
        end=conditions.utc_end,
    )


class _Conditions(msgspec.Struct):
    min_prompt_tokens: int | None = None
    utc_days: list[str] | None = None
    utc_start: int | None = None
    utc_end: int | None = None
