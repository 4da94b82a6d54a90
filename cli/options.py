"""Options that several commands share, and the settings that follow from them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchmill.config.strategy import Strategy

if TYPE_CHECKING:
    from batchmill.config.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., Any])

POSITIVE = click.IntRange(min=1)


def store_options(command: _Command) -> _Command:
    """Add `--redis` and `--config`."""
    command = click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="TOML file with settings (default: what BATCHMILL_CONFIG names).",
    )(command)
    return click.option(
        "--redis",
        "redis_url",
        metavar="URL",
        help="Redis to use (default: BATCHMILL_REDIS_URL, else the embedded server of the data folder).",
    )(command)


def input_options(command: _Command) -> _Command:
    """Add what says how the lines handed over are read."""
    for option in (
        click.option("--fresh", is_flag=True, help="Run all lines anew, even if the same were run before."),
        click.option("--skip-invalid", is_flag=True, help="Run the good lines of an input that has bad ones."),
        click.option("--limit", type=POSITIVE, metavar="N", help="Only the first N lines."),
        click.option(
            "--strategy",
            type=click.Choice(tuple(each.value for each in Strategy)),
            help="In which order models are tried where several may answer a line.",
        ),
        click.option(
            "--fallback",
            "fallback",
            metavar="M",
            multiple=True,
            help="Model or alias to try next, for lines that name no fallback_models; again for more.",
        ),
        click.option("--max-tokens", type=POSITIVE, metavar="N", help="For lines that set no limit of their own."),
        click.option("--model", "-m", metavar="M", help="For lines that name no model, e.g. openai/gpt-4o-mini."),
    ):
        command = option(command)
    return command


def _tags(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:  # noqa: ARG001 - click's callback
    """Read KEY=VALUE words."""
    found: dict[str, str] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals:
            raise click.BadParameter(f"'{word}' is no tag; a tag is KEY=VALUE, e.g. team=search")
        if key in found:
            raise click.BadParameter(f"tag '{key}' is given twice; a batch has one value for it")
        found[key] = value
    return found


def _window(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:  # noqa: ARG001 - click's callback
    """Read a completion window."""
    from batchmill.store.handed import window_seconds

    if given is not None:
        try:
            window_seconds(given)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return given


def condition_options(command: _Command) -> _Command:
    """Add what a batch may cost, whose work it is, and whose turn."""
    for option in (
        click.option(
            "--tag",
            "tags",
            metavar="KEY=VALUE",
            multiple=True,
            callback=_tags,
            help="For reports of what was spent, e.g. team=search; again for more.",
        ),
        click.option(
            "--cache/--no-cache",
            default=None,
            help="Answer lines that are the same, here or in earlier batches, only once ([cache] in the config).",
        ),
        click.option(
            "--project", metavar="NAME", default="default", help="Whose work it is: turns and budgets go by it."
        ),
        click.option(
            "--priority",
            type=click.Choice(("high", "normal", "low")),
            default="normal",
            help="Whose turn it is among the batches of a project.",
        ),
        click.option(
            "--window",
            metavar="TIME",
            callback=_window,
            help="What was not sent by then expires: 1h to 720h, or 1d to 30d (default: it waits).",
        ),
        click.option(
            "--max-cost", metavar="USD", help="The batch never costs more; what is left over waits for a raise."
        ),
    ):
        command = option(command)
    return command


def read_settings(
    config_file: Path | None,
    redis_url: str | None,
    *,
    simulate: bool = False,
    processes: int | None = None,
    concurrency: int | None = None,
) -> "Settings":
    """Return the settings with the command line's wishes over them. Raises ConfigError."""
    import msgspec

    from batchmill.config.logs import set_up
    from batchmill.config.settings import load

    settings = load(config_file, simulate=simulate, redis_url=redis_url)
    set_up(settings.log)
    wishes = {"processes": processes, "concurrency": concurrency}
    given = {name: value for name, value in wishes.items() if value is not None}
    return msgspec.structs.replace(settings, worker=msgspec.structs.replace(settings.worker, **given))


def hints(redis_url: str | None, config_file: Path | None) -> str:
    """Return the options that another command needs to find the same Redis, as they are typed; never a password."""
    import shlex
    from urllib.parse import urlsplit

    words = ["--redis", redis_url if urlsplit(redis_url).password is None else "URL"] if redis_url else []
    words += ["--config", str(config_file)] if config_file else []
    return "".join(f" {shlex.quote(word)}" for word in words)


def require_upstream(settings: "Settings") -> None:
    """Refuse to work without a key for OpenRouter. Raises ConfigError, which names both ways on."""
    from batchmill.config.errors import ConfigError

    if settings.simulate or settings.api_key is not None or not settings.speaks_openrouter:
        return
    raise ConfigError(
        "no API key for OpenRouter: set OPENROUTER_API_KEY (or BATCHMILL_API_KEY_FILE to a file that holds it), "
        "or rehearse with --simulate, which needs none and costs nothing"
    )
