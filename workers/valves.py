"""What the gate last said about one model to one lane: how many lines to ask for, from when, and what holds them.

A wait ends by its timer or by what was waited for, never by a look at a clock: a timer may come before its time.
"""

import asyncio
from collections.abc import Callable

from batchmill.config.policy import Trouble
from batchmill.store.gate import NEVER, Reply, Why

WIDEST = 256
"""Lines of a lane that one call of the gate is asked about, at most."""

_LONGEST_BLOCK = 2.0  # seconds until we ask again, whatever we were told: limits may be changed meanwhile
_UNKNOWN_WAIT = 0.25
_AT_ONCE = (Why.NOTHING, Why.POLICY, Why.WINDOW, Why.BUDGET)

Wake = Callable[[], None]


class Valve:
    """`width` narrows when the gate refuses and widens when it does not; `trouble` is why it is not open."""

    __slots__ = ("_landing", "_on_change", "_rest", "asked", "model", "trouble", "width")

    def __init__(self, model: str, on_change: Callable[[], None]) -> None:
        self.model = model
        self.asked = 0  # lines at the gate
        self.width = WIDEST
        self.trouble: Trouble | None = None
        self._on_change = on_change
        self._rest: asyncio.TimerHandle | None = None  # nothing is asked until it ends
        self._landing = False  # what is waited for may come with a line that lands

    @property
    def open(self) -> bool:
        """Whether a line may be asked for now."""
        return self._rest is None and self.asked < self.width

    @property
    def limited(self) -> bool:
        """Whether the gate lets less through than there is."""
        return self.width < WIDEST

    def learn(self, reply: Reply, admitted: int, wake: Wake, trouble: Trouble | None = None) -> None:
        """Take the gate's answer to heart: ask for fewer lines, and not before it is of use."""
        self._end_rest()
        self._on_change()
        self.trouble = trouble
        if reply.why in _AT_ONCE:
            if reply.why is Why.NOTHING:
                self.width = min(WIDEST, 2 * self.width)
            return
        self.width = max(1, min(self.width, 2 * admitted))
        self._landing = reply.wait == NEVER
        wait = _UNKNOWN_WAIT if reply.wait == NEVER else min(_LONGEST_BLOCK, reply.wait / 1000)
        self._rest = asyncio.get_running_loop().call_later(wait, self._rested, wake)

    def landed(self) -> None:
        """Note that a line came back and is settled: if places were waited for, there may be one."""
        if self._landing:
            self._end_rest()
            self._on_change()

    def _rested(self, wake: Wake) -> None:
        self._rest = None
        self._on_change()
        wake()

    def _end_rest(self) -> None:
        self._landing = False
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
