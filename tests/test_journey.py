"""What follows from a call's outcome, as a table."""

from types import SimpleNamespace

import pytest

from batchmill.config.settings import RetrySettings
from batchmill.openrouter.outcomes import Billed, Fault, Retry
from batchmill.store.lanes import Claim
from batchmill.store.model import Line, LineState
from batchmill.workers import journey
from batchmill.workers.journey import RestScope, Settled, TryAgain, judge
from batchmill.workers.line import LineRun, ShardRun

from .workers_helpers import OK, failure

RETRY = RetrySettings(max_attempts=3, first_delay=1.0, max_delay=4.0, max_limited_wait=100.0)


@pytest.fixture
async def run() -> LineRun:
    claim = Claim("upstream", "a/b", "batch_1.0.1", "run-1", "1")
    return LineRun(Line(7, "seven", b"{}"), ShardRun(claim, []))


async def test_an_answer_settles_the_line_with_everything_that_it_told(run: LineRun) -> None:
    verdict = judge(run, OK, RETRY)
    assert isinstance(verdict, Settled)
    result = verdict.result
    assert (result.index, result.custom_id, result.state) == (7, "seven", LineState.SUCCEEDED)
    assert (result.cost, result.usage, result.response) == (700, OK.usage, OK.body)
    assert result.request is None


async def test_costs_of_all_attempts_add_up(run: LineRun) -> None:
    judge(run, failure(Retry.BACKOFF, billed=Billed.YES, cost=40), RETRY)
    verdict = judge(run, OK, RETRY)
    assert isinstance(verdict, Settled)
    assert verdict.result.cost == 740
    assert [attempt.billed for attempt in verdict.result.attempts] == ["yes", None]


async def test_backoff_has_full_jitter_under_a_growing_ceiling_and_honours_retry_after(
    run: LineRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    plain, told = failure(Retry.BACKOFF), failure(Retry.BACKOFF, retry_after=9.0)
    assert judge(run, plain, RETRY) == TryAgain(plain, 1.0)
    assert judge(run, told, RETRY) == TryAgain(told, 9.0 + 2.0)
    assert isinstance(judge(run, failure(Retry.BACKOFF), RETRY), Settled)


async def test_backoff_is_capped(run: LineRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    many = RetrySettings(max_attempts=50, first_delay=1.0, max_delay=4.0)
    verdicts = [judge(run, failure(Retry.BACKOFF), many) for _ in range(40)]
    assert verdicts[-1] == TryAgain(failure(Retry.BACKOFF), 4.0)


@pytest.mark.parametrize("retry", [Retry.BACKOFF, Retry.LATER, Retry.ACCOUNT])
async def test_an_absurd_wait_is_cut(run: LineRun, retry: Retry) -> None:
    verdict = judge(run, failure(retry, retry_after=1e300), RETRY)
    assert isinstance(verdict, TryAgain | RestScope)
    assert verdict.delay is not None
    assert verdict.delay <= RETRY.max_limited_wait + RETRY.max_delay


async def test_a_limit_is_news_once_however_often_it_is_told(run: LineRun) -> None:
    limited = failure(Retry.LATER, code="rate_limit_exceeded", status=429, fault=Fault.LIMIT, retry_after=2.0)
    for _ in range(5):
        assert judge(run, limited, RETRY) == RestScope(limited, 2.0)
    assert [attempt.outcome for attempt in run.attempts] == ["rate_limit_exceeded"]
    assert run.failures == 0


async def test_a_line_that_is_limited_for_too_long_fails(run: LineRun, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 99.0, 101.0])
    monkeypatch.setattr(journey, "time", SimpleNamespace(monotonic=lambda: next(now)))
    limited = failure(Retry.LATER, code="rate_limit_exceeded", status=429)
    assert isinstance(judge(run, limited, RETRY), RestScope)
    assert isinstance(judge(run, limited, RETRY), RestScope)
    verdict = judge(run, limited, RETRY)
    assert isinstance(verdict, Settled)
    assert verdict.result.error_code == "rate_limit_exceeded"


async def test_a_refused_account_says_nothing_about_the_line(run: LineRun) -> None:
    refused = failure(Retry.ACCOUNT, status=401)
    assert judge(run, refused, RETRY) == RestScope(refused, 60.0)
    assert run.attempts == []


async def test_a_failure_without_a_body_leaves_an_error_instead_of_a_response(run: LineRun) -> None:
    verdict = judge(run, failure(Retry.NEVER, code="timeout", status=None, message="too slow"), RETRY)
    assert isinstance(verdict, Settled)
    result = verdict.result
    assert (result.status_code, result.response) == (None, None)
    assert (result.error_code, result.error_message, result.request) == ("timeout", "too slow", b"{}")


async def test_a_cancelled_line_keeps_its_attempts(run: LineRun) -> None:
    judge(run, failure(Retry.BACKOFF, billed=Billed.YES, cost=40), RETRY)
    result = journey.unsent(run, LineState.CANCELLED)
    assert (result.state, result.cost, len(result.attempts)) == (LineState.CANCELLED, 40, 1)
