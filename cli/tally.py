"""What the results say together: latencies, and failures by cause."""

import math
from array import array
from collections import Counter

import msgspec

from batchmill.store.model import LineState, Result


class FailureGroup(msgspec.Struct, frozen=True):
    """The failures of one cause, with what one of them said."""

    code: str
    count: int
    example: str


class Tally:
    """Adds up results; a few bytes a line."""

    def __init__(self) -> None:
        self.count = 0
        self.sendable = 0  # failed and expired lines that can be sent again: those that were requests at all
        self._latencies = array("I")
        self._codes: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, result: Result) -> None:
        """Count one result."""
        self.count += 1
        if result.cached:
            return  # no call was made, so it took no time
        if result.succeeded:
            self._latencies.append(max(0, result.latency_ms))
        elif result.state in (LineState.FAILED, LineState.EXPIRED):
            code = result.error_code or "unknown"
            self._codes[code] += 1
            self.sendable += result.request is not None
            self._examples.setdefault(code, f"{result.custom_id}: {result.error_message or 'no message'}")

    def latency_ms(self, share: float) -> int | None:
        """Return the latency that this share of the succeeded lines did not exceed (nearest rank)."""
        if not self._latencies:
            return None
        ranked = sorted(self._latencies)
        return ranked[max(0, math.ceil(share * len(ranked)) - 1)]

    def failures(self) -> list[FailureGroup]:
        """Return the failures by cause, the most frequent first."""
        return [FailureGroup(code, count, self._examples[code]) for code, count in self._codes.most_common()]
