"""Money as an integer, and as people read it."""

import pytest

from batchmill.openrouter.money import dollars


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.000000"),
        (1, "$0.000000001"),
        (360, "$0.000000360"),
        (10_000, "$0.000010"),
        (9_999_999, "$0.010000"),
        (10_000_000, "$0.0100"),
        (99_990_000_000, "$99.9900"),
        (1_234_500_000_000, "$1,234.50"),
    ],
)
def test_dollars_have_as_many_digits_as_matter(nano: int, text: str) -> None:
    assert dollars(nano) == text
