"""Batches on the screen: a table of the newest, or all about one."""

import asyncio

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from batchmill.cli import exit_codes
from batchmill.cli.progress import Speed, plain_line
from batchmill.cli.words import cost_of, duration, lines, moment, outcomes, share
from batchmill.openrouter.money import dollars
from batchmill.producer import Producer
from batchmill.producer.render import batch_object, to_json
from batchmill.store.model import BatchState, BatchStatus

_REFRESH = 0.5  # seconds
_PLAIN_REFRESH = 5.0
_UNBOUNDED = 240  # columns, where no terminal sets a width
_GAP = 2  # columns of the screen between those of the table
_SOURCE_WIDTH = 12  # what a path needs at least
_NUMBERS = ("progress", "ok", "failed", "cost")
_GIVEN_UP = ("source", "created", "cost", "ok", "failed", "progress")  # in this order, where the screen is narrow
_STYLES = {
    BatchState.COMPLETED: "green",
    BatchState.IN_PROGRESS: "cyan",
    BatchState.CANCELLING: "yellow",
    BatchState.CANCELLED: "yellow",
    BatchState.EXPIRING: "yellow",
    BatchState.EXPIRED: "yellow",
}


class View:
    """What `batchmill status` was asked to show: a batch, or the newest (of one upstream)."""

    def __init__(self, producer: Producer, batch_id: str | None, limit: int, upstream: str | None = None) -> None:
        self._producer = producer
        self._batch_id = batch_id
        self._limit = limit
        self._upstream = upstream
        self._console = Console()
        if not self._console.is_terminal:
            self._console = Console(width=_UNBOUNDED)

    async def print_json(self) -> int:
        """Print the Batch object, or a list of them."""
        found = [batch_object(status) for status in await self._look()]
        click.echo(to_json(found[0] if self._batch_id else found))
        return exit_codes.OK

    async def print_once(self) -> int:
        """Print what there is now."""
        self._console.print(self._picture(await self._look()))
        return exit_codes.OK

    async def watch(self) -> int:
        """Show until all that is shown is terminal."""
        if not self._console.is_terminal:
            return await self._watch_plainly()
        with Live(console=self._console, auto_refresh=False) as live:
            while True:
                found = await self._look()
                live.update(self._picture(found), refresh=True)
                if all(status.state.terminal for status in found):
                    return exit_codes.OK
                await asyncio.sleep(_REFRESH)

    async def _watch_plainly(self) -> int:
        speeds: dict[str, Speed] = {}
        while True:
            found = await self._look()
            for status in found:
                speed = speeds.setdefault(status.id, Speed())
                speed.note(status.done)
                click.echo(f"{status.id} {status.state.value} · {plain_line(status, speed)}")
            if all(status.state.terminal for status in found):
                return exit_codes.OK
            await asyncio.sleep(_PLAIN_REFRESH)

    async def _look(self) -> list[BatchStatus]:
        if self._batch_id:
            return [await (await self._producer.batch(self._batch_id)).status()]
        return await self._producer.batches(self._limit, self._upstream)

    def _picture(self, found: list[BatchStatus]) -> RenderableType:
        if self._batch_id:
            return _details(found[0])
        return (
            table_of(found, self._console.width) if found else Text("no batches yet; `batchmill run INPUT` makes one")
        )


def table_of(found: list[BatchStatus], width: int) -> RenderableType:
    """Return a table of batches; on a narrow screen with fewer columns, for a number that is cut off is a wrong one."""
    rows = [_cells(status) for status in found]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    widths["source"] = min(widths["source"], _SOURCE_WIDTH)
    shown = _fitting(widths, width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in shown:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True, min_width=widths[name])
    for status, row in zip(found, rows, strict=True):
        styles = {"status": _STYLES.get(status.state, "")}
        table.add_row(*(Text(row[name], style=styles.get(name, "")) for name in shown))
    return table


def _cells(status: BatchStatus) -> dict[str, str]:
    failed = status.total - status.succeeded if status.state.terminal else status.done - status.succeeded
    return {
        "batch": status.id,
        "status": status.state.value,
        "progress": f"{share(status.done, status.total)} of {status.total:,}",
        "ok": f"{status.succeeded:,}",
        "failed": f"{failed:,}",
        "cost": dollars(status.cost),
        "created": moment(status.created_at),
        "source": status.source or "",
    }


def _fitting(widths: dict[str, int], width: int) -> list[str]:
    shown = list(widths)
    for name in _GIVEN_UP:
        if sum(widths[one] for one in shown) + _GAP * (len(shown) - 1) <= width:
            break
        shown.remove(name)
    return shown


def _details(status: BatchStatus) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    rows = [
        ("batch", status.id),
        ("status", status.state.value),
        ("waiting", status.blocked_on),
        ("progress", f"{share(status.done, status.total)} of {lines(status.total)}"),
        ("lines", _counts(status)),
        ("tokens", f"{status.usage.prompt_tokens:,} prompt + {status.usage.completion_tokens:,} completion"),
        ("cost", cost_of(status)),
        ("created", moment(status.created_at)),
        ("ended", _ended(status)),
        ("models", ", ".join(f"{model} ({count:,})" for model, count in sorted(status.models.items()))),
        ("upstream", status.upstream),
        ("source", status.source),
        ("retry of", status.retry_of),
        ("tags", ", ".join(status.tags)),
    ]
    for name, value in rows:
        if value:
            table.add_row(
                Text(name, style="bold"), Text(value, style=_STYLES.get(status.state, "") if name == "status" else "")
            )
    return table


def _counts(status: BatchStatus) -> str:
    return outcomes(status) + (f" ({status.running:,} in the air)" if status.running else "")


def _ended(status: BatchStatus) -> str | None:
    end = status.completed_at or status.cancelled_at
    return None if end is None else f"{moment(end)}, after {duration(end - status.created_at)}"
