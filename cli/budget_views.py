"""Budgets and suspects on the screen, and as JSON."""

from collections.abc import Sequence
from typing import Any

import click

from batchmill.cli.gate import print_table
from batchmill.cli.words import moment
from batchmill.config.policy import KEY_PREFIX
from batchmill.openrouter.money import dollars, to_usd, usd_if_known
from batchmill.producer.render import to_json
from batchmill.store.gauges import BudgetGauge, Suspect

_MONEY = ("limit", "spent", "held", "suspect", "debt", "free")
_COLUMNS = (
    ("budget", "left"),
    ("window", "left"),
    ("for", "left"),
    *((name, "right") for name in _MONEY),
    ("resets", "left"),
)
_NONE = "no budgets: they are in the config file as [[budgets]], or a batch has one by --max-cost"


def print_budgets(found: Sequence[BudgetGauge], *, as_json: bool) -> None:
    """Print a table, or a JSON list."""
    if as_json:
        click.echo(to_json([_object(gauge) for gauge in found]))
    elif found:
        print_table(_COLUMNS, [_row(gauge) for gauge in found])
    else:
        click.echo(_NONE)


def describe(gauge: BudgetGauge) -> str:
    """Return a budget in a sentence."""
    where = f" ({_window(gauge)})" if gauge.period else ""
    said = [f"{dollars(gauge.spent)} spent of {dollars(gauge.limit)}"]
    said += [f"{dollars(amount)} {name}" for name in ("held", "suspect", "debt") if (amount := getattr(gauge, name))]
    said.append(f"{dollars(gauge.free)} free")
    if gauge.resets_ms is not None:
        said.append(f"begins anew {moment(gauge.resets_ms / 1000)}")
    return f"budget {gauge.name}{where}: {', '.join(said)}"


def print_suspects(found: Sequence[Suspect], *, as_json: bool) -> None:
    """Print a table with the sum, or a JSON list."""
    if as_json:
        click.echo(to_json([_suspect_object(suspect) for suspect in found]))
        return
    if not found:
        click.echo("no suspects: the outcome of every call is known")
        return
    columns = (
        ("hold", "left"), ("amount", "right"), ("since", "left"), ("model", "left"), ("batch", "left"),
        ("line", "right"), ("generation", "left"),
    )  # fmt: skip
    print_table(columns, [_suspect_row(suspect) for suspect in found])
    click.echo(in_all(found), err=True)


def in_all(found: Sequence[Suspect]) -> str:
    """Return how many suspects there are and what they come to."""
    noun = "suspect" if len(found) == 1 else "suspects"
    return f"{len(found):,} {noun}, {dollars(sum(suspect.amount for suspect in found))} in all"


def _row(gauge: BudgetGauge) -> list[str]:
    resets = "never" if gauge.resets_ms is None else moment(gauge.resets_ms / 1000)
    limit = dollars(gauge.limit) + (f" (file: {dollars(gauge.declared)})" if gauge.declared is not None else "")
    amounts = [dollars(getattr(gauge, name)) if getattr(gauge, name) else "-" for name in _MONEY[1:]]
    return [gauge.name, _window(gauge), _reach(gauge), limit, *amounts, resets]


def _window(gauge: BudgetGauge) -> str:
    return f"{gauge.window}, {gauge.timezone}" if gauge.resets_ms is not None else gauge.window


def _reach(gauge: BudgetGauge) -> str:
    models = "all models" if "*" in gauge.models else ", ".join(gauge.models)
    if gauge.period is None:
        return "its lines"
    if gauge.name.startswith(KEY_PREFIX):
        return "what the key handed over"
    return models + (f" of {gauge.project}" if gauge.project else "")


def _object(gauge: BudgetGauge) -> dict[str, Any]:
    return {
        "name": gauge.name,
        "window": gauge.window,
        "timezone": gauge.timezone,
        "period": gauge.period,
        "resets_at": None if gauge.resets_ms is None else gauge.resets_ms // 1000,
        "models": gauge.models,
        "project": gauge.project,
        "declared_usd": usd_if_known(gauge.declared),
        **{f"{name}_usd": to_usd(getattr(gauge, name)) for name in _MONEY},
    }


def _suspect_row(suspect: Suspect) -> list[str]:
    return [
        suspect.hold,
        dollars(suspect.amount),
        "" if suspect.at is None else moment(suspect.at / 1000),
        suspect.model or "",
        suspect.batch or "",
        "" if suspect.index is None else str(suspect.index),
        suspect.generation or "",
    ]


def _suspect_object(suspect: Suspect) -> dict[str, Any]:
    return {
        "hold": suspect.hold,
        "amount_usd": to_usd(suspect.amount),
        "at": None if suspect.at is None else suspect.at // 1000,
        "model": suspect.model,
        "batch": suspect.batch,
        "index": suspect.index,
        "generation_id": suspect.generation,
    }
