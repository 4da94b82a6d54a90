"""What a call's end means for the money: pure, values in, values out."""

import re
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b

import msgspec
import structlog

from batchmill.openrouter.bounds import MAX_NANO
from batchmill.openrouter.money import to_nano
from batchmill.openrouter.outcomes import Answer, Billed, Fault, Outcome, Usage
from batchmill.openrouter.prices import Billable, bill, decode_price
from batchmill.store import settlement as money
from batchmill.store.ledger import OK, Source, UsageRecord
from batchmill.store.settlement import Settlement
from batchmill.workers.line import Hold, LineRun

log = structlog.get_logger()

_NO_USAGE = Usage()
_MILLISECONDS = 1000
_MOST_TOKENS = 2**50  # a call; what an upstream tells beyond it would part the books
_USER = re.compile(rb'"user"\s*:')  # the member, not the role
_USER_BYTES = 16
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


def settlement(
    run: LineRun, hold: Hold, outcome: Outcome, *, computed: bool = False, user_key: bytes | None = None
) -> Settlement:
    """Return what a call's end means for the money: what it cost (`computed`: by our prices), or that nobody knows.

    `user_key` is what the body's `user` is hashed with, None as long as it is not known.
    """
    slow_after = hold.rules.breaker.slow_seconds
    slow = slow_after is not None and outcome.latency_ms > slow_after * _MILLISECONDS
    cost, used = outcome.cost, _used(outcome.usage)
    record: UsageRecord | None = _record(run, hold, cost, outcome.usage, computed=computed, user_key=user_key)
    if isinstance(outcome, Answer):
        spoke = money.Outcome.ANSWERED
    else:
        spoke = money.Outcome.FAILED if outcome.fault is Fault.PROVIDER else money.Outcome.NOTHING
        if outcome.billed is Billed.NO:
            record = None if cost is None else record
            cost, used = cost or 0, used or 0
    if record is not None:
        record = _ended(record, outcome)
    return Settlement(hold.id, run.bound, cost, used, spoke, slow, outcome.generation_id or run.generation, record)


def unknown(run: LineRun, hold: Hold, user_key: bytes | None = None) -> Settlement:
    """Return what a call means for the money that was given up: nobody knows, unless its stream had told."""
    usage = run.told.usage if run.told else None
    cost, used = (run.told.cost, _used(usage)) if run.told else (None, None)
    record = _record(run, hold, cost, usage, computed=False, user_key=user_key)
    return Settlement(hold.id, run.bound, cost, used, generation=run.generation, record=record)


def _record(
    run: LineRun, hold: Hold, cost: int | None, usage: Usage | None, *, computed: bool, user_key: bytes | None
) -> UsageRecord:
    """Return the usage record of a call, as one that was given up."""
    terms, used = run.shard.terms, usage or _NO_USAGE
    known = Source.COMPUTED if computed else Source.TOLD
    return UsageRecord(
        at=0,  # the moment of booking: the clock of Redis
        hold=hold.id,
        project=terms.project,
        batch=run.shard.claim.batch_id,
        index=run.line.index,
        custom_id=run.line.custom_id,
        asked=run.asked,
        model=run.model,
        generation=run.generation,
        attempt=len(run.attempts) + 1,
        outcome="abandoned",
        prompt_tokens=_countable(used.prompt_tokens),
        cached_tokens=_countable(used.cached_tokens),
        completion_tokens=_countable(used.completion_tokens),
        reasoning_tokens=_countable(used.reasoning_tokens),
        cost=run.bound if cost is None else cost,
        source=Source.SUSPECT if cost is None else known,
        user=user_of(run.line.body, user_key),
        tags=terms.tags,
    )


def _ended(record: UsageRecord, outcome: Outcome) -> UsageRecord:
    answer = outcome if isinstance(outcome, Answer) else None
    return msgspec.structs.replace(
        record,
        served=answer.model if answer else None,
        provider=outcome.provider,
        generation=outcome.generation_id or record.generation,
        outcome=OK if isinstance(outcome, Answer) else outcome.code,
        latency_ms=outcome.latency_ms,
        first_token_ms=answer.first_token_ms if answer else None,
    )


def user_of(body: bytes, key: bytes | None) -> str | None:
    """Return a keyed hash of the body's `user`, None when there is none or no key."""
    if key is None or _USER.search(body) is None:
        return None
    try:
        user = _decode_user(body).user
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # a `user` of another kind
    return None if user is None else blake2b(user.encode(), key=key, digest_size=_USER_BYTES).hexdigest()


class _User(msgspec.Struct):
    user: str | None = None


_decode_user = msgspec.json.Decoder(_User).decode


def _countable(tokens: int) -> int:
    return min(max(tokens, 0), _MOST_TOKENS)


def _used(usage: Usage | None) -> int | None:
    return None if usage is None or usage == _NO_USAGE else usage.prompt_tokens + usage.completion_tokens
