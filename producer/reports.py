"""What was spent, what it will come to and what could be saved: out of Redis, for commands and for the API."""

import msgspec
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.routing.shelf import Shelf
from batchmill.spend.course import day_of, first_day
from batchmill.spend.forecast import Forecast, forecast
from batchmill.spend.period import Period
from batchmill.spend.recommendations import Findings, Terms, book_for, priced, recommend
from batchmill.spend.reports import By, Report, Row, Tally
from batchmill.store import backlog, gauges, ledger, policy
from batchmill.store.catalogue import Models
from batchmill.store.clock import now_ms


class SpendReport(msgspec.Struct, frozen=True, kw_only=True):
    """Rows, and a row for each day of the period. Money in nano-dollars."""

    report: Report
    days: tuple[Row, ...]


async def spend_of(redis: Redis, upstream: str, by: By, period: Period, project: str | None = None) -> SpendReport:
    """Return what was spent in a period (by one project)."""
    tally, first, last = Tally(by, project), period.days[0], period.days[-1]
    async for day in ledger.days(redis, upstream, first, last, by_batch=by is By.BATCH):
        tally.take(day)
    return SpendReport(report=tally.report(), days=tuple(tally.trend(period.days)))


async def forecast_of(redis: Redis, upstream: str, project: str | None = None) -> Forecast:
    """Return what is foreseen now; of one project only what it spends, and the budgets that it has to itself."""
    now = await now_ms(redis)
    rollups = await ledger.rollups(redis, upstream, first_day(now), day_of(now).isoformat())
    queued = await backlog.queued_lines(redis, upstream, project)
    budgets = await gauges.budgets(redis, upstream)
    if project is not None:
        own = {lines.batch for lines in queued}
        rollups = [rollup for rollup in rollups if rollup.project == project]
        budgets = [budget for budget in budgets if budget.project == project or budget.name in own]
    return forecast(rollups, queued, budgets, now)


async def savings_of(
    redis: Redis,
    settings: Settings,
    models: Models,
    period: Period,
    *,
    project: str | None = None,
    needs: frozenset[str] | None = None,
) -> Findings:
    """Return what the calls of a period would have cost on other models; `needs` is what they ask of one, if known."""
    upstream = settings.upstream_name
    in_force = await policy.live(redis, upstream)
    # the same rules as for lines that are handed over: those of the file while nobody has put any in force
    rules = settings.policy if in_force.source == policy.BUILT_IN and settings.policy is not None else in_force.policy
    shelf = Shelf(priced(models, rules))
    book = book_for(shelf, period.until_ms)
    # to this moment: what corrects a call of the period may have come after it
    async for record in ledger.records(redis, upstream, since_ms=period.since_ms, project=project):
        book.add(record)
    today = day_of(await now_ms(redis))
    return recommend(shelf, book, Terms(today=today, policy=rules, needs=needs))
