"""`batchmill models`: find, compare and choose models."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.model_options import filter_of, filter_options, mix_of, source_options
from batchmill.cli.options import POSITIVE, read_settings

if TYPE_CHECKING:
    from batchmill.config.settings import Settings
    from batchmill.routing.comparison import Mix

_SORTS = ("price", "input", "output", "context", "created", "name", "latency", "throughput", "uptime")
_GOALS = ("cost", "speed", "quality", "reliability")


class _ListUnlessTold(click.Group):
    """A group that lists when no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = args and (not args[0].startswith("-") or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if own else ["list", *args])


@click.group(cls=_ListUnlessTold, short_help="Find, compare and choose models.")
def models() -> None:
    """Find, compare and choose models. Without a command, as `batchmill models list`.

    \b
    batchmill models --needs tools,vision --max-price 2 --context 200k
    batchmill models compare openai/gpt-4o-mini anthropic/claude-haiku-4.5
    batchmill models recommend --needs structured_outputs --optimize cost
    """


@models.command("list", short_help="List models, filtered and sorted.")
@filter_options
@click.option("--free/--paid", "free", default=None, help="Only those that cost nothing, or only the others.")
@click.option("--sort", "-s", type=click.Choice(_SORTS), default="price", show_default=True, help="The best first.")
@click.option("--reverse", is_flag=True, help="The best last.")
@click.option("--limit", "-n", type=POSITIVE, metavar="N", help="Only the first N.")
@source_options
def list_models(
    free: bool | None,
    sort: str,
    reverse: bool,
    limit: int | None,
    as_json: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
    **given: Any,
) -> int:
    """List the models of the catalogue that pass all filters. Prices: USD for a million tokens.

    "price" sorts by three tokens read to one written. Times and success are the fleet's own, or with ~ what the
    endpoints state.

    \b
    batchmill models --author anthropic --sort created
    batchmill models list --needs tools --max-price 1 --json | jq -r '.[].id'
    """
    from batchmill.cli.loop import run_async
    from batchmill.cli.model_commands import print_list

    wanted = filter_of(given, free=free)
    return run_async(
        print_list(_settings(config_file, redis_url, simulate), wanted, sort, limit, reverse=reverse, as_json=as_json)
    )


@models.command(short_help="Show everything about a model.")
@click.argument("model", metavar="MODEL")
@click.option("--endpoints", is_flag=True, help="Ask who serves it, at what price, and how well.")
@source_options
def show(
    model: str,
    endpoints: bool,
    as_json: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Show everything about MODEL: prices, limits, what it can do and what says so, variants, health.

    \b
    batchmill models show openai/gpt-4o-mini --endpoints
    """
    from batchmill.cli.loop import run_async
    from batchmill.cli.model_commands import print_model

    return run_async(
        print_model(_settings(config_file, redis_url, simulate), model, endpoints=endpoints, as_json=as_json)
    )


@models.command(short_help="Put models side by side.")
@click.argument("model", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--mix",
    metavar="P:C[:R]",
    callback=mix_of,
    help="Tokens of a call: prompt, completion, of the prompt read from a cache (default 3k:1k).",
)
@source_options
def compare(
    model: tuple[str, ...],
    mix: "Mix | None",
    as_json: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
) -> int:
    """Compare prices on a mix of tokens, limits, capabilities, speed and success; a star marks the best.

    \b
    batchmill models compare openai/gpt-4o-mini google/gemini-2.5-flash --mix 20k:500:15k
    """
    from batchmill.cli.loop import run_async
    from batchmill.cli.model_commands import print_comparison

    return run_async(print_comparison(_settings(config_file, redis_url, simulate), model, mix, as_json=as_json))


@models.command(short_help="Rank the models that can do what you need.")
@filter_options
@click.option("--optimize", type=click.Choice(_GOALS), default="cost", show_default=True, help="What matters most.")
@click.option("--free", is_flag=True, help="Free models, too: they have daily caps.")
@click.option("--limit", "-n", type=POSITIVE, default=5, show_default=True, metavar="N", help="The best N.")
@source_options
def recommend(
    optimize: str,
    free: bool,
    limit: int,
    as_json: bool,
    simulate: bool,
    redis_url: str | None,
    config_file: Path | None,
    **given: Any,
) -> int:
    """Rank the models that can do all that is needed, with a score in parts and the reason in words.

    Quality is that of the benchmarks in the catalogue; where there are none, a guess from price, age and context, and
    it says so. Never recommended: batch entries, routers, models without a price, expired ones.

    \b
    batchmill models recommend --needs tools,vision --context 100k --max-price 2 --optimize quality
    """
    from batchmill.cli.loop import run_async
    from batchmill.cli.model_commands import print_recommendations

    wanted = filter_of(given, free=None)
    return run_async(
        print_recommendations(
            _settings(config_file, redis_url, simulate), wanted, optimize, limit, free=free, as_json=as_json
        )
    )


@models.command(short_help="Read the catalogue anew.")
@click.option("--verbose", "-v", is_flag=True, help="Tell what of it this version does not know.")
@source_options
def refresh(verbose: bool, as_json: bool, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Read the catalogue anew, whatever its age, and tell what is new, gone or repriced.

    \b
    batchmill models refresh --verbose
    """
    from batchmill.cli.loop import run_async
    from batchmill.cli.model_commands import print_refresh

    return run_async(print_refresh(_settings(config_file, redis_url, simulate), verbose=verbose, as_json=as_json))


def _settings(config_file: Path | None, redis_url: str | None, simulate: bool) -> "Settings":
    return read_settings(config_file, redis_url, simulate=simulate)
