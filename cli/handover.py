"""Handing lines over, and what to say about it."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import click
import msgspec
from redis.asyncio import Redis

from batchmill.cli.source import Source
from batchmill.cli.words import lines
from batchmill.config.settings import Settings
from batchmill.config.typed import rehearsing
from batchmill.openrouter.money import dollars
from batchmill.producer import Batch, Producer
from batchmill.producer.estimate import Estimate
from batchmill.producer.intake import Consent
from batchmill.producer.sampling import Measured
from batchmill.store.model import BatchStatus
from batchmill.store.presence import workers_alive


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """How an input is to be read and run; see `options.input_options` and `options.condition_options`."""

    model: str | None
    max_tokens: int | None
    limit: int | None
    skip_invalid: bool
    fresh: bool
    max_cost: str | None = None
    window: str | None = None
    priority: str = "normal"
    project: str = "default"
    fallback: tuple[str, ...] = ()
    strategy: str | None = None
    tags: dict[str, str] = {}
    cache: bool | None = None


async def hand_over(
    redis: Redis, settings: Settings, source: Source, wishes: Wishes, consent: Consent | None = None
) -> Batch:
    """Enqueue the lines, or find the batch that has them. Raises InputError, and what `consent` does."""
    return await Producer(redis, settings).submit(
        source.path,
        name=source.name,
        model=wishes.model,
        max_tokens=wishes.max_tokens,
        limit=wishes.limit,
        skip_invalid=wishes.skip_invalid,
        anew=wishes.fresh,
        max_cost=wishes.max_cost,
        window=wishes.window,
        priority=wishes.priority,
        project=wishes.project,
        fallback=wishes.fallback,
        strategy=wishes.strategy,
        tags=wishes.tags,
        cache=wishes.cache,
        consent=consent,
    )


async def estimate_of(
    redis: Redis,
    settings: Settings,
    source: Source,
    wishes: Wishes,
    *,
    measured: Mapping[str, Measured] | None = None,
    keep: AbstractSet[int] = frozenset(),
) -> Estimate:
    """Return what the lines would come to if they were handed over so. Raises InputError."""
    return await Producer(redis, settings).estimate(
        source.path,
        name=source.name,
        model=wishes.model,
        max_tokens=wishes.max_tokens,
        limit=wishes.limit,
        max_cost=wishes.max_cost,
        project=wishes.project,
        fallback=wishes.fallback,
        strategy=wishes.strategy,
        measured=measured,
        keep=keep,
    )


def announce(batch: Batch, status: BatchStatus) -> None:
    """Say on standard error which batch the lines are, and what of it is there already."""
    if not batch.reused:
        models = f"{len(status.models)} models" if len(status.models) > 1 else "".join(status.models)
        _say(f"{batch.id}: {lines(status.total)} for {models}")
    elif status.done:
        _say(
            f"{batch.id} already has {status.done:,} of {status.total:,} results: reusing them; "
            "--fresh runs all lines anew"
        )
    else:
        _say(f"{batch.id} has the same lines, and no results yet: going on with it; --fresh runs all lines anew")
    if batch.reused and batch.submission and batch.submission.max_cost != status.max_cost:
        _say(_kept_budget(status))
    bad = batch.submission.survey.bad_count if batch.submission else 0
    if bad:
        _say(f"{lines(bad)} can't be run and failed at once")


def _kept_budget(status: BatchStatus) -> str:
    if status.max_cost is None:
        return "it has no --max-cost, and gets none now; --fresh runs all lines anew with one"
    kept = f"it keeps its --max-cost of {dollars(status.max_cost)}"
    return f"{kept}; change it with: batchmill budgets raise {status.id} USD{rehearsing(status.upstream)}"


async def say_who_works(redis: Redis, status: BatchStatus, options: str) -> None:
    """Say on standard error how to start a worker when none runs; `options` are those that find the same Redis."""
    if status.state.terminal or await workers_alive(redis, status.upstream):
        return
    _say(f"no worker runs for {status.upstream}; start one: batchmill worker{rehearsing(status.upstream)}{options}")


def _say(message: str) -> None:
    click.echo(message, err=True)
