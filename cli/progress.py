"""How far a batch is, while it runs: a live display on a terminal, a plain line now and then elsewhere."""

import time
from collections import deque
from types import TracebackType
from typing import Protocol, Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchmill.cli.words import duration, share
from batchmill.openrouter.money import dollars
from batchmill.store.model import BatchStatus

_PLAIN_EVERY = 5.0  # seconds
_WINDOW = 10.0  # seconds over which speed is measured
_BAR_WIDTH = 40


class Speed:
    """Lines a second over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, done: int) -> None:
        """Note how many lines are done now."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[0][0] > _WINDOW and len(self._seen) > 2:  # noqa: PLR2004 - a rate needs two points
            self._seen.popleft()

    @property
    def lines_per_second(self) -> float:
        """The speed now; 0 before it can be told."""
        if not self._seen:
            return 0.0
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start else 0.0

    def remaining(self, lines: int) -> str:
        """Return how long so many lines will take."""
        speed = self.lines_per_second
        return duration(lines / speed) if speed > 0 else "?"


class Progress(Protocol):
    """Where a batch's progress goes. Enter it before the first `show`."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, status: BatchStatus) -> None:
        """Show the batch as it is now."""

    def say(self, message: str) -> None:
        """Print a line beside the progress."""


class _Unshown:
    """No progress; only what must be said."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, status: BatchStatus) -> None:
        """Show nothing."""

    def say(self, message: str) -> None:
        """Print a line on standard error."""
        click.echo(message, err=True)


class _PlainLines(_Unshown):
    """A line every few seconds, for logs."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._last = time.monotonic()

    def show(self, status: BatchStatus) -> None:
        """Print a line when it is time for one."""
        self._speed.note(status.done)
        if time.monotonic() - self._last >= _PLAIN_EVERY:
            self._last = time.monotonic()
            self.say(plain_line(status, self._speed))


class _LiveDisplay:
    """A bar and the numbers under it, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._speed = Speed()
        self._started = time.monotonic()
        self._live = Live(console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, status: BatchStatus) -> None:
        """Redraw."""
        self._speed.note(status.done)
        self._live.update(picture(status, self._speed, time.monotonic() - self._started), refresh=True)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._live.console.print(message, markup=False, highlight=False, soft_wrap=True)


def progress_on_stderr(*, shown: bool = True) -> Progress:
    """Return the progress that suits standard error; with `shown` false, one that only says what must be said."""
    if not shown:
        return _Unshown()
    console = Console(stderr=True)
    return _LiveDisplay(console) if console.is_terminal else _PlainLines()


def plain_line(status: BatchStatus, speed: Speed) -> str:
    """Return the state of a batch in one line."""
    parts = [
        f"{status.done:,}/{status.total:,} ({share(status.done, status.total)})",
        f"{status.succeeded:,} ok",
        f"{status.failed:,} failed",
    ]
    if not status.state.terminal:
        parts += [
            f"{status.running:,} in the air",
            f"{speed.lines_per_second:,.1f} lines/s",
            f"ETA {speed.remaining(status.total - status.done)}",
        ]
    parts.append(dollars(status.cost))
    if status.blocked_on:
        parts.append(f"waiting: {status.blocked_on}")
    return " · ".join(parts)


def picture(status: BatchStatus, speed: Speed, elapsed: float) -> RenderableType:
    """Return the state of a batch as a few lines for a terminal; `elapsed` in seconds."""
    head = Table.grid(padding=(0, 1))
    head.add_row(
        ProgressBar(total=max(1, status.total), completed=status.done, width=_BAR_WIDTH),
        f"{share(status.done, status.total)}  {status.done:,}/{status.total:,}",
        f"[dim]{duration(elapsed)} · ETA {speed.remaining(status.total - status.done)}[/]",
    )
    numbers = Text.assemble(
        (f"{status.succeeded:,} ok", "green"),
        " · ",
        (f"{status.failed:,} failed", "red" if status.failed else "dim"),
        f" · {status.running:,} in the air · {speed.lines_per_second:,.1f} lines/s",
        f" · {status.usage.prompt_tokens:,}+{status.usage.completion_tokens:,} tokens · {dollars(status.cost)}",
    )
    rows: list[RenderableType] = [head, numbers]
    if status.blocked_on:
        rows.append(Text(f"waiting: {status.blocked_on}", style="yellow"))
    return Group(*rows)
