"""How a line would go, for people and as JSON."""

import shutil
import textwrap
from typing import Any, Final

from batchmill.openrouter.money import dollars, usd_if_known
from batchmill.producer.explanation import Explanation, Way

_WIDEST: Final = 100
_INDENT: Final = " " * 4
_PERCENT: Final = 100


def in_full(found: Explanation) -> str:
    """Return the candidates in order, each with costs and reason, and then those that can't serve the line."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    parts = [_head(found)]
    for place, way in enumerate(found.ways, 1):
        parts += [f"{place:>2}. {way.model}", *(_wrapped(words, width) for words in (_costs(way), way.reason))]
        if any(0 < each.share < 1 for each in found.ways):
            parts.append(_wrapped(f"first for {_percent(way.share)} of such lines", width))
    if found.unfit:
        parts.append("left out:")
        for each in found.unfit:
            parts += [f"  - {each.model}", _wrapped(each.reason, width)]
    return "\n".join(parts)


def as_object(found: Explanation) -> dict[str, Any]:
    """Return the same for `--json`: money in USD, shares from 0 to 1, no `strategy` for a line that is not routed."""
    return {
        "custom_id": found.custom_id,
        "asked": found.asked,
        "strategy": found.strategy,
        "candidates": [
            {
                "model": way.model,
                "reason": way.reason,
                "first_share": way.share,
                "likely_cost_usd": usd_if_known(way.estimate),
                "max_cost_usd": usd_if_known(way.bound),
                "max_tokens": way.tokens,
            }
            for way in found.ways
        ],
        "unfit": [{"model": each.model, "reason": each.reason} for each in found.unfit],
    }


def _head(found: Explanation) -> str:
    if found.strategy is None:
        return f"{found.asked}: not routed"
    candidates = "1 candidate" if len(found.ways) == 1 else f"{len(found.ways)} candidates"
    left_out = f", {len(found.unfit)} left out" if found.unfit else ""
    return f"{found.asked}, by {found.strategy}: {candidates}{left_out}"


def _costs(way: Way) -> str:
    if way.bound is None:
        return "nobody knows what it costs: no price is known"
    likely = "" if way.estimate is None else f"likely {dollars(way.estimate)}, "
    return f"{likely}at most {dollars(way.bound)} and {way.tokens:,} tokens"


def _percent(share: float) -> str:
    """Return a share in per cent; what is not nothing is told with a decimal."""
    value = share * _PERCENT
    return f"{value:.0f} %" if value == round(value) else f"{value:.1f} %"


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(
        text, width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )
