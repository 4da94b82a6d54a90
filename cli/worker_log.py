"""Where the workers of a `run` log to: a file in the data folder, so that nothing disturbs the progress display."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import click

from batchmill.config.logs import set_up
from batchmill.config.settings import Settings


class WorkerLog:
    """The log of one run, ours and the workers'. Gone when all went well (`keep` is false), else its place is told."""

    def __init__(self, settings: Settings, batch_id: str) -> None:
        self.keep = True
        self.path = _folder(settings.data_dir) / f"{batch_id}.log"
        self.file: IO[str] = self.path.open("a", buffering=1, encoding="utf-8")
        set_up(settings.log, self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.keep and self.path.stat().st_size:
            click.echo(f"what the workers logged: {self.path}", err=True)
        else:
            self.path.unlink(missing_ok=True)


def _folder(data_dir: Path) -> Path:
    folder = data_dir / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:  # with a Redis elsewhere, nothing else asks for a data folder
        return Path(tempfile.gettempdir())
    return folder
