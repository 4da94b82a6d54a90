"""What a process learns from refusals."""

import pytest

from batchmill.openrouter.outcomes import Failure, Retry, Scope
from batchmill.workers import pacing
from batchmill.workers.pacing import Pacing, Rested, Share

from .workers_helpers import failure


class Clock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    return clock


LIMITED = failure(Retry.LATER, status=429)


def test_a_rest_ends_when_it_was_said_to(clock: Clock) -> None:
    pace = Pacing()
    assert pace.refuse("a/b", LIMITED, 5.0) == Rested("a/b", 5.0, begun=True)
    clock.now += 4.9
    assert pace.rests("a/b") == pytest.approx(0.1)
    clock.now += 0.2
    assert pace.rests("a/b") == 0.0
    assert pace.rests("c/d") == 0.0


@pytest.mark.parametrize("told", [None, 5.0])
def test_refusals_of_one_volley_are_one_rest(clock: Clock, told: float | None) -> None:
    """Told how long or not, and over the time that a volley takes to come back."""
    pace = Pacing()
    first = pace.refuse("a/b", LIMITED, told)
    assert first is not None
    news = []
    for _ in range(99):
        clock.now += 0.001
        news.append(pace.refuse("a/b", LIMITED, told))
    assert news == [None] * 99
    assert pace.rests("a/b") <= (told or 1.0)


def test_a_longer_word_from_the_upstream_counts_even_in_a_rest(clock: Clock) -> None:
    pace = Pacing()
    pace.refuse("a/b", LIMITED, 1.0)
    assert pace.refuse("a/b", LIMITED, 30.0) == Rested("a/b", 30.0, begun=False)
    assert pace.refuse("a/b", LIMITED, 2.0) is None
    assert pace.rests("a/b") == 30.0


def test_untold_rests_grow_and_a_success_forgets_them(clock: Clock) -> None:
    pace = Pacing()
    seen = []
    for _ in range(8):
        rested = pace.refuse("a/b", LIMITED, None)
        assert rested is not None
        seen.append(rested.seconds)
        clock.now += rested.seconds + 1
    assert seen == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    pace.succeeded("a/b")
    assert pace.refuse("a/b", LIMITED, None) == Rested("a/b", 1.0, begun=True)


@pytest.mark.parametrize("refusal", [LIMITED, failure(Retry.ACCOUNT, status=402)])
def test_what_still_lands_does_not_end_a_rest(clock: Clock, refusal: Failure) -> None:
    pace = Pacing()
    pace.refuse("a/b", refusal, 30.0)
    pace.succeeded("a/b")
    assert pace.rests("a/b") == 30.0


@pytest.mark.parametrize(
    ("told", "rests", "free"),
    [
        (failure(Retry.LATER, scope=Scope.MODEL), {"a/b:free"}, {"c/d:free", "c/d"}),
        (failure(Retry.LATER, scope=Scope.FREE_MODELS), {"a/b:free", "c/d:free"}, {"c/d"}),
        (failure(Retry.LATER, scope=Scope.ACCOUNT), {"a/b:free", "c/d:free", "c/d"}, set()),
        (failure(Retry.ACCOUNT, scope=Scope.ACCOUNT), {"a/b:free", "c/d:free", "c/d"}, set()),
    ],
)
def test_a_refusal_rests_exactly_its_scope(told: Failure, rests: set[str], free: set[str], clock: Clock) -> None:
    pace = Pacing()
    pace.refuse("a/b:free", told, 10.0)
    assert {model for model in rests | free if pace.rests(model)} == rests


def test_a_share_is_cut_from_what_is_in_the_air_and_never_to_nothing() -> None:
    share = Share(100)
    share.cut(in_air=9)
    assert share.limit == pytest.approx(7.0)
    for _ in range(20):
        share.cut(in_air=0)
    assert share.limit == 1.0


def test_a_share_grows_by_one_a_round_up_to_its_ceiling() -> None:
    share = Share(10)
    share.cut(in_air=4)
    before = share.limit
    for _ in range(int(before) + 1):
        share.grow()
    assert before + 0.9 < share.limit < before + 1.5
    for _ in range(1000):
        share.grow()
    assert share.limit == 10
