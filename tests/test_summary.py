"""What a run's results say together."""

import pytest

from batchmill.cli.tally import Tally
from batchmill.store.model import LineState, Result


def result(index: int, latency_ms: int, state: LineState = LineState.SUCCEEDED, request: bytes | None = None) -> Result:
    """A line's result that took so long."""
    return Result(
        index=index, custom_id=f"line-{index}", model="a/b", state=state, latency_ms=latency_ms, request=request
    )


@pytest.mark.parametrize(
    ("count", "share", "rank"), [(1, 0.5, 1), (2, 0.5, 1), (3, 0.5, 2), (20, 0.95, 19), (100, 0.95, 95), (1, 0.95, 1)]
)
def test_a_share_of_the_latencies_is_told_by_nearest_rank(count: int, share: float, rank: int) -> None:
    tally = Tally()
    for number in range(count, 0, -1):
        tally.add(result(number, number))
    assert tally.latency_ms(share) == rank


def test_only_what_was_a_request_can_be_sent_again() -> None:
    tally = Tally()
    tally.add(result(0, 5))
    tally.add(result(1, 5, LineState.FAILED, b"{}"))
    tally.add(result(2, 0, LineState.FAILED))
    assert (tally.count, tally.sendable) == (3, 1)
