"""Numbers, money and times as people read them at a glance; the exact value is in the element's title. Pure.

Each is a filter of the templates.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
from markupsafe import Markup, escape

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_COMPACT = 100_000  # from here on a count is shortened
_STEPS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))
_TENTH = Decimal("0.1")
_GRAIN = Decimal("0.000001")  # dollars; less is said to be less
_LARGE = Decimal(10_000)
_NONE = Markup('<span class="none" title="not known">&ndash;</span>')
_SECOND_MS = 1000


def usd(value: Decimal | None) -> Markup:
    """Return an amount of dollars: two decimals, or two digits that count of what is below a cent."""
    if value is None:
        return _NONE
    return _figure(dollars(value), f"${value:f}", value)


def dollars(value: Decimal) -> str:
    """Return an amount as plain text."""
    size, sign = abs(value), "-" if value < 0 else ""
    if not size:
        return "$0"
    if size >= _LARGE:
        return f"{sign}${size:,.0f}"
    if size >= _TENTH:
        return f"{sign}${size:,.2f}"
    if size < _GRAIN:
        return f"{sign}<$0.000001"
    digits = f"{size:.1e}"  # rounded first: 0.0000996 is 0.00010, not 0.000100
    return f"{sign}${Decimal(digits):f}"


def count(value: int | None) -> Markup:
    """Return a number of things, from a hundred thousand on in three digits."""
    if value is None:
        return _NONE
    return _figure(short(value), f"{value:,}", value)


def short(value: int) -> str:
    """Return a number of things as plain text."""
    if abs(value) < _COMPACT:
        return f"{value:,}"
    for step, unit in _STEPS:
        if abs(value) >= step:
            part = value / step
            return f"{part:.{max(0, 2 - (len(str(int(abs(part)))) - 1))}f}{unit}"
    return str(value)


def rate(value: float | None) -> Markup:
    """Return so many a second."""
    if value is None:
        return _NONE
    return _figure(f"{value:,.0f}" if value >= 100 else f"{value:.1f}", f"{value:g} each second", value)  # noqa: PLR2004 - three digits


def millis(value: float | None) -> Markup:
    """Return a time in milliseconds as ms or s."""
    if value is None:
        return _NONE
    text = f"{value:.0f} ms" if value < _SECOND_MS else f"{value / _SECOND_MS:.1f} s"
    return _figure(text, f"{value:,.1f} ms", value)


def percent(part: Decimal | float | None, whole: Decimal | float = 1) -> str | Markup:
    """Return a share in per cent, rounded down, so that 100 % means all; never 0 for what is not nothing."""
    if part is None:
        return _NONE
    if not whole:
        return "0 %"
    share = float(part) / float(whole) * 100
    return "<1 %" if 0 < share < 1 else f"{int(share)} %"


def duration(seconds: float) -> str:
    """Return a duration in its largest two units."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def ago(at: int | None) -> Markup:
    """Return how long ago, or in how long; unix seconds."""
    if at is None:
        return _NONE
    distance = time.time() - at
    near = abs(distance) < 2  # noqa: PLR2004 - seconds, in which clocks may differ
    text = "now" if near else f"{duration(distance)} ago" if distance > 0 else f"in {duration(-distance)}"
    return _time(at, text)


def moment(at: int | None) -> Markup:
    """Return a time of the day with its date (UTC); unix seconds."""
    if at is None:
        return _NONE
    return _time(at, datetime.fromtimestamp(at, UTC).strftime("%d %b %H:%M:%S"))


def pretty(value: object) -> str:
    """Return JSON as people read it."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def prose(value: str) -> Markup:
    """Return a sentence of ours; what stands between backticks is code."""
    parts = str(value).split("`")
    if len(parts) % 2 == 0:
        return escape(value)
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))


def plain(value: object) -> str:
    """Return a value out of JSON in a line, without its brackets."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(one) for one in value)
    return "none" if value is None else str(value)


def words(value: str) -> str:
    """Return an identifier as words."""
    return value.replace("_", " ").replace(".", ": ")


def _figure(text: str, exact: str, value: object) -> Markup:
    return Markup('<data value="{}" title="{}">{}</data>').format(value, exact, text)


def _time(at: int, text: str) -> Markup:
    when = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        when.isoformat(), when.strftime("%Y-%m-%d %H:%M:%S"), text
    )


FILTERS = {
    "usd": usd,
    "count": count,
    "short": short,
    "dollars": dollars,
    "rate": rate,
    "millis": millis,
    "percent": percent,
    "duration": duration,
    "ago": ago,
    "moment": moment,
    "words": words,
    "pretty": pretty,
    "prose": prose,
    "plain": plain,
}
