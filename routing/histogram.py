"""Histograms of times with fixed buckets, so that those of many workers and slots of time are one by adding.

A bucket reaches from a power of 1.1 to the next, in milliseconds, and stands for its geometric middle: what is read
from a histogram is within 5 % of what really was, whatever the times are. Below a millisecond nothing is told apart.
"""

import math
from collections.abc import Mapping
from typing import Final

Counts = dict[int, int]
"""Bucket -> how many."""

WIDTH: Final = 1.1
LAST: Final = 200
"""The bucket of everything from about two days on."""

_SCALE = 1 / math.log(WIDTH)


def bucket_of(milliseconds: float) -> int:
    """Return the bucket of a time."""
    return min(LAST, int(math.log(milliseconds) * _SCALE)) if milliseconds > 1 else 0


def middle_of(bucket: int) -> float:
    """Return the time (ms) that a bucket stands for."""
    return float(WIDTH ** (bucket + 0.5))


def add(total: Counts, counts: Mapping[int, int]) -> None:
    """Count in `total` what was counted in the other one, too."""
    for bucket, count in counts.items():
        total[bucket] = total.get(bucket, 0) + count


def quantiles(counts: Mapping[int, int], *shares: float) -> list[float]:
    """Return, for each share (0 to 1), the least time (ms) that at least so many of the times do not exceed.

    Raises ValueError for a histogram of nothing.
    """
    total = sum(counts.values())
    if total <= 0:
        raise ValueError("a histogram of nothing has no quantiles")
    ordered, found = sorted(counts), []
    for share in shares:
        rank, passed = max(1, math.ceil(share * total)), 0
        for bucket in ordered:
            passed += counts[bucket]
            if passed >= rank:
                break
        found.append(middle_of(bucket))
    return found
