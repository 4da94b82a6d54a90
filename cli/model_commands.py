"""What the commands of `batchmill models` do once they have their options."""

import asyncio
from collections.abc import Iterable, Sequence

import click
import msgspec
from rich.console import RenderableType

from batchmill.cli import exit_codes
from batchmill.cli.model_details import details, endpoint_table, traffic_table
from batchmill.cli.model_objects import (
    comparison_object,
    details_object,
    drift_object,
    endpoint_object,
    model_object,
    recommendation_object,
    traffic_object,
)
from batchmill.cli.model_source import Source, opened, served_by, told_by
from batchmill.cli.model_tables import console
from batchmill.cli.model_views import comparison_tables, expiry_warning, list_table, recommendation_views
from batchmill.cli.words import duration
from batchmill.config.settings import Settings
from batchmill.openrouter.drift import Drift
from batchmill.openrouter.variants import aliases_of, variants_of
from batchmill.producer.render import to_json
from batchmill.routing.comparison import Mix, compare
from batchmill.routing.health import Window
from batchmill.routing.recommendation import Needs, Optimize, recommend
from batchmill.routing.selection import Filter, Providers, Selection, Sort, select
from batchmill.routing.shelf import Item
from batchmill.store.catalogue import EndpointsSnapshot, Refreshed, refresh
from batchmill.store.connection import open_store
from batchmill.store.statistics import traffic

_MOST_LOOKED_AT = 60  # models whose endpoints one command asks for
_AT_ONCE = 8
_SHOWN = 20  # names in a sentence


async def print_list(
    settings: Settings, wanted: Filter, sort: str, limit: int | None, *, reverse: bool, as_json: bool
) -> int:
    """Print the models that pass."""
    async with opened(settings) as source:
        providers = await _providers(source, wanted)
        found = select(
            source.shelf, wanted, Sort(sort), health=source.health, providers=providers, reverse=reverse
        )  # fmt: skip
    shown = found.found[:limit]
    if as_json:
        click.echo(to_json([model_object(item, source.health.get(item.id)) for item in shown]))
        return exit_codes.OK
    screen = console()
    if shown:
        screen.print(list_table(shown, source.health, screen.width))
    _foot(source, found, f"{len(shown):,} of " if len(shown) < len(source.shelf) else "")
    _warn(shown, source)
    return exit_codes.OK


async def print_model(settings: Settings, model: str, *, endpoints: bool, as_json: bool) -> int:
    """Print everything about one model. Raises InputError for one that nobody knows."""
    async with opened(settings, [model]) as source:
        item = source.find(model)
        served = await served_by(source, item.id) if endpoints else None
        seen = (await traffic(source.redis, settings.upstream_name, [item.id], Window.DAY))[item.id]
    related = [*variants_of(item.id, source.shelf.models), *aliases_of(item.id, source.shelf.models)]
    health = source.health.get(item.id)
    if as_json:
        told = details_object(item, health, related) | {"traffic": traffic_object(seen)}
        more = {} if served is None else _served_object(served)
        click.echo(to_json(told | more))
        return exit_codes.OK
    screen = console()
    screen.print(details(item, related, source.shelf, health, source.now_ms))
    if seen.calls:
        _print(["", traffic_table(seen, screen.width)])
    if served is not None and served.endpoints:
        _print(["", endpoint_table(served.endpoints, screen.width)])
    if served is not None:
        click.echo(_served_footer(served), err=True)
    click.echo(source.footer(), err=True)
    _warn([item], source)
    return exit_codes.OK


async def print_comparison(settings: Settings, models: Sequence[str], mix: Mix | None, *, as_json: bool) -> int:
    """Print models side by side. Raises InputError for one that nobody knows."""
    async with opened(settings, models) as source:
        ids = [source.find(model).id for model in models]
    found = compare(source.shelf, ids, at=source.now, mix=mix, health=source.health)
    if as_json:
        click.echo(to_json(comparison_object(found)))
        return exit_codes.OK
    _print(comparison_tables(found, source.today, console().width))
    click.echo(source.footer(), err=True)
    return exit_codes.OK


async def print_recommendations(
    settings: Settings, wanted: Filter, optimize: str, limit: int, *, free: bool, as_json: bool
) -> int:
    """Print the best models for what is needed."""
    async with opened(settings) as source:
        providers = await _providers(source, wanted)
    needs = Needs(today=source.today, wanted=wanted, optimize=Optimize(optimize), free=free, providers=providers)
    ranking = recommend(source.shelf, needs, source.health, most=limit)
    if as_json:
        click.echo(to_json([recommendation_object(one, source.health.get(one.item.id)) for one in ranking.best]))
        return exit_codes.OK
    if ranking.best:
        _print(recommendation_views(ranking.best, console().width))
    _foot(source, ranking.selection, f"{len(ranking.selection.found):,} fit of ")
    return exit_codes.OK


async def print_refresh(settings: Settings, *, verbose: bool, as_json: bool) -> int:
    """Read the catalogue anew and print what is different. Raises as `refresh` when the upstream can't be asked."""
    async with open_store(settings) as store:
        found = await refresh(store.redis, settings, force=True)
    if as_json:
        click.echo(to_json(_refreshed_object(found)))
        return exit_codes.OK
    click.echo(f"{len(found.snapshot.models):,} models {told_by(found.snapshot, settings)}")
    for word, ids in (("new", found.added), ("gone", found.removed), ("repriced", found.repriced)):
        if ids:
            click.echo(f"{word}: {_names(ids)}")
    if verbose:
        for line in drift_lines(found.drift):
            click.echo(line)
    return exit_codes.OK


def drift_lines(drift: Drift | None) -> list[str]:
    """Return in lines what of the listing this version does not know."""
    if drift is None:
        return ["nothing was read anew, so nothing is known of its drift"]
    lines = [f"unknown field {one.path}: {one.count:,} times, e.g. {one.example}" for one in drift.fields]
    lines += [f"unknown value {one.value} of {one.path}: {one.count:,} times" for one in drift.values]
    lines += [
        f"{'left out' if one.left_out else 'read in part'}: {one.entry}: {one.reason}" for one in drift.unreadable
    ]
    if drift.missing:
        lines.append(f"{drift.missing:,} models more than the listing holds")
    if drift.none:
        lines.append(f"everything in {drift.entries:,} entries is known")
    if drift.unpriced:
        lines.append(f"no usable price: {_names(drift.unpriced)}")
    return lines


async def _providers(source: Source, wanted: Filter) -> Providers:
    """Ask who serves the models that pass all else, when that matters and they are few."""
    if not wanted.providers:
        return {}
    rest = select(source.shelf, msgspec.structs.replace(wanted, providers=()), health=source.health).found
    if len(rest) > _MOST_LOOKED_AT:
        click.echo(
            f"--provider goes by authors here: who serves a model is asked for up to {_MOST_LOOKED_AT} models, and "
            f"{len(rest):,} pass the other filters",
            err=True,
        )
        return {}
    turns = asyncio.Semaphore(_AT_ONCE)

    async def look(model: str) -> EndpointsSnapshot:
        async with turns:
            return await served_by(source, model)

    served = await asyncio.gather(*(look(item.id) for item in rest))
    return {
        item.id: frozenset(name.lower() for one in found.endpoints for name in (one.provider_name, one.tag) if name)
        for item, found in zip(rest, served, strict=True)
        if found.endpoints
    }


def _foot(source: Source, found: Selection, count: str) -> None:
    """Say below a table what it is of, and what was left out."""
    click.echo(f"{count}{source.footer()}", err=True)
    for told in (found.explain(), found.advice()):
        if told:
            click.echo(told, err=True)


def _warn(items: Iterable[Item], source: Source) -> None:
    for warning in filter(None, (expiry_warning(item, source.today) for item in items)):
        click.echo(f"warning: {warning}", err=True)


def _print(shown: Iterable[RenderableType]) -> None:
    screen = console()
    for one in shown:
        screen.print(one)


def _names(ids: Sequence[str]) -> str:
    more = len(ids) - _SHOWN
    return ", ".join(ids[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _served_footer(served: EndpointsSnapshot) -> str:
    why = f": {served.stale_reason}" if served.stale_reason else ""
    if not served.endpoints:
        return f"its endpoints are not known{why}"
    return f"{len(served.endpoints):,} endpoints, as of {duration(served.age_ms / 1000)} ago{why}"


def _served_object(served: EndpointsSnapshot) -> dict[str, object]:
    return {
        "endpoints": [endpoint_object(endpoint) for endpoint in served.endpoints],
        "endpoints_fetched_at_ms": served.fetched_at_ms,
        "endpoints_stale_reason": served.stale_reason,
    }


def _refreshed_object(found: Refreshed) -> dict[str, object]:
    snapshot = found.snapshot
    return {
        "models": len(snapshot.models),
        "source": snapshot.source,
        "fetched_at_ms": snapshot.fetched_at_ms,
        "stale_reason": snapshot.stale_reason,
        "added": found.added,
        "removed": found.removed,
        "repriced": found.repriced,
        "drift": None if found.drift is None else drift_object(found.drift),
    }
