"""What came over HTTP and is no batch yet, or never came to be one, as the commands for batches show and cancel it."""

import asyncio

import click
from redis.asyncio import Redis

from batchmill.cli import exit_codes
from batchmill.cli.words import moment
from batchmill.config.settings import Settings
from batchmill.producer.render import to_json
from batchmill.service.compat.batch_objects import of_intake
from batchmill.store import batches, intakes
from batchmill.store.intakes import Intake

_REFRESH = 0.5  # seconds


async def found(redis: Redis, batch_id: str, *, wait: bool = False) -> Intake | None:
    """Return the intake of an id; None when there is a batch, or nothing. With `wait`, once it is over."""
    told = ""
    while True:
        intake = await intakes.find(redis, batch_id)
        if intake is None or intake.state.terminal:
            return intake
        if await batches.exists(redis, batch_id):
            return None
        if not wait:
            return intake
        if told != (told := of_intake(intake).status):
            click.echo(f"{batch_id} {told}", err=True)
        await asyncio.sleep(_REFRESH)


def show(intake: Intake, *, as_json: bool) -> int:
    """Print what there is to say of an intake."""
    shown = of_intake(intake)
    if as_json:
        click.echo(to_json(shown))
        return exit_codes.OK
    rows = [
        ("batch", intake.id),
        ("status", shown.status),
        ("waiting", shown.x_blocked_on),
        ("created", moment(shown.created_at)),
        ("ended", moment(ended) if (ended := shown.failed_at or shown.cancelled_at or shown.expired_at) else None),
        ("input", shown.input_file_id),
        ("project", shown.x_project),
        *(("error", f"line {each.line}: {each.message}" if each.line else each.message) for each in intake.faults),
    ]
    for name, value in rows:
        if value:
            click.echo(f"{name:<9} {value}")
    return exit_codes.OK


async def cancel(redis: Redis, settings: Settings, batch_id: str) -> str | None:
    """Cancel an intake. Returns what became of it, in words; None when there is a batch, or nothing."""
    intake = await found(redis, batch_id)
    if intake is None:
        return None
    if intake.state.terminal:
        return f"was already {intake.state.value}; nothing of it was sent"
    days = settings.results.retention_days
    state = await intakes.cancel(redis, settings.upstream_name, intake, retention_days=days)
    if state is None:
        return None
    return f"is {state.value}" + ("; nothing of it was sent" if state.terminal else "")
