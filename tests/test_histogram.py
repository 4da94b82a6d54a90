"""Histograms: what is read is near what was, and adding up is as good as counting everything in one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.routing.histogram import LAST, Counts, add, bucket_of, middle_of, quantiles

TIMES = st.lists(st.integers(1, 100_000_000), min_size=1, max_size=200)
SHARES = st.floats(0.0, 1.0)


def counted(times: list[int]) -> Counts:
    counts: Counts = {}
    for time in times:
        add(counts, {bucket_of(time): 1})
    return counts


@given(TIMES, SHARES)
def test_a_quantile_is_within_5_percent_of_the_truth(times: list[int], share: float) -> None:
    truth = sorted(times)[max(1, math.ceil(share * len(times))) - 1]
    (told,) = quantiles(counted(times), share)
    assert abs(told - truth) <= 0.05 * truth


@given(TIMES, TIMES)
def test_adding_histograms_is_counting_all_in_one(some: list[int], others: list[int]) -> None:
    total = counted(some)
    add(total, counted(others))
    assert total == counted(some + others)


@given(st.integers(-5, 1 << 60), st.integers(-5, 1 << 60))
def test_any_time_has_a_bucket_and_longer_ones_no_lower_one(one: int, other: int) -> None:
    short, long = sorted((one, other))
    assert 0 <= bucket_of(short) <= bucket_of(long) <= LAST
    assert middle_of(bucket_of(short)) <= middle_of(bucket_of(long))


def test_several_quantiles_come_in_the_order_asked() -> None:
    p99, p50 = quantiles(counted([10] * 90 + [1000] * 10), 0.99, 0.5)
    assert p50 == pytest.approx(10, rel=0.05)
    assert p99 == pytest.approx(1000, rel=0.05)


def test_nothing_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="nothing"):
        quantiles({}, 0.5)
