"""What our own API answers about money: budgets, spend, forecast, savings; and who changed or saw what."""

from decimal import Decimal
from typing import Any

from batchmill.service.control.shapes import Prices, Shape


class Budget(Shape, frozen=True):
    """A budget in its present window: spent + held + suspect never exceed the limit. A batch's own has window "batch".

    `declared_usd` is what the config file says, where somebody changed the limit since.
    """

    name: str
    window: str
    timezone: str | None
    period: str | None
    resets_at: int | None
    models: tuple[str, ...]
    project: str | None
    declared_usd: Decimal | None
    limit_usd: Decimal
    spent_usd: Decimal
    held_usd: Decimal
    suspect_usd: Decimal
    debt_usd: Decimal
    free_usd: Decimal


class SharedBudget(Shape, frozen=True):
    """A budget that a project shares with others, as far as it concerns the project."""

    name: str
    window: str
    resets_at: int | None
    free_percent: int


class Budgets(Shape, frozen=True):
    """Budgets that who asks may see in full, and for a project's key those that it shares with others."""

    data: tuple[Budget, ...]
    shared: tuple[SharedBudget, ...] = ()


class Raised(Shape, frozen=True):
    """A limit that was changed, and the budget as it is now (null for the budget of a batch that is over)."""

    name: str
    before_usd: Decimal
    after_usd: Decimal
    budget: Budget | None


class Suspect(Shape, frozen=True):
    """Money of a call of unknown outcome; it counts as spent until the upstream's books, or a person, say more."""

    hold: str
    amount_usd: Decimal
    at: int | None
    model: str | None
    batch: str | None
    index: int | None
    generation_id: str | None


class Suspects(Shape, frozen=True):
    """All of them, the oldest first."""

    data: tuple[Suspect, ...]
    total_usd: Decimal


class Released(Shape, frozen=True):
    """The suspects whose money is free again."""

    holds: tuple[str, ...]
    total_usd: Decimal


class SpendRow(Shape, frozen=True):
    """Calls that have something in common. `share` is the part of the whole cost; suspect money is in no average."""

    name: str
    cost_usd: Decimal
    share: Decimal | None
    suspect_usd: Decimal
    requests: int
    answered: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    usd_per_request: Decimal | None
    usd_per_1k_tokens: Decimal | None


class SpendDay(Shape, frozen=True):
    """What one UTC day cost."""

    day: str
    cost_usd: Decimal
    suspect_usd: Decimal


class Spend(Shape, frozen=True):
    """What was spent in some UTC days."""

    by: str
    since: str
    until: str
    project: str | None
    rows: tuple[SpendRow, ...]
    total: SpendRow
    days: tuple[SpendDay, ...]


class PeriodOutlook(Shape, frozen=True):
    """A calendar day, week or month (UTC) as it will end; low and high null: no range can be told yet."""

    period: str
    id: str
    ends_at: int
    spent_usd: Decimal
    queue_usd: Decimal
    pace_usd: Decimal | None
    projected_usd: Decimal | None
    low_usd: Decimal | None
    high_usd: Decimal | None


class BudgetForecast(Shape, frozen=True):
    """How a budget will stand: exhausted, exceeds, may_exceed, holds or unknown; `runs_out_by`: pace or queue."""

    name: str
    window: str
    period: str | None
    ends_at: int | None
    limit_usd: Decimal
    spent_usd: Decimal
    remaining_usd: Decimal
    queue_usd: Decimal
    projected_usd: Decimal | None
    low_usd: Decimal | None
    high_usd: Decimal | None
    outlook: str
    over_budget: bool
    runs_out_at: int | None
    runs_out_by: str | None


class Queued(Shape, frozen=True):
    """The lines of a batch in one lane that wait, and what they are likely to cost (`by` says how that is known)."""

    batch: str
    project: str
    lane: str
    models: tuple[str, ...]
    lines: int
    likely_usd: Decimal | None
    by: str
    lasts_seconds: int | None


class Paced(Shape, frozen=True):
    """What the forecast goes by; `weekday_percent` is of an average day, 1 is Monday."""

    basis: str
    days: int
    daily_usd: Decimal | None = None
    weekly_change_usd: Decimal | None = None
    weekday_percent: dict[str, int] | None = None


class Forecast(Shape, frozen=True):
    """What spending will come to, when budgets run out, and in words what that was made of."""

    at: int
    project: str | None
    periods: tuple[PeriodOutlook, ...]
    budgets: tuple[BudgetForecast, ...]
    queue: tuple[Queued, ...]
    pace: Paced
    method: tuple[str, ...]


class SavingOption(Shape, frozen=True):
    """A model that could have taken the calls of another. `kind`: model, free, or batch (a Batch API, up to 24 h)."""

    model: str
    kind: str
    saving_usd: Decimal
    cost_usd: Decimal
    requests: int
    prices: Prices | None
    caveats: tuple[str, ...]


class CachingAdvice(Shape, frozen=True):
    """What reading prompts from the cache would save: for each million tokens so read, and at most."""

    uncached_tokens: int
    saving_for_million_usd: Decimal
    saving_at_most_usd: Decimal


class Advice(Shape, frozen=True):
    """What could be saved on one model, and the evidence. `unknown` says why nothing can be said of it."""

    model: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    first_at_ms: int
    last_at_ms: int
    context_used: int
    longest_answer: int
    needs: tuple[str, ...]
    needs_source: str
    unknown: str | None
    paid_usd: Decimal
    price_today_usd: Decimal | None
    reckoned_from_usd: Decimal
    prices: Prices | None
    considered: int
    fitting: int
    options: tuple[SavingOption, ...]
    caching: CachingAdvice | None


class LeftOut(Shape, frozen=True):
    """Calls that can't be priced again: they failed, or nobody told their tokens."""

    requests: int
    paid_usd: Decimal


class Recommendations(Shape, frozen=True):
    """What the same calls would have cost elsewhere. Each option is instead of the others; quality is not judged."""

    since: str
    until: str
    models: tuple[Advice, ...]
    left_out: LeftOut
    quality_judged: bool = False


class Seen(Shape, frozen=True):
    """Who acknowledged an alert, and when."""

    who: str
    at: int


class AlertShape(Shape, frozen=True):
    """Something that somebody should know, raised once."""

    id: str
    at: int
    kind: str
    level: str
    subject: str
    period: str
    text: str
    amount_usd: Decimal | None
    limit_usd: Decimal | None
    count: int | None
    acknowledged: Seen | None


class Alerts(Shape, frozen=True):
    """Alerts, newest first."""

    data: tuple[AlertShape, ...]


class AuditEntry(Shape, frozen=True):
    """One change that a person or a config file made. `at` in unix seconds."""

    who: str
    what: str
    at: int
    detail: dict[str, Any]


class Audit(Shape, frozen=True):
    """The newest changes, newest first."""

    data: tuple[AuditEntry, ...]


class Accepted(Shape, frozen=True):
    """Whether there was an alarm; the books count as they are."""

    accepted: bool
