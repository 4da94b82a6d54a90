"""Made-up answers of the API, as the dashboard gets them: a busy moment of a fleet."""

import time
from decimal import Decimal
from typing import Any

from batchmill.service.compat.batch_objects import BatchObject, BatchUsage, Cost, Counts, RequestCounts
from batchmill.service.control import money, shapes
from batchmill.service.control.line_shapes import AttemptShape, LineDetail, LineError, LineRow, Lines, RoutedShape

D = Decimal  # so often that its name is in the way
NOW = int(time.time())
DAY = 86_400
MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4.5", "google/gemini-2.5-flash")
HOSTILE = "<img src=x onerror=alert(1)>"


def batch(number: int = 1, status: str = "in_progress", **fields: Any) -> BatchObject:
    """Return a batch that is half done."""
    given: dict[str, Any] = {
        "id": f"batch_{number:024x}",
        "status": status,
        "created_at": NOW - 5400,
        "in_progress_at": NOW - 5390,
        "expires_at": NOW + DAY - 5400,
        "model": MODELS[number % 3],
        "input_file_id": "file-1f0c9a",
        "request_counts": RequestCounts(12_000, 6_140, 62),
        "x_counts": Counts(5_698, 100, 6_140, 62, 0, 0, 240),
        "x_cost": Cost(D("4.182736"), D("0.0412"), D(10), D("8.05")),
        "x_eta": NOW + 4210,
        "x_models": {MODELS[number % 3]: 12_000},
        "x_project": "search",
        "x_output_file_id": f"file-out-{number:024x}",
        "x_error_file_id": f"file-err-{number:024x}",
        "usage": BatchUsage(2_400_100, output_tokens=812_400, total_tokens=3_212_500),
    }
    return BatchObject(**(given | fields))


def batches() -> tuple[BatchObject, ...]:
    """Return one of each status that matters."""
    over = Counts(0, 0, 11_938, 62, 0, 0, 0)
    return (
        batch(1),
        batch(2, x_blocked_on="budget daily until 2026-11-30 00:00 UTC", x_eta=None),
        batch(3, "completed", completed_at=NOW - 60, x_counts=over, x_eta=None,
              request_counts=RequestCounts(12_000, 11_938, 62)),
        batch(4, "validating", request_counts=RequestCounts(), x_counts=Counts(), x_cost=Cost(), x_eta=None,
              x_models={}, model=None),
        batch(5, "cancelled", cancelled_at=NOW - 3600, x_eta=None, x_counts=Counts(0, 0, 6_140, 62, 5_798, 0, 0)),
        batch(6, "expired", expired_at=NOW - 7200, x_eta=None, x_counts=Counts(0, 0, 6_140, 62, 0, 5_798, 0)),
        batch(7, "failed", failed_at=NOW - 9000, x_eta=None, x_counts=Counts(), request_counts=RequestCounts(),
              metadata={"who": HOSTILE}),
    )  # fmt: skip


def budget(name: str = "daily", **fields: Any) -> money.Budget:
    """Return a budget that is mostly spent."""
    given: dict[str, Any] = {
        "name": name, "window": "day", "timezone": "UTC", "period": "2026-11-29", "resets_at": NOW + 9000,
        "models": (), "project": None, "declared_usd": None, "limit_usd": D(20), "spent_usd": D("13.402"),
        "held_usd": D("1.25"), "suspect_usd": D("0.31"), "debt_usd": D(0), "free_usd": D("5.038"),
    }  # fmt: skip
    return money.Budget(**(given | fields))


def suspects() -> money.Suspects:
    """Return two calls of a worker that died."""
    known = money.Suspect(hold="7:31", amount_usd=D("0.21"), at=NOW - 900, model=MODELS[0], batch=batch(1).id, index=4,
                          generation_id="gen-1")  # fmt: skip
    bare = money.Suspect(hold="7:32", amount_usd=D("0.1"), at=None, model=None, batch=None, index=None,
                         generation_id=None)  # fmt: skip
    return money.Suspects(data=(known, bare), total_usd=D("0.31"))


def overview(**fields: Any) -> shapes.Overview:
    """Return a busy moment."""
    hour = tuple(shapes.Slice(at=NOW - 300 * (12 - n), seconds=300, calls=4000 + (n * 937) % 1400, failures=n % 3)
                 for n in range(12))  # fmt: skip
    given: dict[str, Any] = {
        "at": NOW, "project": None, "workers": 4, "batches": {"in_progress": 2}, "lines_pending": 11_396,
        "lines_running": 200, "blocked_more": 0, "alerts": 1, "breakers_open": 1, "alarm": None,
        "cost": shapes.CostNow(today_usd=D("13.402"), suspect_usd=D("0.31"), usd_per_hour=D("3.1"), day="2026-11-29"),
        "lanes": tuple(shapes.Lane(lane=model, lines=4000 - 900 * n, batches=2) for n, model in enumerate(MODELS)),
        "blocked": (shapes.Blocked(batch_id=batch(2).id, project="search", kinds=("budget",), pending=5698,
                                   reason="budget daily until 2026-11-30 00:00 UTC"),),
        "throughput": shapes.Throughput(per_second=18.4, per_second_5m=17.92, minute=(), hour=hour),
    }  # fmt: skip
    return shapes.Overview(**(given | fields))


def model_state(model: str, state: str = "closed", **fields: Any) -> shapes.ModelState:
    """Return how a model does."""
    is_open = state == "open"
    breaker = shapes.BreakerState(
        model=model, state=state, until_at=NOW + 30 if is_open else None,  # type: ignore[arg-type]  # a literal
        tripped_by="12 of 20 calls failed" if is_open else None, trips=1, in_air=0 if is_open else 48, share=None,
        window=None, pauses=(),
    )  # fmt: skip
    limit = shapes.LimitUse(
        name="account", match=("*",), scope="*", shared=True, requests_now=320, requests_per_minute=600,
        tokens_now=None, tokens_per_minute=None, requests_today=12_000, requests_per_day=None, in_air=96,
        max_concurrency=200, pauses=(),
    )  # fmt: skip
    given: dict[str, Any] = {
        "model": model, "health": "held" if is_open else "ok", "why": "its breaker is open" if is_open else None,
        "breaker": breaker, "paused": False, "limits": (limit,), "lines_waiting": 4000, "calls": 5400,
        "failures": 12 if is_open else 0, "limited": 3, "seconds": 300,
        "latency_ms": shapes.Spread(p50=812.4, p90=1400, p95=1893.1, p99=3120), "first_token_ms": None,
        "tokens_per_second": 84.2, "uptime": 0.999, "price": shapes.Prices(input=D("0.15"), output=D("0.6")),
    }  # fmt: skip
    return shapes.ModelState(**(given | fields))


def lines() -> Lines:
    """Return a page of lines, one with hostile text."""
    made = [
        LineRow(custom_id=f"question-{n}", index=n, state="succeeded", model=MODELS[0], attempts=1,
                       cost_usd=D("0.000341"), latency_ms=812 + n, cached=n % 7 == 0, finish_reason="stop", at=f"{n}-0")
        for n in range(12)
    ]  # fmt: skip
    wrong = LineError(code="context_length_exceeded", message=f"Too long: {HOSTILE}", status_code=400)
    made.append(LineRow(custom_id="a/b?c#d", index=12, state="failed", model=MODELS[0], attempts=2, error=wrong))
    made.append(LineRow(custom_id="waits", index=13, state="pending", model=MODELS[0]))
    return Lines(data=tuple(made), has_more=True, next="c1")


def detail() -> LineDetail:
    """Return a line that was tried twice."""
    tried: dict[str, Any] = {"model": MODELS[0], "provider": "OpenAI", "generation_id": "gen-1", "billed": "upstream",
             "first_token_ms": 210, "cached": False}  # fmt: skip
    return LineDetail(
        batch_id=batch(1).id, line=lines().data[1], request_gone=None, content=f"Seven is prime. {HOSTILE}",
        request={"model": MODELS[0], "messages": [{"role": "user", "content": f"What of 7? {HOSTILE}"}]},
        response={"id": "gen-1", "choices": [{"message": {"content": "Seven is prime."}}]},
        input_tokens=42, output_tokens=12,
        attempts=(
            AttemptShape(outcome="overloaded", status=529, latency_ms=120, cost_usd=D(0), message="Overloaded",
                                **(tried | {"first_token_ms": None})),
            AttemptShape(outcome="ok", status=200, latency_ms=813, cost_usd=D("0.00034"), message=None, **tried),
        ),
        routed=RoutedShape(asked="auto", strategy="cost", chosen=MODELS[0], reasons={MODELS[1]: "dearer"}),
    )  # fmt: skip


def spend_row(name: str, cost: str, share: str | None = None) -> money.SpendRow:
    """Return what some calls cost."""
    return money.SpendRow(
        name=name, cost_usd=D(cost), share=D(share) if share else None, suspect_usd=D(0), requests=8123,
        answered=8100, prompt_tokens=2_400_000, cached_tokens=120_000, completion_tokens=812_000, reasoning_tokens=0,
        usd_per_request=D("0.00165"), usd_per_1k_tokens=D("0.0042"),
    )  # fmt: skip


def spent() -> money.Spend:
    """Return a month."""
    days = tuple(money.SpendDay(day=f"2026-11-{n:02}", cost_usd=D((n * 7) % 13) + D("0.4"), suspect_usd=D(0))
                 for n in range(1, 30))  # fmt: skip
    rows = (
        spend_row(MODELS[0], "91.2", "0.6"),
        spend_row(MODELS[1], "45.6", "0.3"),
        spend_row(MODELS[2], "15.2", "0.1"),
    )
    return money.Spend(by="model", since="2026-11-01", until="2026-11-29", project=None, rows=rows,
                       total=spend_row("total", "152"), days=days)  # fmt: skip


def forecast() -> money.Forecast:
    """Return what is to come."""
    period = money.PeriodOutlook(period="month", id="2026-11", ends_at=NOW + DAY, spent_usd=D(152), queue_usd=D(4),
                                 pace_usd=D(9), projected_usd=D(165), low_usd=D(158), high_usd=D(175))  # fmt: skip
    held = money.BudgetForecast(
        name="daily", window="day", period="2026-11-29", ends_at=NOW + 9000, limit_usd=D(20), spent_usd=D("13.4"),
        remaining_usd=D("5.04"), queue_usd=D(8), projected_usd=D(21), low_usd=D(19), high_usd=D(23),
        outlook="may_exceed", over_budget=False, runs_out_at=NOW + 5000, runs_out_by="queue",
    )  # fmt: skip
    return money.Forecast(at=NOW, project=None, periods=(period,), budgets=(held,), queue=(),
                          pace=money.Paced(basis="weekdays", days=28), method=("The last 28 days.",))  # fmt: skip


def alerts() -> money.Alerts:
    """Return one that nobody saw, and one that somebody did."""
    made = [
        money.AlertShape(id=f"daily:{level}", at=NOW - 600, kind="budget", level="warning", subject="daily",
                         period="2026-11-29", text=f"Budget daily is {level} % spent.", amount_usd=D(16),
                         limit_usd=D(20), count=None,
                         acknowledged=money.Seen(who="key 1", at=NOW - 60) if level == 80 else None)
        for level in (95, 80)
    ]  # fmt: skip
    return money.Alerts(data=tuple(made))


def advice() -> money.Recommendations:
    """Return a saving."""
    option = money.SavingOption(model=MODELS[2], kind="model", saving_usd=D(31), cost_usd=D(60), requests=8000,
                                prices=None, caveats=("its answers may be longer",))  # fmt: skip
    told = money.Advice(
        model=MODELS[0], requests=8123, prompt_tokens=1, cached_tokens=0, completion_tokens=1, reasoning_tokens=0,
        first_at_ms=0, last_at_ms=0, context_used=1, longest_answer=1, needs=(), needs_source="records", unknown=None,
        paid_usd=D(91), price_today_usd=D(91), reckoned_from_usd=D(91), prices=None, considered=300, fitting=40,
        options=(option,), caching=None,
    )  # fmt: skip
    return money.Recommendations(since="2026-11-01", until="2026-11-29", models=(told,),
                                 left_out=money.LeftOut(requests=0, paid_usd=D(0)))  # fmt: skip


def fleet() -> shapes.Fleet:
    """Return four workers, one of which is gone."""
    workers = tuple(
        shapes.Worker(id=f"host-{n}:4{n}1", alive=n < 3, last_heartbeat_at=NOW - n, silent_seconds=float(n), in_air=50,
                      held_usd=D("0.31"), models={MODELS[0]: 30, MODELS[1]: 20})
        for n in range(4)
    )  # fmt: skip
    return shapes.Fleet(at=NOW, upstream="openrouter.ai", workers=workers, alive=3, in_air=150, concurrency=100,
                        room=300, lanes=overview().lanes)  # fmt: skip
