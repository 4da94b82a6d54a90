"""Numbers as people read them: short, never flattering, and exact in the title."""

import time
from decimal import Decimal

import pytest

from batchmill.service.dashboard import charts, figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "$0"),
        ("0.0000000001", "<$0.000001"),
        ("0.000001", "$0.0000010"),
        ("0.00034123", "$0.00034"),
        ("0.0412", "$0.041"),
        ("0.31", "$0.31"),
        ("4.182736", "$4.18"),
        ("9999.999", "$10,000.00"),
        ("12345.6", "$12,346"),
        ("-0.05", "-$0.050"),
    ],
)
def test_dollars(value: str, text: str) -> None:
    assert figures.dollars(Decimal(value)) == text
    assert f'title="${Decimal(value):f}"' in figures.usd(Decimal(value))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (99_999, "99,999"), (100_000, "100k"), (812_400, "812k"), (3_212_500, "3.21M"), (45_000_000, "45.0M"),
     (10**9, "1.00G")],
)  # fmt: skip
def test_counts(value: int, text: str) -> None:
    assert figures.short(value) == text


def test_what_is_not_known_says_so() -> None:
    for shown in (figures.usd, figures.count, figures.rate, figures.millis, figures.ago, figures.moment):
        assert "not known" in shown(None)


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(0, 10, "0 %"), (1, 1000, "<1 %"), (999, 1000, "99 %"), (5, 5, "100 %"), (1, 0, "0 %")]
)
def test_a_share_is_never_rounded_up(part: float, whole: float, text: str) -> None:
    assert figures.percent(part, whole) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min"), (3700, "1 h 01 min"), (90_000, "1 d 1 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert figures.duration(seconds) == text


def test_times_are_told_from_now() -> None:
    now = int(time.time())
    assert ">5 min ago<" in figures.ago(now - 310)
    assert ">in 2 h" in figures.ago(now + 7300)
    assert 'datetime="2023-11-14T22:13:20+00:00"' in figures.moment(1_700_000_000)


def test_markup_in_a_value_stays_text() -> None:
    assert "<script" not in figures._figure("<script>", '"><script>', "x")


@pytest.mark.parametrize(("value", "top"), [("0", "1"), ("0.07", "0.08"), ("1", "1"), ("13", "15"), ("4999", "5000")])
def test_a_scale_ends_at_a_round_number(value: str, top: str) -> None:
    assert charts.ceiling(Decimal(value)) == Decimal(top)


def test_columns_fit_their_drawing() -> None:
    drawn = charts.columns([("a", Decimal(1)), ("b", Decimal(0)), ("c", Decimal("7.3"))], width=300, height=100)
    assert [bar.label for bar in drawn.bars] == ["a", "b", "c"]
    assert all(0 <= bar.y <= 100 and bar.y + bar.height == pytest.approx(100) for bar in drawn.bars)
    assert drawn.bars[-1].x + drawn.bars[-1].width <= 300
    assert charts.columns([]).bars == ()


def test_parts_never_go_beyond_the_whole() -> None:
    parts = charts.divided(Decimal(10), [("spent", Decimal(8)), ("held", Decimal(5)), ("debt", Decimal(3))])
    assert sum(part.length for part in parts) == pytest.approx(100)
    assert [part.length for part in parts] == [80, 20, 0]
    assert all(part.length == 0 for part in charts.divided(Decimal(0), [("spent", Decimal(1))]))


def test_commands_in_a_sentence_are_code_and_nothing_else_is() -> None:
    assert figures.prose("`a <b>` makes room & `c`") == "<code>a &lt;b&gt;</code> makes room &amp; <code>c</code>"
    assert figures.prose("a lone ` <i>") == "a lone ` &lt;i&gt;"


def test_what_an_audit_tells_is_plain() -> None:
    assert figures.plain({"budgets": {"daily": "0.6"}, "models": ["a", "b"], "why": None}) == (
        "budgets daily 0.6, models a, b, why none"
    )
