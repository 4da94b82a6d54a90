"""What the gate's books say now, for people: budgets, limits, breakers, pauses and suspects. Changes nothing."""

from collections.abc import Iterable

import msgspec
from redis.asyncio import Redis

from batchmill.config.policy import SHARED, Limit, Policy
from batchmill.config.windows import OF_BATCH, window_at
from batchmill.store import batches, keys, policy
from batchmill.store.clock import now_ms
from batchmill.store.errors import StoreError
from batchmill.store.policy import LivePolicy

OPERATOR = "op:"
"""What the scope of a pause by an operator begins with; a model id follows."""

FOR_EVER = -1
_FREE = ":free"
_EVERYTHING = ("account", "refused")
_UNITS = 60_000  # a bucket counts in 1/60000 of a request or token: what a rate a minute brings each ms
_DAY_MS = 86_400_000


class BudgetGauge(msgspec.Struct, frozen=True, kw_only=True):
    """One budget in its present window. Money in nano-dollars; a batch's own has the window "batch"."""

    name: str
    window: str
    limit: int
    timezone: str | None = None
    period: str | None = None  # id of the window
    resets_ms: int | None = None
    models: tuple[str, ...] = ("*",)
    project: str | None = None
    declared: int | None = None  # what the file says, when the limit was raised
    spent: int = 0
    held: int = 0
    suspect: int = 0
    debt: int = 0

    @property
    def free(self) -> int:
        """What may still be held."""
        return max(0, self.limit - self.spent - self.held - self.suspect - self.debt)


class Pause(msgspec.Struct, frozen=True):
    """Nothing of the scope is sent until then (unix ms; None: until somebody resumes it)."""

    scope: str
    until_ms: int | None
    reason: str

    @property
    def model(self) -> str:
        """The scope without the mark of an operator."""
        return self.scope.removeprefix(OPERATOR)

    def concerns(self, model: str) -> bool:
        """Whether it holds up the model."""
        return self.model == model or self.scope in _EVERYTHING or (self.scope == _FREE and model.endswith(_FREE))


class LimitGauge(msgspec.Struct, frozen=True, kw_only=True):
    """The buckets of one limit; `scope` is a model, `*` when all share it, None when nothing used it lately."""

    limit: Limit
    scope: str | None
    requests: float | None = None  # that may go now; None without a rate
    tokens: float | None = None
    in_air: int = 0
    day_count: int = 0
    pauses: tuple[Pause, ...] = ()


class ModelGauge(msgspec.Struct, frozen=True, kw_only=True):
    """The breaker of one model, and how many of its lines may be in the air (None: any number)."""

    model: str
    state: str = "closed"
    until_ms: int | None = None
    trips: int = 0
    in_air: int = 0
    share: int | None = None  # after the upstream said "too many"
    window: int | None = None  # while it returns after a trip
    tripped: str | None = None  # "operator" when a person did it
    pauses: tuple[Pause, ...] = ()


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """Money (nano-dollars) of a call whose outcome is not known."""

    hold: str = ""
    amount: int = 0
    batch: str | None = None
    index: int | None = None
    model: str | None = None
    generation: str | None = None
    at: int | None = None


async def budgets(redis: Redis, upstream: str) -> list[BudgetGauge]:
    """Return every budget in its present window, then those of live batches."""
    gauges = _declared(await policy.live(redis, upstream), await now_ms(redis))
    capped = await batches.live(redis)
    names = [keys.budget(upstream, gauge.name, gauge.period or "") for gauge in gauges]
    books = await _hashes(redis, [*names, *(keys.batch_budget(upstream, batch_id) for batch_id in capped)])
    found = [_with_money(gauge, book) for gauge, book in zip(gauges, books[: len(gauges)], strict=True)]
    for batch_id, book in zip(capped, books[len(gauges) :], strict=True):
        if "limit" in book:
            found.append(_with_money(BudgetGauge(name=batch_id, window=OF_BATCH, limit=int(book["limit"])), book))
    return found


async def limits(redis: Redis, upstream: str) -> list[LimitGauge]:
    """Return every limit, once for each of its scopes that was used lately."""
    found = (await policy.live(redis, upstream)).policy
    asked = _scopes(found, await _models(redis, upstream))
    books = await _hashes(redis, [keys.limit(upstream, limit.name, scope) for limit, scope in asked])
    now = await now_ms(redis)
    standing = await pauses(redis, upstream)
    used = [
        _limit_gauge(limit, scope, book, now, standing)
        for (limit, scope), book in zip(asked, books, strict=True)
        if book or scope == SHARED
    ]
    shown = {gauge.limit.name for gauge in used}
    idle = [_limit_gauge(limit, None, {}, now, ()) for limit in found.limits if limit.name not in shown]
    return sorted([*used, *idle], key=lambda gauge: (gauge.limit.name, gauge.scope or ""))


async def models(redis: Redis, upstream: str) -> list[ModelGauge]:
    """Return the models that were used lately or are paused."""
    standing = await pauses(redis, upstream)
    paused = {pause.model for pause in standing if pause.scope not in (_FREE, *_EVERYTHING)}
    names = sorted({*await _models(redis, upstream), *paused})
    books = await _hashes(redis, [keys.model(upstream, name) for name in names])
    return [
        _model_gauge(name, book, standing) for name, book in zip(names, books, strict=True) if book or name in paused
    ]


async def pauses(redis: Redis, upstream: str) -> tuple[Pause, ...]:
    """Return the pauses that are not over."""
    found = await redis.execute_command("HGETALL", keys.pauses(upstream))
    now = await now_ms(redis)
    standing = []
    for scope, value in sorted(found.items()):
        until, _, reason = value.decode().partition("|")
        if int(until) == FOR_EVER or int(until) > now:
            standing.append(Pause(scope.decode(), None if int(until) == FOR_EVER else int(until), reason))
    return tuple(standing)


_decode_suspect = msgspec.json.Decoder(Suspect, strict=False).decode  # an amount is text: Lua's JSON rounds numbers


async def suspects(redis: Redis, upstream: str) -> list[Suspect]:
    """Return all suspects, the oldest first."""
    found = await redis.execute_command("HGETALL", keys.suspects(upstream))
    try:
        read = [msgspec.structs.replace(_decode_suspect(value), hold=hold.decode()) for hold, value in found.items()]
    except msgspec.DecodeError as error:
        raise StoreError(
            f"the suspects in Redis can't be read ({error}); is this batchmill too old for them?"
        ) from error
    return sorted(read, key=lambda suspect: (suspect.at or 0, suspect.hold))


def _declared(found: LivePolicy, now: int) -> list[BudgetGauge]:
    gauges = []
    for budget in found.policy.budgets:
        window = window_at(budget.window, budget.timezone, now)
        gauges.append(
            BudgetGauge(
                name=budget.name,
                window=budget.window.value,
                limit=budget.limit,
                timezone=budget.timezone,
                period=window.id,
                resets_ms=window.end_ms,
                models=tuple(budget.models),
                project=budget.project,
                declared=found.declared.get(budget.name),
            )
        )
    return gauges


def _with_money(gauge: BudgetGauge, book: dict[str, str]) -> BudgetGauge:
    return msgspec.structs.replace(
        gauge, **{name: int(book.get(name, 0)) for name in ("spent", "held", "suspect", "debt")}
    )


def _scopes(found: Policy, used: Iterable[str]) -> list[tuple[Limit, str]]:
    asked = {(limit.name, limit.scope_of(model)): limit for model in used for limit in found.limits_for(model)}
    shared = {(limit.name, SHARED): limit for limit in found.limits if limit.shared}
    return [(limit, scope) for (_, scope), limit in (asked | shared).items()]


def _limit_gauge(
    limit: Limit, scope: str | None, book: dict[str, str], now: int, standing: Iterable[Pause]
) -> LimitGauge:
    today = int(book.get("day", -1)) == now // _DAY_MS
    return LimitGauge(
        limit=limit,
        scope=scope,
        requests=_level(book, "requests", limit.requests_per_minute, limit.request_capacity, now),
        tokens=_level(book, "tokens", limit.tokens_per_minute, limit.token_capacity, now),
        in_air=int(book.get("in_air", 0)),
        day_count=int(book.get("day_count", 0)) if today else 0,
        pauses=tuple(pause for pause in standing if scope and _holds_up(pause, limit, scope)),
    )


def _holds_up(pause: Pause, limit: Limit, scope: str) -> bool:
    if scope != SHARED:
        return pause.concerns(scope)
    return pause.scope in _EVERYTHING or (pause.scope == _FREE and all(one.endswith(_FREE) for one in limit.match))


def _level(book: dict[str, str], field: str, rate: int | None, capacity: int, now: int) -> float | None:
    """Return how full a bucket is by now; it filled since the gate last looked."""
    if rate is None:
        return None
    if field not in book:
        return float(capacity)
    units = float(book[field]) + rate * max(0, now - int(book.get("at", now)))
    return min(float(capacity), units / _UNITS)


def _model_gauge(name: str, book: dict[str, str], standing: Iterable[Pause]) -> ModelGauge:
    until = int(book.get("until", FOR_EVER))
    return ModelGauge(
        model=name,
        state=book.get("state", "closed"),
        until_ms=None if until == FOR_EVER else until,
        trips=int(book.get("trips", 0)),
        in_air=int(book.get("in_air", 0)),
        share=_whole(book.get("share")),
        window=_whole(book.get("window")),
        tripped=book.get("tripped"),
        pauses=tuple(pause for pause in standing if pause.concerns(name)),
    )


def _whole(text: str | None) -> int | None:
    return None if text is None else int(float(text))


async def _models(redis: Redis, upstream: str) -> list[str]:
    return sorted(name.decode() for name in await redis.execute_command("SMEMBERS", keys.lanes(upstream)))


async def _hashes(redis: Redis, names: list[str]) -> list[dict[str, str]]:
    async with redis.pipeline(transaction=True) as pipe:
        for name in names:
            pipe.execute_command("HGETALL", name)
        found = await pipe.execute()
    return [{field.decode(): value.decode() for field, value in book.items()} for book in found]
