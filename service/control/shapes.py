"""What our own API answers about the work: fleet, lanes and models. The dashboard renders these very values.

Times are unix seconds of the Redis clock where they end in `_at`, milliseconds in `_ms`; money is in USD.
"""

from decimal import Decimal
from typing import Literal

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, or a part of one."""


class Pause(Shape, frozen=True):
    """Nothing of the scope is sent until then (null: until somebody resumes it). `by_operator`: a person said so."""

    scope: str
    model: str
    reason: str
    until_at: int | None = None
    by_operator: bool = False


class Pauses(Shape, frozen=True):
    """Every pause that is not over."""

    data: tuple[Pause, ...]


class Lane(Shape, frozen=True):
    """The lines without a result for one model, or for one route, those in the air included; and of how many batches.

    Of a batch in several lanes only the sum is exact: how it is spread follows from its unfinished shards.
    """

    lane: str
    lines: int
    batches: int


class Slice(Shape, frozen=True):
    """What the fleet did in some seconds from then on: calls that were answered, or failed by the provider's fault."""

    at: int
    seconds: int
    calls: int
    failures: int


class Throughput(Shape, frozen=True):
    """How fast lines are answered: answers a second over the last minute and the last five; both courses oldest first.

    `minute` has slices of ten seconds, `hour` slices of five minutes; the last of each is not over yet.
    """

    per_second: float
    per_second_5m: float
    minute: tuple[Slice, ...]
    hour: tuple[Slice, ...]


class Blocked(Shape, frozen=True):
    """A batch of which nothing moves, and why."""

    batch_id: str
    project: str
    reason: str
    kinds: tuple[str, ...]  # worker, place, budget, limit, pause, breaker, share, alarm ...
    pending: int


class CostNow(Shape, frozen=True):
    """What was spent since the UTC day began, what is suspect of it, and at what rate money goes now.

    `usd_per_hour` is the speed of the last minute at what answers of each model cost today; null where nobody knows.
    """

    today_usd: Decimal
    suspect_usd: Decimal
    usd_per_hour: Decimal | None
    day: str


class Overview(Shape, frozen=True):
    """Everything at one moment. For a project's key only its own work counts, and the fleet's throughput is null."""

    at: int
    project: str | None
    cost: CostNow
    workers: int  # alive
    batches: dict[str, int]  # by status: the live ones
    lines_pending: int
    lines_running: int
    lanes: tuple[Lane, ...]
    blocked: tuple[Blocked, ...]
    blocked_more: int  # blocked batches beyond those named
    alerts: int  # that nobody acknowledged
    breakers_open: int
    throughput: Throughput | None
    alarm: str | None  # the books were restored from an older copy: nothing is sent until an operator accepts them


class Worker(Shape, frozen=True):
    """A worker process. What it has in the air, by model in `models`, and holds is null for a project's key."""

    id: str
    alive: bool
    last_heartbeat_at: int
    silent_seconds: float
    in_air: int | None = None
    held_usd: Decimal | None = None
    models: dict[str, int] | None = None


class Fleet(Shape, frozen=True):
    """The workers of the last hour, those alive first. `refused`: why the upstream refuses the account, if it does.

    `in_air` is null for a project's key, which would tell by it that others are at work.
    """

    at: int
    upstream: str
    workers: tuple[Worker, ...]
    alive: int
    in_air: int | None
    concurrency: int  # lines in the air that each worker is let, as this gateway's settings say
    room: int  # and that all of them are let that are alive
    lanes: tuple[Lane, ...]
    refused: str | None = None


class LimitUse(Shape, frozen=True):
    """A rate limit and how full its buckets are; once for each model that used it lately, or once when it is shared.

    To a project's key what the whole fleet does is null: `requests_now`, `tokens_now`, `requests_today`, `in_air`.
    """

    name: str
    match: tuple[str, ...]
    scope: str | None  # a model, * when all share it, null when nothing used it lately
    shared: bool
    requests_now: int | None
    requests_per_minute: int | None
    tokens_now: int | None
    tokens_per_minute: int | None
    requests_today: int | None
    requests_per_day: int | None
    in_air: int | None
    max_concurrency: int | None
    pauses: tuple[Pause, ...]
    requests_capacity: int | None = None
    tokens_capacity: int | None = None
    burst_seconds: float = 6.0
    tuned: bool = False  # somebody changed it since the config file was applied


class Limits(Shape, frozen=True):
    """Every limit."""

    data: tuple[LimitUse, ...]


class BreakerState(Shape, frozen=True):
    """The breaker of one model. `half`: a few probe it. At most `share` and `window` of its lines may be in the air.

    How many are (`in_air`) is null to a project's key.
    """

    model: str
    state: Literal["closed", "open", "half"]
    until_at: int | None
    tripped_by: str | None
    trips: int
    in_air: int | None
    share: int | None
    window: int | None
    pauses: tuple[Pause, ...]


class Breakers(Shape, frozen=True):
    """The breakers of models that were used lately or are held back."""

    data: tuple[BreakerState, ...]


class Spread(Shape, frozen=True):
    """Times in milliseconds, each within 5 %."""

    p50: float
    p90: float
    p95: float
    p99: float


class Prices(Shape, frozen=True):
    """List prices in USD for a million tokens, and for one call; null: not named."""

    input: Decimal | None
    output: Decimal | None
    cache_read: Decimal | None = None
    request: Decimal | None = None


class ModelState(Shape, frozen=True):
    """How one model does: `health` in a word, its breaker and limits, what the fleet saw in the last `seconds`.

    How much the fleet called it (`calls`, `failures`, `limited`) is null to a project's key; how well it went is not.
    """

    model: str
    health: Literal["ok", "degraded", "held", "unknown"]
    why: str | None  # of a health that is not ok
    breaker: BreakerState
    paused: bool
    limits: tuple[LimitUse, ...]
    lines_waiting: int
    calls: int | None
    failures: int | None
    limited: int | None
    seconds: int
    latency_ms: Spread | None
    first_token_ms: Spread | None
    tokens_per_second: float | None
    uptime: float | None  # a share that its endpoints state
    price: Prices | None


class ModelStates(Shape, frozen=True):
    """Every model that has work, was used in the last day, or is held back."""

    at: int
    data: tuple[ModelState, ...]


class BatchBrief(Shape, frozen=True):
    """How far a batch is, as the events tell it; the whole Batch object is at its own address."""

    id: str
    project: str
    status: str
    total: int
    pending: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    cached: int
    spent_usd: Decimal
    cap_usd: Decimal | None
    blocked_on: str | None
