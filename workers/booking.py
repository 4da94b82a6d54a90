"""What a call's end means for the money: pure, values in, values out."""

from datetime import UTC, datetime
from functools import lru_cache

import msgspec
import structlog

from batchmill.openrouter.bounds import MAX_NANO
from batchmill.openrouter.money import to_nano
from batchmill.openrouter.outcomes import Answer, Billed, Fault, Outcome, Usage
from batchmill.openrouter.prices import Billable, bill, decode_price
from batchmill.store import settlement as money
from batchmill.store.settlement import Settlement
from batchmill.workers.line import Hold, LineRun

log = structlog.get_logger()

_NO_USAGE = Usage()
_MILLISECONDS = 1000
_read_price = lru_cache(maxsize=1024)(decode_price)


def priced(outcome: Outcome, pricing: bytes | None) -> Outcome:
    """Return the outcome with its cost: as the upstream told it, else as its tokens cost by the price we know."""
    if outcome.cost is not None or pricing is None or outcome.usage in (None, _NO_USAGE):
        return outcome
    try:
        cost = _bill(pricing, outcome.usage or _NO_USAGE)
    except Exception:
        log.exception("bill.broke")  # a paid answer is kept, whatever its price makes of us; its bound is suspect
        return outcome
    return outcome if cost is None else msgspec.structs.replace(outcome, cost=cost)


def _bill(pricing: bytes, usage: Usage) -> int | None:
    billed = bill(
        _read_price(pricing),
        Billable(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        ),
        datetime.now(UTC),
    )
    return None if billed is None else min(to_nano(billed.total), MAX_NANO)


def settlement(run: LineRun, hold: Hold, outcome: Outcome) -> Settlement:
    """Return what a call's end means for the money: what it cost, or that nobody knows."""
    slow_after = hold.rules.breaker.slow_seconds
    slow = slow_after is not None and outcome.latency_ms > slow_after * _MILLISECONDS
    cost, used = outcome.cost, _used(outcome.usage)
    if isinstance(outcome, Answer):
        spoke = money.Outcome.ANSWERED
    else:
        spoke = money.Outcome.FAILED if outcome.fault is Fault.PROVIDER else money.Outcome.NOTHING
        if outcome.billed is Billed.NO:
            cost, used = cost or 0, used or 0
    return Settlement(hold.id, run.bound, cost, used, spoke, slow, outcome.generation_id or run.generation)


def unknown(run: LineRun, hold: Hold) -> Settlement:
    """Return what a call means for the money that was given up: nobody knows, unless its stream had told."""
    cost, used = (run.told.cost, _used(run.told.usage)) if run.told else (None, None)
    return Settlement(hold.id, run.bound, cost, used, generation=run.generation)


def _used(usage: Usage | None) -> int | None:
    return None if usage is None or usage == _NO_USAGE else usage.prompt_tokens + usage.completion_tokens
