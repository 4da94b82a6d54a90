"""What the commands of `batchmill models` take: filters, amounts, mixes of tokens."""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchmill.cli.options import store_options

if TYPE_CHECKING:
    from batchmill.routing.comparison import Mix
    from batchmill.routing.selection import Filter

_Command = TypeVar("_Command", bound=Callable[..., Any])
_UNITS = {"": 1, "k": 1000, "m": 1_000_000}
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([km]?)")
_MIX_PARTS = (2, 3)


def price_limit(context: click.Context, parameter: click.Parameter, value: str | None) -> Decimal | None:  # noqa: ARG001 - click's callback
    """Read an amount of dollars for a million tokens."""
    if value is None:
        return None
    try:
        amount = Decimal(value.removeprefix("$").replace(",", ""))
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise click.BadParameter(f"'{value}' is no price; give USD for a million tokens, e.g. 2 or 0.5")
    return amount


def token_count(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:  # noqa: ARG001 - click's callback
    """Read a number of tokens: 200000, 128k, 1M."""
    return None if value is None else _tokens(value)


def mix_of(context: click.Context, parameter: click.Parameter, value: str | None) -> "Mix | None":  # noqa: ARG001 - click's callback
    """Read a mix of tokens: PROMPT:COMPLETION or PROMPT:COMPLETION:CACHED."""
    from batchmill.routing.comparison import Mix

    if value is None:
        return None
    parts = value.split(":")
    if len(parts) not in _MIX_PARTS:
        raise click.BadParameter(f"'{value}' is no mix; give PROMPT:COMPLETION[:CACHED] tokens, e.g. 3k:1k")
    try:
        return Mix(*(_tokens(part) for part in parts))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def words_of(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG001 - click's callback
    """Read words that are repeated or parted by commas."""
    return tuple(word.strip() for given in value for word in given.split(",") if word.strip())


def words_option(*names: str, **how: Any) -> Callable[[_Command], _Command]:
    """Add an option that takes one or several words."""
    return click.option(*names, multiple=True, callback=words_of, **how)


def filter_options(command: _Command) -> _Command:
    """Add the filters that `list` and `recommend` share; they combine."""
    for option in (
        click.option("--available", is_flag=True, help="Not those whose breaker is open, or half of whose calls fail."),
        words_option("--not-tag", "without_tags", metavar="T", help="Without these tags."),
        words_option("--tag", "tags", metavar="T", help="With these tags, e.g. code,open_weights."),
        _price_option("--max-output-price", "max_output", help_text="USD for a million tokens written."),
        _price_option("--max-input-price", "max_input", help_text="USD for a million tokens read."),
        _price_option("--max-price", help_text="USD for a million tokens, three read to one written."),
        _count_option("--min-answer", "min_output", help_text="Answers of so many tokens."),
        _count_option("--context", "min_context", help_text="A context of so many tokens: 128k, 1M."),
        words_option("--output", "outputs", metavar="KIND", help="Writes text, image, audio ..."),
        words_option("--input", "inputs", metavar="KIND", help="Reads text, image, file, audio, video."),
        words_option("--needs", "capabilities", metavar="C", help="Can do all of these, e.g. tools,vision."),
        words_option("--provider", "providers", metavar="P", help="Served by one of these."),
        words_option("--family", "families", metavar="F", help="Of one of these families: gpt, claude, llama ..."),
        words_option("--author", "authors", metavar="A", help="By one of these authors, e.g. openai or meta-*."),
        click.option("--search", "text", metavar="TEXT", default="", help="Words of the id, name or description."),
    ):
        command = option(command)
    return command


def source_options(command: _Command) -> _Command:
    """Add `--json`, `--simulate`, `--redis` and `--config`."""
    json = click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
    simulate = click.option("--simulate", is_flag=True, help="The packaged catalogue; nothing is asked of anybody.")
    return json(store_options(simulate(command)))


def filter_of(given: dict[str, Any], *, free: bool | None) -> "Filter":
    """Return the filter that the options name. Raises click.UsageError for a word that nobody knows."""
    from batchmill.routing.selection import Filter

    try:
        return Filter(free=free, **given)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _price_option(*names: str, help_text: str) -> Callable[[_Command], _Command]:
    return click.option(*names, metavar="USD", callback=price_limit, help=help_text)


def _count_option(*names: str, help_text: str) -> Callable[[_Command], _Command]:
    return click.option(*names, metavar="N", callback=token_count, help=help_text)


def _tokens(value: str) -> int:
    found = _COUNT.fullmatch(value.lower().replace(",", "").replace("_", ""))
    if not found:
        raise click.BadParameter(f"'{value}' is no number of tokens; e.g. 200000, 128k or 1M")
    return int(Decimal(found[1]) * _UNITS[found[2]])
