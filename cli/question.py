"""The one question that `run` asks: whether so much is to be spent. Only where a person sits who can answer."""

import sys
from decimal import Decimal

import click

from batchmill.cli.loop import asking
from batchmill.openrouter.money import dollars, to_nano
from batchmill.producer.estimate import Estimate


def ask(found: Estimate, over_usd: Decimal) -> None:
    """Ask when the lines are likely to cost more; raises click.Abort for a no, and for Ctrl-C."""
    if found.likely is None or found.likely <= to_nano(over_usd):
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    with asking():
        if not click.confirm(f"Spend about {dollars(found.likely)}? (--yes skips this question)", err=True):
            click.echo("nothing was enqueued", err=True)
            raise click.Abort
