"""What the rules of the policy share: how a table is read, and which names and amounts can be meant."""

import re
from decimal import Decimal

import msgspec

MAX_NAME = 64
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_EXACT_DIGITS = 28  # in all; what is longer, decimal arithmetic rounds


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the TOML file."""


def check_name(kind: str, name: str) -> None:
    """Raise ValueError for a name that can't be a part of a key."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"{kind} '{name}': a name has letters, digits, _ . - and at most {MAX_NAME} of them")


def check_money(key: str, usd: Decimal, most: int, digits: int) -> None:
    """Raise ValueError for what is no amount from 0 to `most` dollars with at most so many decimal places."""
    if not (usd.is_finite() and 0 <= usd <= most):
        raise ValueError(f"{key} must be a number of dollars from 0 to {most:,}, not {usd}")
    exact = len(usd.as_tuple().digits) <= _EXACT_DIGITS
    if not exact or usd.normalize().as_tuple().exponent < -digits:  # type: ignore[operator]  # finite: a number
        raise ValueError(f"{key} has more than {digits} decimal places: {usd}")
