"""`batchmill spend`: what was spent, by whom and on what."""

import click

from batchmill.cli import exit_codes


@click.group(invoke_without_command=True, short_help="Report what was spent, by model, project, batch, day or tag.")
@click.pass_context
def spend(context: click.Context) -> int:
    """Report what was spent."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    return exit_codes.OK
