"""`batchmill config`: settings and where they come from, a schema for editors, a file to begin with."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import json_option, print_table
from batchmill.cli.options import store_options

if TYPE_CHECKING:
    from batchmill.config.sources import Traced

DEFAULT_PATH = "batchmill.toml"


@click.group(invoke_without_command=True, short_help="Show settings and their sources; schema; a file to begin with.")
@click.pass_context
def config(context: click.Context) -> int:
    """Show the settings, print the JSON Schema of the config file, or write one to begin with.

    \b
    batchmill config show --sources
    batchmill config schema > batchmill.schema.json
    batchmill config init
    """
    return exit_codes.OK if context.invoked_subcommand else int(context.invoke(show))


@config.command(short_help="Show every setting, and where it comes from.")
@click.option("--sources", is_flag=True, help="Also show where each value comes from.")
@click.option("--simulate", is_flag=True, help="As the commands with --simulate see it.")
@json_option("A list of objects: key, value, source, where.")
@store_options
def show(
    sources: bool = False,
    simulate: bool = False,
    as_json: bool = False,
    redis_url: str | None = None,
    config_file: Path | None = None,
) -> int:
    """Show every setting in force. Keys and passwords are not shown.

    Of limits, budgets and the like this is what the file says; what the fleet goes by is in Redis: see
    `batchmill limits` and `batchmill budgets`.
    """
    from batchmill.config.sources import trace

    _, traced = trace(config_file, simulate=simulate, redis_url=redis_url)
    if as_json:
        from batchmill.producer.render import to_json

        click.echo(to_json([_object(one) for one in traced]))
        return exit_codes.OK
    columns = [("setting", "left"), ("value", "left"), *([("source", "left")] if sources else [])]
    print_table(columns, [[one.key, _value(one.value), *([one.origin] if sources else [])] for one in traced])
    return exit_codes.OK


@config.command(short_help="Print the JSON Schema of the config file.")
def schema() -> int:
    """Print the JSON Schema (draft 2020-12) of the config file, by which an editor completes and checks it.

    \b
    batchmill config schema > batchmill.schema.json
    Then let the file begin with:  #:schema ./batchmill.schema.json
    """
    import json

    from batchmill.config.schema import schema as made

    click.echo(json.dumps(made(), indent=2))
    return exit_codes.OK


@config.command(short_help="Write a config file with every default and what it means.")
@click.argument("path", metavar="[PATH]", default=DEFAULT_PATH, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(path: Path, force: bool) -> int:
    """Write a commented config file with the defaults to PATH (batchmill.toml)."""
    from batchmill.config.errors import ConfigError
    from batchmill.config.template import commented_defaults

    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(commented_defaults())
    except FileExistsError:
        raise ConfigError(f"{path} is there already; --force writes over it") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be written ({error.strerror}); name another place") from error
    click.echo(f"{path} is written; use it with --config {path} or BATCHMILL_CONFIG={path}", err=True)
    return exit_codes.OK


def _object(one: "Traced") -> dict[str, Any]:
    return {"key": one.key, "value": _plain(one.value), "source": one.source, "where": one.where}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; exact amounts of money as strings."""
    import msgspec

    return msgspec.to_builtins(value)


def _value(value: Any) -> str:
    from batchmill.config.template import toml_of

    return "-" if value is None else value if isinstance(value, str) else toml_of(value)
