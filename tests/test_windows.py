"""Windows tile time, in every zone, whatever its clocks do."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchmill.config.windows import TOTAL, Window, WindowKind, window_at

CALENDAR = (WindowKind.HOUR, WindowKind.DAY, WindowKind.WEEK, WindowKind.MONTH)
HOUR = 3_600_000
LONGEST = {WindowKind.HOUR: 2, WindowKind.DAY: 49, WindowKind.WEEK: 8 * 24, WindowKind.MONTH: 32 * 24}

instants = st.integers(0, 4_102_444_800_000)  # 1970 to 2100
zones = st.sampled_from(sorted(available_timezones()))


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("kind", "zone", "now", "name", "start", "end"),
    [
        ("hour", "UTC", "2026-11-24T15:59:59.999Z", "2026-11-24T15", "2026-11-24T15:00Z", "2026-11-24T16:00Z"),
        ("hour", "Asia/Kathmandu", "2026-11-24T15:10Z", "2026-11-24T20", "2026-11-24T14:15Z", "2026-11-24T15:15Z"),
        ("day", "UTC", "2026-11-24T00:00Z", "2026-11-24", "2026-11-24T00:00Z", "2026-11-25T00:00Z"),
        ("day", "Europe/Berlin", "2026-11-24T23:00Z", "2026-11-25", "2026-11-24T23:00Z", "2026-11-25T23:00Z"),
        ("week", "UTC", "2026-11-24T12:00Z", "2026-W48", "2026-11-23T00:00Z", "2026-11-30T00:00Z"),
        ("week", "UTC", "2027-01-03T12:00Z", "2026-W53", "2026-12-28T00:00Z", "2027-01-04T00:00Z"),
        ("month", "UTC", "2026-12-31T12:00Z", "2026-12", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        ("month", "Asia/Tokyo", "2026-11-30T15:00Z", "2026-12", "2026-11-30T15:00Z", "2026-12-31T15:00Z"),
        # the clocks go forward: a day of 23 hours, a month that is an hour shorter
        ("day", "Europe/Berlin", "2026-03-29T12:00Z", "2026-03-29", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
        ("month", "Europe/Berlin", "2026-03-01T12:00Z", "2026-03", "2026-02-28T23:00Z", "2026-03-31T22:00Z"),
        ("hour", "Europe/Berlin", "2026-03-29T01:30Z", "2026-03-29T03", "2026-03-29T01:00Z", "2026-03-29T02:00Z"),
        # back: a day of 25 hours, and an hour that comes twice
        ("day", "Europe/Berlin", "2026-10-25T12:00Z", "2026-10-25", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
        ("hour", "Europe/Berlin", "2026-10-25T00:30Z", "2026-10-25T02+0200", "2026-10-25T00:00Z", "2026-10-25T01:00Z"),
        ("hour", "Europe/Berlin", "2026-10-25T01:30Z", "2026-10-25T02+0100", "2026-10-25T01:00Z", "2026-10-25T02:00Z"),
        ("hour", "Europe/Berlin", "2026-10-25T02:30Z", "2026-10-25T03", "2026-10-25T02:00Z", "2026-10-25T03:00Z"),
        # half an hour back, over half of an hour
        (
            *("hour", "Australia/Lord_Howe", "2026-04-04T15:10Z"),
            *("2026-04-05T01+1030", "2026-04-04T15:00Z", "2026-04-04T15:30Z"),
        ),
        # midnight is skipped; it comes twice; the clocks fall back over it by a minute past; a day is skipped
        ("day", "America/Sao_Paulo", "2018-11-04T12:00Z", "2018-11-04", "2018-11-04T03:00Z", "2018-11-05T02:00Z"),
        ("day", "America/Havana", "2026-11-01T04:30Z", "2026-11-01", "2026-11-01T04:00Z", "2026-11-02T05:00Z"),
        ("day", "America/St_Johns", "2006-10-29T02:40Z", "2006-10-29", "2006-10-29T02:30Z", "2006-10-30T03:30Z"),
        ("day", "Pacific/Apia", "2011-12-30T09:00Z", "2011-12-29", "2011-12-29T10:00Z", "2011-12-30T10:00Z"),
        ("day", "Pacific/Apia", "2011-12-30T10:00Z", "2011-12-31", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),
    ],
)
def test_a_window_follows_the_zone_s_calendar(kind: str, zone: str, now: str, name: str, start: str, end: str) -> None:
    assert window_at(WindowKind(kind), zone, ms(now)) == Window(name, ms(start), ms(end))


@given(instants, zones)
def test_the_total_is_one_window(now: int, zone: str) -> None:
    assert window_at(WindowKind.TOTAL, zone, now) == TOTAL == Window("total", 0, None)
    assert TOTAL.covers(now)


@given(st.sampled_from(CALENDAR), zones, instants)
@example(WindowKind.DAY, "America/St_Johns", ms("2006-10-29T02:31Z"))
@example(WindowKind.DAY, "America/Toronto", ms("1919-03-31T05:00Z") + 100 * 365 * 24 * HOUR)
@example(WindowKind.HOUR, "Australia/Lord_Howe", ms("2026-04-04T15:00Z"))
@example(WindowKind.WEEK, "Pacific/Apia", ms("2011-12-30T10:00Z"))
@example(WindowKind.DAY, "Pacific/Kwajalein", ms("1993-08-21T12:00Z"))
def test_windows_tile_time(kind: WindowKind, zone: str, now: int) -> None:
    window = window_at(kind, zone, now)
    assert window.end_ms is not None
    assert window.start_ms <= now < window.end_ms
    assert window.covers(now)
    assert not window.covers(window.end_ms)
    for inside in (window.start_ms, (window.start_ms + window.end_ms) // 2, window.end_ms - 1):
        assert window_at(kind, zone, inside) == window
    after = window_at(kind, zone, window.end_ms)
    before = window_at(kind, zone, window.start_ms - 1)
    assert after.start_ms == window.end_ms
    assert before.end_ms == window.start_ms
    assert len({before.id, window.id, after.id}) == 3
    assert 0 < window.end_ms - window.start_ms <= LONGEST[kind] * HOUR


@given(zones, instants)
def test_a_window_is_named_after_what_the_clocks_show(zone: str, now: int) -> None:
    """But for the minutes that a zone whose clocks fall back over midnight shows twice."""
    shown = datetime.fromtimestamp(now // 1000, UTC).astimezone(ZoneInfo(zone))
    assert window_at(WindowKind.HOUR, zone, now).id.startswith(f"{shown:%Y-%m-%dT%H}")
    day = window_at(WindowKind.DAY, zone, now)
    assert day.id == f"{shown:%Y-%m-%d}" or day.end_ms != day.start_ms + 24 * HOUR


def test_a_zone_that_is_none_is_refused() -> None:
    with pytest.raises(ZoneInfoNotFoundError):
        window_at(WindowKind.DAY, "Mars/Olympus", 0)
