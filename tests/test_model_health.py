"""What follows for a model from what was counted and stated: values in, values out."""

import pytest

from batchmill.routing.health import (
    EndpointHealth,
    Stated,
    Tally,
    Traffic,
    Window,
    health_from,
    tallied,
    traffic_of,
    youngest,
)


@pytest.mark.parametrize(
    ("calls", "place"),
    [
        ([20, 20, 20, 20], 0),
        ([19, 25, 25, 25], 1),
        ([0, 3, 19, 400], 3),
        ([0, 3, 3, 3], 1),  # nowhere enough: the shortest window that has all
        ([0, 0, 0, 7], 3),
        ([0, 0, 0, 0], 0),
    ],
)
def test_the_youngest_window_with_enough_calls_counts(calls: list[int], place: int) -> None:
    assert youngest(calls) == place


def test_a_tally_keeps_faults_limits_and_times_apart() -> None:
    tally = Tally()
    tally.answered(1000, None, 100)
    tally.answered(3000, 1000, 300)
    tally.answered(500, 500, 0)  # no tokens: says nothing about their speed
    tally.failed()
    tally.refused()
    traffic = traffic_of("a/b", Window.MINUTE, tally, at=1_000, now=4_500)
    assert (traffic.calls, traffic.failures, traffic.limited) == (4, 1, 1)
    assert traffic.success_rate == 0.75
    assert traffic.tokens_per_second == pytest.approx(400 / 3)  # 1 s, and the 2 s from the first token on
    assert traffic.latency is not None
    assert traffic.first_token is not None
    assert traffic.latency.p50 == pytest.approx(1000, rel=0.05)
    assert traffic.latency.p99 == pytest.approx(3000, rel=0.05)
    assert traffic.first_token.p90 == pytest.approx(1000, rel=0.05)
    assert (traffic.source, traffic.seconds, traffic.age) == ("fleet", 60, 3.5)


def test_tallies_add_up() -> None:
    one, other, both = Tally(), Tally(), Tally()
    for tally in (one, both):
        tally.answered(100, 40, 7)
        tally.failed()
    for tally in (other, both):
        tally.answered(100, None, 9)
        tally.refused()
    assert tallied([one, other]) == both
    assert one.latency != both.latency  # what was added to is a new one


def test_nothing_seen_has_no_rate_and_no_age() -> None:
    traffic = traffic_of("a/b", Window.DAY, Tally(), at=0, now=9)
    assert traffic == Traffic(model="a/b", seconds=86_400)
    assert traffic.success_rate is None
    assert health_from(traffic, None).seconds == 0


@pytest.mark.parametrize(
    ("endpoint", "down"),
    [
        (EndpointHealth("A"), False),
        (EndpointHealth("A", status=0, uptime=0.5), False),
        (EndpointHealth("A", status=0, uptime=0.49), True),
        (EndpointHealth("A", status=-2, uptime=1.0), True),
        (EndpointHealth("A", status=7), False),
    ],
)
def test_who_is_down_says_so_by_status_or_uptime(endpoint: EndpointHealth, down: bool) -> None:
    assert endpoint.down is down


def test_a_model_is_up_as_its_best_serving_endpoint_and_fast_as_the_middle_one() -> None:
    stated = Stated(
        7,
        (
            EndpointHealth("A", uptime=0.9, latency_ms=300, tokens_per_second=10),
            EndpointHealth("B", uptime=0.97, latency_ms=500, tokens_per_second=30),
            EndpointHealth("C", latency_ms=400),
            EndpointHealth("D", status=-1, uptime=1.0, latency_ms=1),  # serves nothing
        ),
    )
    assert (stated.uptime, stated.latency_ms, stated.tokens_per_second) == (0.97, 400, 20)
    health = health_from(Traffic(model="a/b", seconds=60), stated, open_until=9, half_open=False)
    assert (health.uptime, health.stated_latency_ms, health.stated_tokens_per_second) == (0.97, 400, 20)
    assert (health.stated_at, health.measured_at, health.open) == (7, 0, 9)


@pytest.mark.parametrize(
    ("endpoints", "uptime"),
    [
        ((), None),
        ((EndpointHealth("A"),), None),
        ((EndpointHealth("A", status=-5),), 0.0),
        ((EndpointHealth("A", status=-5), EndpointHealth("B")), None),
        ((EndpointHealth("A", uptime=0.2), EndpointHealth("B", uptime=0.3)), 0.3),
    ],
)
def test_uptime_when_little_is_said_or_all_are_down(
    endpoints: tuple[EndpointHealth, ...], uptime: float | None
) -> None:
    assert Stated(1, endpoints).uptime == uptime
