"""`batchmill check`: is everything there that a run needs?"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import exit_codes
from batchmill.cli.gate import gate_options

if TYPE_CHECKING:
    from batchmill.cli.finding import Finding

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(short_help="Check settings, Redis, the key and the workers.", epilog=exit_codes.EPILOG)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: `ok`, and `checks` of name, level, message.")
@gate_options
def check(as_json: bool, simulate: bool, redis_url: str | None, config_file: Path | None) -> int:
    """Look at the settings, Redis (reachable, keeps everything), the clock, the API key and the workers.

    Of the key: its limits, the budgets over it and the free requests left, and what of it stops work. A warning does
    not fail the check.

    \b
    batchmill check
    batchmill check --json | jq '.checks[] | select(.level != "ok")'
    """
    from batchmill.cli.findings import examine
    from batchmill.cli.loop import run_async

    found: list[Finding] = []
    code = run_async(examine(config_file, redis_url, found, simulate=simulate))
    if as_json:
        from batchmill.producer.render import to_json

        click.echo(to_json({"ok": code == exit_codes.OK, "checks": found}))
        return code
    for finding in found:
        level = click.style(f"{finding.level.value:<6}", fg=_STYLES[finding.level.value])
        click.echo(f"{level}{finding.name:<12} {finding.message}")
    return code
