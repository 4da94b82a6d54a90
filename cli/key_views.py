"""API keys on the screen, and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from batchmill.cli.gate import print_table
from batchmill.cli.words import moment
from batchmill.config.policy import KeyBudget
from batchmill.openrouter.money import dollars
from batchmill.producer.render import to_json
from batchmill.store.api_keys import ApiKey, Made

_TITLES = ("id", "name", "project", "scopes", "state", "made", "expires", "last used", "budget")
_NONE = "no API key: the service answers this machine alone; `batchmill keys create NAME` makes one"


class Shelf(NamedTuple):
    """Keys with what belongs to them by id, and the moment (unix seconds)."""

    keys: Sequence[ApiKey]
    budgets: Mapping[str, KeyBudget]
    used: Mapping[str, int]
    now: int


def print_keys(shelf: Shelf, *, as_json: bool) -> None:
    """Print a table, or a JSON list."""
    if as_json:
        click.echo(to_json([_object(key, shelf) for key in shelf.keys]))
    elif shelf.keys:
        print_table([(title, "left") for title in _TITLES], [_row(key, shelf) for key in shelf.keys])
    else:
        click.echo(_NONE)


def describe(key: ApiKey, budget: KeyBudget | None) -> str:
    """Return a key in a sentence."""
    whose = "every project" if key.project is None else f"project {key.project}"
    until = f" until {moment(key.expires_at)}" if key.expires_at else ""
    money = f", {_limit(budget)}" if budget else ""
    return f"API key {key.name} ({key.id}) for {whose}: {', '.join(key.scopes)}{until}{money}"


def made_object(made: Made, budget: KeyBudget | None) -> dict[str, Any]:
    """Return a new key as JSON has it, with its text."""
    key = made.key
    budgets = {key.id: budget} if budget else {}
    return _object(key, Shelf((key,), budgets, {}, key.created_at)) | {"key": made.text}


def _limit(budget: KeyBudget) -> str:
    return f"{dollars(budget.limit)} {'in total' if budget.window.value == 'total' else f'a {budget.window.value}'}"


def _row(key: ApiKey, shelf: Shelf) -> list[str]:
    budget, used = shelf.budgets.get(key.id), shelf.used.get(key.id)
    return [
        key.id,
        key.name,
        "all" if key.project is None else key.project,
        ", ".join(key.scopes),
        key.state(shelf.now),
        moment(key.created_at),
        moment(key.expires_at) if key.expires_at else "never",
        moment(used) if used else "never",
        _limit(budget) if budget else "-",
    ]


def _object(key: ApiKey, shelf: Shelf) -> dict[str, Any]:
    budget = shelf.budgets.get(key.id)
    return {
        "id": key.id,
        "name": key.name,
        "project": key.project,
        "scopes": key.scopes,
        "state": key.state(shelf.now),
        "created_at": key.created_at,
        "created_by": key.created_by,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": shelf.used.get(key.id),
        "requests_per_minute": key.requests_per_minute,
        "max_queued_lines": key.max_queued_lines,
        "budget": None if budget is None else {"limit_usd": budget.limit_usd, "window": budget.window.value},
    }
