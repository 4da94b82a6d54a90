"""What a model is listed at, in USD for a million tokens, as people compare it. What a call costs is in `prices`."""

from decimal import Context, Decimal
from functools import lru_cache
from typing import Final

import msgspec

from batchmill.openrouter.prices import Price, Rate, decode_price

MILLION: Final = 1_000_000
BLEND: Final = (3, 1)
"""Prompt tokens to completion tokens of the blended price, which is a custom of comparisons and no fact of the API."""

_WIDE: Final = Context(prec=60)  # a rate has up to 40 digits
_KEPT: Final = 2048  # prices: a catalogue has about 500


class ListPrice(msgspec.Struct, frozen=True, kw_only=True):
    """Base rates less the discount. Tokens in USD a million, a request or an image in USD; None: not named, or unknown.

    Dearer long prompts and hours (`price.overrides`) are not in these numbers.
    """

    price: Price
    input: Decimal | None = None
    output: Decimal | None = None
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    request: Decimal | None = None
    image: Decimal | None = None

    @property
    def blended(self) -> Decimal | None:
        """USD for a million tokens of BLEND; None when a rate is unknown."""
        if self.input is None or self.output is None:
            return None
        prompts, completions = BLEND
        total = _WIDE.add(_WIDE.multiply(self.input, prompts), _WIDE.multiply(self.output, completions))
        return _WIDE.divide(total, prompts + completions)

    @property
    def free(self) -> bool:
        """Whether neither tokens nor the call cost anything, at any time."""
        rates = [self.price.base, *(override.rates for override in self.price.overrides)]
        named = [rate for one in rates for rate in (one.prompt, one.completion, one.request)]
        return self.input == 0 and all(rate == 0 or rate is msgspec.UNSET for rate in named)


@lru_cache(maxsize=_KEPT)
def list_price(pricing: bytes) -> ListPrice:
    """Read the `pricing` object of a model or an endpoint; what can't be read is None, never an error."""
    price = decode_price(pricing)
    base = price.base
    share = None if price.discount is None else Decimal(1) - price.discount
    return ListPrice(
        price=price,
        input=_listed(base.prompt, share, MILLION),
        output=_listed(base.completion, share, MILLION),
        cache_read=_listed(base.input_cache_read, share, MILLION),
        cache_write=_listed(base.input_cache_write, share, MILLION),
        reasoning=_listed(base.internal_reasoning, share, MILLION) or None,  # "0" says: as other answer tokens
        request=_listed(base.request, share, 1) or None,
        image=_listed(base.image, share, 1) or None,
    )


def _listed(rate: Rate, share: Decimal | None, units: int) -> Decimal | None:
    if not isinstance(rate, Decimal) or share is None:
        return None
    return _WIDE.multiply(_WIDE.multiply(rate, share), units)
