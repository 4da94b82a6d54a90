"""What the commands that look into the gate's books share: options, who asks, amounts of money, tables."""

from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchmill.cli.options import read_settings, store_options

if TYPE_CHECKING:
    from batchmill.config.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., Any])

_UNBOUNDED = 240  # columns, where no terminal sets a width


def usd(context: click.Context, parameter: click.Parameter, value: str) -> Decimal:  # noqa: ARG001 - click's callback
    """Read an amount of dollars that can be the limit of a budget: 5, 0.25, $1,000."""
    from batchmill.config.policy import check_limit

    try:
        amount = Decimal(value.removeprefix("$").replace(",", ""))
        check_limit(amount)
    except InvalidOperation:
        raise click.BadParameter(f"'{value}' is no amount of dollars; e.g. 5 or 0.25") from None
    except ValueError as error:
        raise click.BadParameter(str(error).replace("limit_usd", "the limit")) from None
    return amount


def gate_options(command: _Command) -> _Command:
    """Add `--simulate`, `--redis` and `--config`."""
    simulate = click.option("--simulate", is_flag=True, help="The books of what runs with --simulate.")
    return store_options(simulate(command))


def json_option(help_text: str) -> Callable[[_Command], _Command]:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help=help_text)


def gate_settings(redis_url: str | None, config_file: Path | None, *, simulate: bool) -> "Settings":
    """Return the settings; options may stand before a subcommand, too."""
    context = click.get_current_context()
    given = context.parent.params if context.parent else {}
    return read_settings(
        config_file or given.get("config_file"),
        redis_url or given.get("redis_url"),
        simulate=simulate or bool(given.get("simulate")),
    )


def operator() -> str:
    """Return who asks, for the audit: user and machine."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def print_table(columns: Iterable[tuple[str, str]], rows: Iterable[Iterable[str]]) -> None:
    """Print a table; of each column its title and `left` or `right`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=_UNBOUNDED)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, side in columns:
        table.add_column(title, justify="right" if side == "right" else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def until(end_ms: int | None, now_ms: int) -> str:
    """Return how long something lasts, in words."""
    from batchmill.cli.words import duration

    return "until resumed" if end_ms is None else f"for {duration(max(0, end_ms - now_ms) / 1000)}"
