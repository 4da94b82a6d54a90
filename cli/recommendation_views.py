"""What could be saved, for people and as JSON."""

import shutil
import textwrap
from decimal import Decimal
from typing import Any, Final

import msgspec

from batchmill.openrouter.list_prices import ListPrice, usd_text
from batchmill.openrouter.money import dollars, to_nano, to_usd
from batchmill.spend.recommendations import Advice, Caching, Findings, Kind, Option, best_of
from batchmill.spend.usage import moment

_WIDEST: Final = 100
_INDENT: Final = " " * 4
_KINDS: Final = {Kind.MODEL: "", Kind.FREE: " (free)", Kind.BATCH: " (Batch API)"}


def in_full(findings: Findings, limit: int) -> str:
    """Return the options, the largest saving first, each with its evidence; then what caching can save, and the rest.

    Of each model the best `limit` of each kind are shown.
    """
    shown = _shortened(findings, limit)
    parts = []
    for place, (advice, option) in enumerate(shown.ranked(), 1):
        parts.append(f"{place:>2}. save {dollars(option.saving)}: {advice.usage.model} -> {_named(option)}")
        parts += [_wrapped(words) for words in _evidence(advice, option)]
    for advice in shown.advice:
        if advice.caching is not None:
            parts.append(_wrapped(_cached(advice, advice.caching), indent=""))
    parts += [_wrapped(_told(advice), indent="") for advice in shown.advice]
    return "\n".join(parts)


def foot(findings: Findings, catalogue: str) -> str:
    """Say below the options what they are of, and what they are not."""
    if not findings.advice:
        told = ["nothing to reckon with: no call of these days told its tokens and its cost"]
    else:
        told = [
            f"prices of {catalogue}",
            "each is instead of the others: they don't add up; quality is not judged, so try a sample first",
        ]
    left = findings.unusable
    if left.requests:
        told.append(f"left out: {_calls(left.requests)} ({dollars(left.paid)}) that failed, or whose cost nobody told")
    return "\n".join(told)


def as_object(findings: Findings, limit: int) -> dict[str, Any]:
    """Return the same for `--json`: money in USD, prices in USD for a million tokens, times in unix milliseconds."""
    return {
        "models": [_advice_object(advice) for advice in _shortened(findings, limit).advice],
        "left_out": {"requests": findings.unusable.requests, "paid_usd": to_usd(findings.unusable.paid)},
        "quality_judged": False,
    }


def _shortened(findings: Findings, limit: int) -> Findings:
    advice = (msgspec.structs.replace(one, options=tuple(best_of(one.options, limit))) for one in findings.advice)
    return msgspec.structs.replace(findings, advice=tuple(advice))


def _named(option: Option) -> str:
    return f"{option.item.id}{_KINDS[option.kind]}"


def _evidence(advice: Advice, option: Option) -> list[str]:
    total, usage = advice.total, advice.usage
    days = " to ".join(dict.fromkeys(moment(at).strftime("%Y-%m-%d") for at in (usage.first, usage.last)))
    calls = _calls(total.requests)
    if option.requests < total.requests:
        calls = f"{option.requests:,} of {calls}"
    tokens = f"{total.prompt:,} prompt tokens ({total.cached:,} cached) + {total.completion:,} answer tokens"
    today = "" if advice.today is None else f", {_usd(advice.today)} at its price today"
    return [
        f"{calls}, {days}, in all {tokens}",
        f"paid {dollars(total.paid)}{today}; there {_usd(option.cost)}",
        f"a million tokens: {_price(advice.price)}; there {_price(option.item.price)}",
        *(f"- {caveat}" for caveat in option.caveats),
    ]


def _cached(advice: Advice, caching: Caching) -> str:
    return (
        f"caching: {advice.usage.model} read {caching.uncached:,} prompt tokens that no cache held; each million of "
        f"them from the cache saves {usd_text(caching.for_million)}, all of them {dollars(caching.most)} at most. "
        "Nobody knows how much of the prompts repeats, and writing to the cache may cost"
    )


def _told(advice: Advice) -> str:
    """Say what another model had to have."""
    model = advice.usage.model
    if advice.unknown:
        return f"{model}: {advice.unknown}; name what its lines need with --needs"
    words = ", ".join(sorted(advice.needs)) or "nothing but text"
    source = "as you say" if advice.told else "all that it can do, as no record says what was asked for: see --needs"
    return (
        f"{model}: {advice.fitting:,} of {advice.considered:,} other models fit, with a context of "
        f"{advice.usage.context:,} tokens, answers of {advice.usage.answer:,}, and {words} ({source}); "
        f"{len(advice.options):,} shown"
    )


def _price(price: ListPrice | None) -> str:
    if price is None or price.input is None or price.output is None:
        return "unknown"
    if price.free:
        return "free"
    cached = f", {usd_text(price.cache_read)} cached" if price.cache_read else ""
    call = f", {usd_text(price.request)} a call" if price.request else ""
    return f"{usd_text(price.input)} in{cached}, {usd_text(price.output)} out{call}"


def _advice_object(advice: Advice) -> dict[str, Any]:
    usage, total = advice.usage, advice.total
    return {
        "model": usage.model,
        "requests": total.requests,
        "prompt_tokens": total.prompt,
        "cached_tokens": total.cached,
        "completion_tokens": total.completion,
        "reasoning_tokens": total.reasoning,
        "first_at_ms": usage.first,
        "last_at_ms": usage.last,
        "context_used": usage.context,
        "longest_answer": usage.answer,
        "needs": sorted(advice.needs),
        "needs_source": "told" if advice.told else "upper_bound",
        "unknown": advice.unknown,
        "paid_usd": to_usd(total.paid),
        "price_today_usd": advice.today,
        "reckoned_from_usd": advice.basis,
        "prices": _price_object(advice.price),
        "considered": advice.considered,
        "fitting": advice.fitting,
        "options": [_option_object(option) for option in advice.options],
        "caching": None if advice.caching is None else _caching_object(advice.caching),
    }


def _option_object(option: Option) -> dict[str, Any]:
    return {
        "model": option.item.id,
        "kind": option.kind.value,
        "saving_usd": to_usd(option.saving),
        "cost_usd": option.cost,
        "requests": option.requests,
        "prices": _price_object(option.item.price),
        "caveats": option.caveats,
    }


def _caching_object(caching: Caching) -> dict[str, Any]:
    return {
        "uncached_tokens": caching.uncached,
        "saving_for_million_usd": caching.for_million,
        "saving_at_most_usd": to_usd(caching.most),
    }


def _price_object(price: ListPrice | None) -> dict[str, Decimal | None] | None:
    if price is None:
        return None
    return {"input": price.input, "output": price.output, "cache_read": price.cache_read, "request": price.request}


def _usd(usd: Decimal) -> str:
    return dollars(to_nano(usd))


def _calls(count: int) -> str:
    return f"{count:,} call" if count == 1 else f"{count:,} calls"


def _wrapped(text: str, indent: str = _INDENT) -> str:
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    rest = f"{indent}  " if text.startswith("- ") else indent
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
