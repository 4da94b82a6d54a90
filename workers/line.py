"""One line on its way, and the shard run that it belongs to: plain state, no I/O."""

import asyncio
from collections.abc import Iterable

from batchmill.store.lanes import Claim, Ending
from batchmill.store.model import Attempt, Line


class LineRun:
    """A line between two calls: what was tried so far."""

    __slots__ = ("attempts", "failures", "limited_since", "line", "shard")

    def __init__(self, line: Line, shard: "ShardRun") -> None:
        self.line = line
        self.shard = shard
        self.attempts: list[Attempt] = []
        self.failures = 0  # attempts that count; being told to wait does not
        self.limited_since: float | None = None


class ShardRun:
    """One execution of a shard. `ended` resolves when nothing of it is in the air and all that came is recorded."""

    __slots__ = ("cancelled", "claim", "ended", "in_air", "open_lines", "stopping", "unrecorded")

    def __init__(self, claim: Claim, lines: Iterable[Line], *, cancelled: bool = False) -> None:
        self.claim = claim
        self.cancelled = cancelled
        self.stopping = False  # drain, or the lease is lost: begin nothing more
        self.open_lines = {line.index: LineRun(line, self) for line in lines}
        self.in_air = 0
        self.unrecorded = 0
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def recorded(self, index: int) -> None:
        """Note that a line's result is in Redis."""
        self.unrecorded -= 1
        self.open_lines.pop(index, None)
        self.end_if_over()

    def end_if_over(self) -> None:
        """Resolve `ended` when every line is recorded, or when the run stops and nothing of it is on its way."""
        if self.ended.done() or self.in_air or self.unrecorded:
            return
        if not self.open_lines:
            self.ended.set_result(Ending.DONE)
        elif self.stopping:
            self.ended.set_result(Ending.GIVE_BACK)
