"""Looks at the money every few seconds and raises the alerts that are due: once each, however many workers look."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal

import structlog
from redis.asyncio import Redis

from batchmill.config.alerting import AlertKind
from batchmill.config.policy import Policy
from batchmill.config.settings import Settings
from batchmill.openrouter.account import words_of
from batchmill.openrouter.wire import KeyInfo
from batchmill.spend.alerts import BudgetState, Due, OpenBreaker, Remaining, State, due
from batchmill.store import account, alerts, gauges, keys, policy
from batchmill.store.clock import now_ms
from batchmill.store.errors import StoreError
from batchmill.store.gauges import BudgetGauge, ModelGauge, Pause

log = structlog.get_logger()

Forecaster = Callable[[Redis, str, Sequence[BudgetGauge]], Awaitable[Mapping[str, int]]]
"""Of an upstream's budgets, by name: what is likely used when the window ends (nano-dollars)."""

_REFUSED = "refused"  # the scope of a pause by which the upstream refuses the account
_CLOSED = "closed"
_OPEN = "open"
_UNASKED_MS = 60_000  # after the end of its pause, an open breaker that nobody probed holds nobody up


class AlertWatch:
    """The fleet's eye on its money. `look()` may be called by anybody at any time."""

    def __init__(self, redis: Redis, settings: Settings, forecaster: Forecaster | None = None) -> None:
        self._redis = redis
        self._name = settings.upstream_name
        self._forecaster = forecaster

    async def look(self) -> None:
        """Raise what is due, into the log, the list and the queues of the webhooks.

        What another version wrote and we can't read keeps us from looking, not from work.
        """
        try:
            await self._look()
        except StoreError as error:
            log.error("alerts.unknown", error=str(error))

    async def _look(self) -> None:
        found = (await policy.live(self._redis, self._name)).policy
        state = await self._state(found)
        for one in due(state, found.alerts):
            await self._raise(one, found, state)

    async def _raise(self, one: Due, found: Policy, state: State) -> None:
        alert = one.alert
        hooks = [hook.name for hook in found.webhooks if alert.kind in hook.events]
        breaches = state.breaches if alert.kind is AlertKind.BOUND_BREACHED else None
        alert_id = await alerts.raise_once(self._redis, self._name, one, hooks, breaches=breaches)
        if alert_id is not None:
            say = log.error if alert.level == "critical" else log.warning
            say("alert", id=alert_id, kind=alert.kind.value, about=alert.subject, period=alert.period, text=alert.text)

    async def _state(self, found: Policy) -> State:
        redis, name = self._redis, self._name
        known = await alerts.notes(redis, name)
        suspects = await gauges.suspects(redis, name)
        pauses = await gauges.pauses(redis, name)
        return State(
            upstream=name,
            now_ms=await now_ms(redis),
            budgets=await self._budgets(forecast=found.alerts.forecast),
            remaining=_remaining(await account.read(redis, name)),
            refused=_refusal(pauses),
            breakers=await self._breakers(known),
            suspects=len(suspects),
            suspect=sum(suspect.amount for suspect in suspects),
            breaches=int(await redis.execute_command("HGET", keys.books(name), "bound_breaches") or 0),
            breaches_told=known.breaches_told,
        )

    async def _budgets(self, *, forecast: bool) -> tuple[BudgetState, ...]:
        found = await gauges.budgets(self._redis, self._name)
        waiting = await alerts.waiting(self._redis, self._name, [gauge.name for gauge in found])
        projected: Mapping[str, int] = {}
        if forecast and self._forecaster is not None:
            projected = await self._forecaster(self._redis, self._name, found)
        return tuple(
            BudgetState(
                name=gauge.name,
                period=gauge.period or gauge.window,
                ends_ms=gauge.resets_ms,
                limit=gauge.limit,
                used=gauge.spent + gauge.suspect + gauge.debt,
                held=gauge.held,
                waits=gauge.name in waiting,
                projected=projected.get(gauge.name),
            )
            for gauge in found
        )

    async def _breakers(self, known: alerts.Notes) -> tuple[OpenBreaker, ...]:
        now = await now_ms(self._redis)
        open_now = {
            gauge.model: gauge for gauge in await gauges.models(self._redis, self._name) if _holds_up(gauge, now)
        }
        since = await alerts.note_breakers(self._redis, self._name, known, list(open_now))
        return tuple(OpenBreaker(model, since[model], gauge.tripped or "failures") for model, gauge in open_now.items())


def _holds_up(gauge: ModelGauge, now: int) -> bool:
    """Whether a breaker holds lines up: it is probed by the first line that comes after its pause."""
    if gauge.state != _OPEN:
        return gauge.state != _CLOSED
    return gauge.until_ms is None or gauge.until_ms + _UNASKED_MS > now


def _refusal(pauses: Sequence[Pause]) -> str | None:
    return next((pause.reason for pause in pauses if pause.scope == _REFUSED), None)


def _remaining(known: account.Account | None) -> tuple[Remaining, ...]:
    if known is None or known.key is None:
        return ()
    return tuple(one for one in _left(known.key) if one.usd.is_finite())


def _left(key: KeyInfo) -> list[Remaining]:
    layers = [*(key.budgets or ()), *([key.effective_budget] if key.effective_budget else ())]
    found = [Remaining(words_of(layer), layer.remaining_usd) for layer in layers if layer.remaining_usd is not None]
    if key.limit_remaining is not None:
        limit = "" if key.limit is None else f" of ${Decimal(key.limit):,.2f}"
        found.append(Remaining(f"the key's own limit{limit}", key.limit_remaining))
    return found
