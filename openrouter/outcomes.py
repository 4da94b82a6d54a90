"""How one call to the upstream can end, as values: an Answer, or a Failure that says what to do about it.

call ── Answer                                        a completion came, whole
    └── Failure ── retry: NEVER      the line fails with it
                ├─ retry: BACKOFF    try again, with full jitter; counts as an attempt
                ├─ retry: LATER      a limit said no: wait (retry_after), does not count as an attempt
                └─ retry: ACCOUNT    nothing can be sent with this account now: hand the lines back
"""

from enum import StrEnum

import msgspec


class Retry(StrEnum):
    """What may be done about a failure."""

    NEVER = "never"
    BACKOFF = "backoff"
    LATER = "later"
    ACCOUNT = "account"


class Fault(StrEnum):
    """Whose fault a failure is. Only `PROVIDER` may feed a breaker."""

    CALLER = "caller"  # the request itself: bad parameters, moderation, context too long
    PROVIDER = "provider"  # 5xx, 529, timeouts, cut connections, errors inside a 200
    LIMIT = "limit"  # rate limits and in-flight budgets
    ACCOUNT = "account"  # key, credits, spent budgets, permissions


class Scope(StrEnum):
    """How much a limit or refusal covers, by the upstream's own words (`limit_source`)."""

    MODEL = "model"
    FREE_MODELS = "free_models"
    ACCOUNT = "account"


class Billed(StrEnum):
    """Whether a failed call may have cost money."""

    NO = "no"  # refused before a provider saw it, or insured by the upstream
    MAYBE = "maybe"  # unknown until the upstream's books say
    YES = "yes"  # the upstream reported a cost


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Tokens of one call, as the upstream counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Answer(msgspec.Struct, frozen=True):
    """A completion. `body` is the upstream's JSON, untouched; `cost` in nano-dollars, None when it was not told."""

    body: bytes
    model: str
    usage: Usage
    cost: int | None
    latency_ms: int
    finish_reason: str | None = None
    provider: str | None = None
    generation_id: str | None = None
    first_token_ms: int | None = None  # streamed calls only


class Failure(msgspec.Struct, frozen=True):
    """A call that brought no completion, and what follows from it.

    `status` is the HTTP status, or the code of an error that came inside a 200; None when no answer came at all.
    `body` is the upstream's error JSON (an object with an `error` key), when there was one. `retry_after` in seconds.
    """

    code: str  # canonical, e.g. "rate_limit_exceeded", "timeout", "context_length_exceeded"
    message: str
    retry: Retry
    fault: Fault
    billed: Billed
    status: int | None = None
    scope: Scope = Scope.MODEL
    retry_after: float | None = None
    body: bytes | None = None
    provider: str | None = None
    generation_id: str | None = None
    usage: Usage | None = None
    cost: int | None = None
    latency_ms: int = 0


Outcome = Answer | Failure
