"""Where the workers of a `run` log to: a file in the data folder, so that nothing disturbs the progress display."""

import re
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import click

from batchmill.config.logs import set_up
from batchmill.config.settings import Settings

_TROUBLE = re.compile("warning|error|Traceback")


class WorkerLog:
    """The log of one run, ours and the workers'. Kept, and its place told, when the run broke off over some trouble."""

    def __init__(self, settings: Settings, batch_id: str) -> None:
        self.finished = False
        self.path = _folder(settings.data_dir) / f"{batch_id}.log"
        self.file: IO[str] = self.path.open("a", buffering=1, encoding="utf-8")
        self._settings = settings.log
        set_up(self._settings, self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        set_up(self._settings)
        self.file.close()
        if not self.finished and _TROUBLE.search(self.path.read_text(encoding="utf-8")):
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
