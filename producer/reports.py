"""What was spent, what it will come to and what could be saved: out of Redis, for commands and for the API."""

import msgspec
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.routing.shelf import Shelf
from batchmill.spend.course import day_of, first_day
from batchmill.spend.forecast import Forecast, forecast
from batchmill.spend.period import Period
from batchmill.spend.recommendations import Findings, Terms, book_for, priced, recommend
from batchmill.spend.reports import BatchReport, By, Report, Row, report_of_rollups, trend
from batchmill.store import backlog, gauges, ledger, policy
from batchmill.store.catalogue import Models
from batchmill.store.clock import now_ms


class SpendReport(msgspec.Struct, frozen=True, kw_only=True):
    """Rows, a row for each day of the period, and what it cost beyond these rows (nano-dollars).

    That is more than nothing where rows are batches, which are only in the records: these don't last as long as the
    roll-ups.
    """

    report: Report
    days: tuple[Row, ...]
    lacking: int


async def spend_of(redis: Redis, upstream: str, by: By, period: Period, project: str | None = None) -> SpendReport:
    """Return what was spent in a period (by one project)."""
    days = period.days
    rollups = await ledger.rollups(redis, upstream, days[0], days[-1])
    by_day = report_of_rollups(rollups, By.DAY, project=project)
    if by is By.BATCH:
        report = await _by_batch(redis, upstream, period, project)
    else:
        report = report_of_rollups(rollups, by, project=project)
    lacking = max(0, by_day.total.cost - report.total.cost)
    return SpendReport(report=report, days=tuple(trend(by_day, days)), lacking=lacking)


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
    book = book_for(shelf)
    async for record in ledger.records(
        redis, upstream, since_ms=period.since_ms, until_ms=period.until_ms, project=project
    ):
        book.add(record)
    today = day_of(await now_ms(redis))
    return recommend(shelf, book, Terms(today=today, policy=rules, needs=needs))


async def _by_batch(redis: Redis, upstream: str, period: Period, project: str | None) -> Report:
    rows = BatchReport(until_ms=period.until_ms, project=project)
    async for record in ledger.records(redis, upstream, since_ms=period.since_ms, project=project):
        rows.take(record)
    return rows.report()
