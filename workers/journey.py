"""One line's journey, the whole of it: gate -> send -> judge -> record -> settle, or wait and try again.

gate ──► send ──► Answer ─────────────────────────────► record: succeeded
           ▲        Failure NEVER, or tries used up ───► record: failed
           │        Failure of a road that others mend: another road, another gate pass ──┐
           │        Failure BACKOFF ── full jitter ──┤
           │        Failure LATER ──── its scope rests, fleet sees why
           │        Failure ACCOUNT ── everything rests, fleet sees why
           └─────────────────────────────────────────┘
"""

import random
import time

import msgspec

from batchmill.config.policy import Trouble
from batchmill.config.settings import RetrySettings
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Fault, Outcome, Retry, Scope
from batchmill.openrouter.splices import to_send
from batchmill.store.answers import Kept
from batchmill.store.model import Attempt, LineState, Result
from batchmill.store.rules import FREE
from batchmill.store.unsent import handed_in, unsent_line
from batchmill.workers.line import LineRun
from batchmill.workers.roads import Trip, trouble_of

_ACCOUNT_REST = 60.0  # seconds until a refused account is tried again


class Settled(msgspec.Struct, frozen=True):
    """The line is over: record this."""

    result: Result


class TryAgain(msgspec.Struct, frozen=True):
    """Send the line again in `delay` seconds."""

    failure: Failure
    delay: float


class RestScope(msgspec.Struct, frozen=True):
    """A limit or a refusal said no: nothing of its scope is sent for `delay` seconds (None: longer each time)."""

    failure: Failure
    delay: float | None


Verdict = Settled | TryAgain | RestScope


def payload(run: LineRun) -> bytes:
    """Return what is sent: the body as it was handed in, its model, its providers, and the price it may not exceed."""
    model = None if run.trip is None else run.model
    return to_send(run.line.body, model=model, max_price=run.max_price, provider=run.provider)


def scope_of(model: str, failure: Failure) -> str:
    """Return what a refusal covers."""
    if failure.retry is Retry.ACCOUNT:
        return "refused"
    return {Scope.MODEL: model, Scope.FREE_MODELS: FREE, Scope.ACCOUNT: "account"}[failure.scope]


def judge(run: LineRun, outcome: Outcome, retry: RetrySettings) -> Verdict:
    """Say what follows from a call's outcome, and keep the attempt with the line."""
    run.attempts.append(_attempt(outcome, run))
    if isinstance(outcome, Answer):
        return Settled(_succeeded(run, outcome))
    detour = None if run.trip is None else _detour(run, run.trip, outcome, retry)
    if detour is not None:
        return detour
    match outcome.retry:
        case Retry.NEVER:
            return Settled(_failed(run, outcome))
        case Retry.LATER:
            return _later(run, outcome, retry)
        case Retry.ACCOUNT:
            run.attempts.pop()  # says nothing about the line
            return RestScope(outcome, _told(outcome, retry) or _ACCOUNT_REST)
        case Retry.BACKOFF:
            run.failures += 1
            if run.failures >= retry.max_attempts:
                return Settled(_failed(run, outcome))
            return TryAgain(outcome, _backoff(run.failures, _told(outcome, retry), retry))


def broken(error: Exception) -> Failure:
    """Return what a call counts as whose handling raised: a defect of ours, which must cost an attempt and no more."""
    return Failure(
        code="internal_error",
        message=f"batchmill could not handle the answer ({type(error).__name__}); please report it",
        retry=Retry.BACKOFF,
        fault=Fault.PROVIDER,
        billed=Billed.MAYBE,
    )


def abandoned(run: LineRun) -> None:
    """Keep with the line that a call was given up: it may have been billed."""
    cost = run.told.cost if run.told else None
    billed = Billed.MAYBE if cost is None else Billed.YES
    run.attempts.append(Attempt("abandoned", None, 0, generation_id=run.generation, cost=cost, billed=billed.value))


def unsent(run: LineRun, state: LineState) -> Result:
    """Return the result of a line whose batch was cancelled, or expired, before it was sent (again)."""
    result = unsent_line(run.line, run.model, state, run.shard.terms.route)
    return msgspec.structs.replace(result, cost=_cost(run), attempts=tuple(run.attempts))


def from_cache(run: LineRun, kept: Kept) -> Result:
    """Return the result of a line like which another was answered; no call was made for it now."""
    run.attempts.append(Attempt("ok", 200, 0, kept.served, kept.provider, kept.generation, cost=0, cached=True))
    routed = None if run.trip is None else run.trip.routed()
    return Result(
        index=run.line.index,
        custom_id=run.line.custom_id,
        model=kept.model,
        state=LineState.SUCCEEDED,
        status_code=200,
        response=kept.body,
        cost=_cost(run),
        finish_reason=kept.finish_reason,
        attempts=tuple(run.attempts),
        routed=None if routed is None else msgspec.structs.replace(routed, chosen=kept.model),
        cached=True,
    )


def _detour(run: LineRun, trip: Trip, failure: Failure, retry: RetrySettings) -> Verdict | None:
    """Return how a routed line goes on after a failure; None when its next try is no other than that of any line."""
    trouble = trouble_of(failure)
    if trouble in (None, Trouble.LIMIT) or trouble not in trip.route.fallback_on or len(trip.route.roads) == 1:
        return None  # a limit rests its model for the whole fleet, and the line finds another road by itself
    run.failures += 1
    another = trip.close(trouble, f"it failed ({failure.code})")
    if run.failures >= trip.route.max_attempts or not (another or trip.reopen()):
        return Settled(_failed(run, failure))
    return TryAgain(failure, trip.route.retry_delay if another else _backoff(run.failures, None, retry))


def _later(run: LineRun, failure: Failure, retry: RetrySettings) -> Verdict:
    now = time.monotonic()
    if run.limited_since is None:
        run.limited_since = now
    if now - run.limited_since > retry.max_limited_wait:
        return Settled(_failed(run, failure))
    last = run.attempts.pop()
    if not run.attempts or run.attempts[-1].outcome != last.outcome:
        run.attempts.append(last)  # a thousand refusals in a row are one piece of news
    return RestScope(failure, _told(failure, retry))


def _told(failure: Failure, retry: RetrySettings) -> float | None:
    """Return the wait that the upstream asked for; it may ask for years."""
    return None if failure.retry_after is None else min(failure.retry_after, retry.max_limited_wait)


def _backoff(failures: int, retry_after: float | None, retry: RetrySettings) -> float:
    """Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"), never sooner than we were asked."""
    ceiling = min(retry.max_delay, retry.first_delay * 2.0 ** (failures - 1))
    return (retry_after or 0.0) + random.uniform(0.0, ceiling)  # noqa: S311 - spreading load, not secrets


def _attempt(outcome: Outcome, run: LineRun) -> Attempt:
    if isinstance(outcome, Answer):
        return Attempt(
            "ok",
            200,
            outcome.latency_ms,
            outcome.model,
            outcome.provider,
            outcome.generation_id,
            outcome.cost,
            first_token_ms=outcome.first_token_ms,
        )
    return Attempt(
        outcome.code,
        outcome.status,
        outcome.latency_ms,
        None if run.trip is None else run.model,
        outcome.provider,
        outcome.generation_id,
        outcome.cost,
        outcome.billed.value,
        outcome.message,
    )


def _succeeded(run: LineRun, answer: Answer) -> Result:
    return Result(
        index=run.line.index,
        custom_id=run.line.custom_id,
        model=run.model,
        state=LineState.SUCCEEDED,
        status_code=200,
        response=answer.body,
        usage=answer.usage,
        cost=_cost(run),
        latency_ms=answer.latency_ms,
        finish_reason=answer.finish_reason,
        attempts=tuple(run.attempts),
        routed=None if run.trip is None else run.trip.routed(),
    )


def _failed(run: LineRun, failure: Failure) -> Result:
    return Result(
        index=run.line.index,
        custom_id=run.line.custom_id,
        model=run.model,
        state=LineState.FAILED,
        status_code=failure.status if failure.body is not None else None,
        response=failure.body,
        error_code=failure.code,
        error_message=failure.message,
        usage=failure.usage,
        cost=_cost(run),
        latency_ms=failure.latency_ms,
        request=handed_in(run.line, run.shard.terms.route),
        attempts=tuple(run.attempts),
        routed=None if run.trip is None else run.trip.routed(),
    )


def _cost(run: LineRun) -> int | None:
    told = [attempt.cost for attempt in run.attempts if attempt.cost is not None]
    return sum(told) if told else None
