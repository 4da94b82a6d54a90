"""Which alerts are due: the state of the money in, alerts out. Pure; whether one was raised before, the store knows.

    a budget's window   spent + suspect + debt (`used`) reaches a share of the limit     warning, critical
                        all is used, or work waits for room that nothing will free       exhausted
                        it is forecast to use more than the limit before it ends         forecast
    the account         the least that a limit of the key leaves is below a threshold    credits low
                        the upstream refuses it                                          refused
    a breaker           it did not close for long                                        breaker open
    suspects            they come to more than a threshold                               suspects outstanding
    bounds              the upstream billed more than one since the last alert           bound breached

What is held does not count as used: it is reserved at the most that calls can cost, and most of it comes back.
"""

import time
from collections.abc import Iterator
from decimal import Decimal

import msgspec

from batchmill.config.alerting import AlertKind, Alerts
from batchmill.config.typed import typed
from batchmill.openrouter.money import to_nano, to_usd

_DAY_MS = 86_400_000
_MINUTE_MS = 60_000
_CENT = Decimal("0.01")
_CRITICAL = frozenset(
    {
        AlertKind.BUDGET_CRITICAL,
        AlertKind.BUDGET_EXHAUSTED,
        AlertKind.ACCOUNT_REFUSED,
        AlertKind.BOUND_BREACHED,
    }
)


class BudgetState(msgspec.Struct, frozen=True, kw_only=True):
    """A budget in its present window (`ends_ms` None: it never ends). Money in nano-dollars.

    `waits`: work was refused for lack of room a moment ago. `projected`: what is likely used when the window ends, None
    when nobody forecasts it.
    """

    name: str
    period: str
    ends_ms: int | None
    limit: int
    used: int
    held: int = 0
    waits: bool = False
    projected: int | None = None


class OpenBreaker(msgspec.Struct, frozen=True):
    """A breaker that did not close since then (unix ms); `tripped` by "operator" or "failures"."""

    model: str
    since_ms: int
    tripped: str


class Remaining(msgspec.Struct, frozen=True):
    """What a limit of the key leaves, in USD; `what` is the limit in words."""

    what: str
    usd: Decimal


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that alerts depend on, at one moment (unix ms). Money in nano-dollars.

    `upstream` is whose books they are. `breaches` counts calls that were billed beyond their bound, `breaches_told`
    those that were alerted of.
    """

    now_ms: int
    upstream: str
    budgets: tuple[BudgetState, ...] = ()
    remaining: tuple[Remaining, ...] = ()
    refused: str | None = None
    breakers: tuple[OpenBreaker, ...] = ()
    suspects: int = 0
    suspect: int = 0
    breaches: int = 0
    breaches_told: int = 0


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody should know: about what, in which period, in words and in nano-dollars.

    `amount` is what is used, left or suspect, `limit` what it is measured by.
    """

    kind: AlertKind
    subject: str
    period: str
    text: str
    amount: int | None = None
    limit: int | None = None
    count: int | None = None

    @property
    def level(self) -> str:
        """How bad it is: "warning" or "critical"."""
        return "critical" if self.kind in _CRITICAL else "warning"

    @property
    def identity(self) -> str:
        """What it has in common with itself: there is one alert of an identity. Another limit is another alert."""
        limit = self.limit if self.kind.value.startswith("budget.") else ""
        return f"{self.kind}|{self.subject}|{self.period}|{limit}"


class Due(msgspec.Struct, frozen=True):
    """An alert that is due, and when its period is over (unix ms; None: never)."""

    alert: Alert
    ends_ms: int | None = None


def due(state: State, rules: Alerts) -> tuple[Due, ...]:
    """Return every alert whose condition holds now, the mildest of a budget first."""
    found: list[Due] = []
    for budget in state.budgets:
        found += (Due(alert, budget.ends_ms) for alert in _of_budget(budget, rules, state.upstream))
    day = time.strftime("%Y-%m-%d", time.gmtime(state.now_ms / 1000))
    tomorrow = (state.now_ms // _DAY_MS + 1) * _DAY_MS
    found += (Due(alert, tomorrow) for alert in _of_account(state, rules, day))
    found += (Due(alert, tomorrow) for alert in _of_money(state, rules, day))
    for breaker in state.breakers:
        if state.now_ms - breaker.since_ms >= rules.breaker_open_minutes * _MINUTE_MS:
            found.append(Due(_of_breaker(breaker, state)))
    return tuple(found)


def dollars(nano: int) -> str:
    """Return nano-dollars as dollars with as many digits as matter."""
    usd = to_usd(nano)
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}" if usd >= _CENT else f"${usd:.6f}"


def _of_budget(budget: BudgetState, rules: Alerts, upstream: str) -> Iterator[Alert]:
    if budget.limit <= 0:
        return  # somebody wants nothing spent: no news
    used = f"budget {budget.name}: {dollars(budget.used)} of {dollars(budget.limit)} used"
    share = f"{100 * budget.used // budget.limit} %"
    way_on = f"{typed(f'budgets raise {budget.name} USD', upstream)} makes room"
    spent_out = budget.used >= budget.limit or (budget.waits and budget.held == 0)
    texts = []
    if budget.used >= rules.warning * budget.limit:
        texts.append((AlertKind.BUDGET_WARNING, f"{used} ({share}){_until(budget)}"))
    if budget.used >= rules.critical * budget.limit:
        texts.append((AlertKind.BUDGET_CRITICAL, f"{used} ({share}){_until(budget)}; {way_on}"))
    if spent_out:
        texts.append((AlertKind.BUDGET_EXHAUSTED, f"{used}: work waits for it{_until(budget)}; {way_on}"))
    elif rules.forecast and budget.projected is not None and budget.projected > budget.limit:
        likely = f"{used}, likely {dollars(budget.projected)}{_until(budget)} at this pace; {way_on}"
        texts.append((AlertKind.BUDGET_FORECAST, likely))
    for kind, text in texts:
        yield Alert(
            kind=kind, subject=budget.name, period=budget.period, text=text, amount=budget.used, limit=budget.limit
        )


def _of_account(state: State, rules: Alerts, day: str) -> Iterator[Alert]:
    least = min(state.remaining, key=lambda one: one.usd, default=None)
    if least is not None and least.usd < rules.credits_low_usd:
        left = to_nano(least.usd)
        text = (
            f"the upstream lets this key spend only {_signed(left)} more ({least.what}); add credits or raise it there"
        )
        yield Alert(
            kind=AlertKind.CREDITS_LOW,
            subject="account",
            period=day,
            text=text,
            amount=left,
            limit=to_nano(rules.credits_low_usd),
        )
    if state.refused is not None:
        look = typed("check", state.upstream)
        text = f"the upstream refuses the account, nothing is sent: {state.refused}; {look} looks again"
        yield Alert(kind=AlertKind.ACCOUNT_REFUSED, subject="account", period=day, text=text)


def _of_money(state: State, rules: Alerts, day: str) -> Iterator[Alert]:
    if state.suspect > (most := to_nano(rules.suspects_over_usd)):
        text = (
            f"{state.suspects:,} calls of unknown outcome, {dollars(state.suspect)} in all; "
            f"{typed('budgets suspects', state.upstream)} lists them"
        )
        yield Alert(
            kind=AlertKind.SUSPECTS_OUTSTANDING,
            subject="suspects",
            period=day,
            text=text,
            amount=state.suspect,
            limit=most,
            count=state.suspects,
        )
    if state.breaches > state.breaches_told:
        new = state.breaches - state.breaches_told
        text = (
            f"the upstream billed {new:,} calls beyond the most that they could cost; the prices that we know are "
            f"wrong: see debt in {typed('budgets', state.upstream)}"
        )
        yield Alert(kind=AlertKind.BOUND_BREACHED, subject="bounds", period=day, text=text, count=new)


def _of_breaker(breaker: OpenBreaker, state: State) -> Alert:
    minutes = (state.now_ms - breaker.since_ms) // _MINUTE_MS
    by = "an operator tripped it" if breaker.tripped == "operator" else "its provider keeps failing"
    return Alert(
        kind=AlertKind.BREAKER_OPEN,
        subject=breaker.model,
        period=_moment(breaker.since_ms),
        text=(
            f"the breaker of {breaker.model} did not close for {minutes} minutes: {by}; "
            f"{typed('breakers', state.upstream)} shows it"
        ),
    )


def _until(budget: BudgetState) -> str:
    return "" if budget.ends_ms is None else f" until {_moment(budget.ends_ms)}"


def _moment(unix_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_ms / 1000))


def _signed(nano: int) -> str:
    return f"-{dollars(-nano)}" if nano < 0 else dollars(nano)
