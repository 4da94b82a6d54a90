"""Rate caps of the simulator, and its admin paths."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from batchmill.openrouter.simulator import FaultKind, Faults, ModelFaults
from batchmill.openrouter.simulator.admin import Admin, is_loopback
from batchmill.openrouter.simulator.options import SimulatorOptions
from batchmill.openrouter.simulator.upstream import Upstream

from .simulator_helpers import MODEL, desk
from .waiting import wait_until

OTHER = "x-ai/grok-4-fast"
THIRD = "deepseek/deepseek-v3.2"
FREE = "z-ai/glm-4.5-air:free"
OTHER_FREE = "qwen/qwen3-coder:free"
NOON = 1_795_521_600.0  # 2026-11-24T12:00:00Z
MIDNIGHT_MS = "1795564800000"


async def test_requests_a_minute_are_capped_by_pattern() -> None:
    now = [NOON + 50]
    async with desk(clock=lambda: now[0], rpm={"openai/*": 2}) as at:
        statuses = [(await at.ask()).status for _ in range(2)]
        refused = await at.ask(model="openai/gpt-4o")
        other = await at.ask(model="x-ai/grok-4-fast")
        now[0] = NOON + 60
        later = await at.ask()
    assert (statuses, refused.status, other.status, later.status) == ([200, 200], 429, 200, 200)
    assert refused.error["message"] == "Provider returned error"
    assert refused.metadata["limit_source"] == "upstream_provider_shared_pool"
    assert "openai/gpt-4o is temporarily rate-limited upstream" in refused.metadata["raw"]
    assert refused.headers["Retry-After"] == "11"
    assert not any(name.startswith("X-RateLimit") for name in refused.headers)


async def test_every_pattern_that_matches_counts() -> None:
    async with desk(clock=lambda: NOON, rpm={"*": 3, "openai/*": 1}) as at:
        statuses = [(await at.ask(model=model)).status for model in (MODEL, MODEL, FREE, FREE, FREE)]
    assert statuses == [200, 429, 200, 200, 429]


async def test_free_models_share_a_cap_a_minute() -> None:
    async with desk(clock=lambda: NOON + 30) as at:
        statuses = [(await at.ask(model=model)).status for model in (FREE, OTHER_FREE) * 10]
        refused = await at.ask(model=FREE)
        paid = await at.ask()
    assert statuses == [200] * 20
    assert (refused.status, paid.status) == (429, 200)
    assert refused.error["message"] == "Rate limit exceeded: free-models-per-min."
    assert refused.headers["X-RateLimit-Limit"] == "20"
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    assert refused.headers["X-RateLimit-Reset"] == str(int((NOON + 60) * 1000))
    assert refused.headers["Retry-After"] == "31"
    assert refused.metadata["headers"]["X-RateLimit-Reset"] == refused.headers["X-RateLimit-Reset"]


async def test_free_models_share_a_cap_a_day() -> None:
    now = [NOON]
    async with desk(clock=lambda: now[0], free_rpm=None, free_daily=2) as at:
        statuses = [(await at.ask(model=FREE)).status for _ in range(2)]
        refused = await at.ask(model=OTHER_FREE)
        key = (await at.get("/key")).json["data"]["free_model_daily_requests"]
        now[0] += 12 * 3600
        tomorrow = await at.ask(model=FREE)
    assert (statuses, refused.status, tomorrow.status) == ([200, 200], 429, 200)
    assert refused.metadata["limit_source"] == "openrouter_free_tier_daily"
    assert refused.error["message"].startswith("Rate limit exceeded: free-models-per-day")
    assert refused.headers["X-RateLimit-Reset"] == MIDNIGHT_MS
    assert key == {"used": 2, "limit": 2, "remaining": 0}


async def test_free_models_cost_nothing() -> None:
    async with desk() as at:
        assert (await at.ask(model=FREE)).json["usage"]["cost"] == 0
    assert at.simulator.stats.completions == 1


async def test_calls_in_the_air_are_capped() -> None:
    async with desk(latency="3600000", max_in_flight=2) as at:
        waiting = [asyncio.create_task(at.ask(str(number))) for number in range(2)]
        await wait_until(lambda: at.simulator.stats.in_flight == 2)
        refused = await at.ask()
        for task in waiting:
            task.cancel()
    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert at.simulator.stats.max_in_flight == 3


async def test_statistics_tell_what_came_and_what_it_cost() -> None:
    async with desk() as at:
        for prompt in ("a", "a", "a", "b"):
            await at.ask(prompt)
        await at.ask(model="nobody/nothing")
        stats = (await at.get("/_sim/stats", {})).json
    billed = stats["billed_nano"]
    assert billed > 0
    assert stats == {
        "requests": 5,
        "completions": 4,
        "billed_nano": billed,
        "in_flight": 0,
        "max_in_flight": 1,
        "duplicates": 1,
        "answered_twice": 1,
        "by_model": {MODEL: {"completions": 4, "billed_nano": billed}},
        "by_status": {"200": 4, "400": 1},
    }


async def test_a_retry_after_a_failure_is_a_duplicate_but_no_double_work() -> None:
    async with desk(faults=Faults(rates={FaultKind.INTERNAL: 1.0})) as at:
        await at.ask()
        at.simulator.set_faults(Faults())
        await at.ask()
    assert (at.simulator.stats.duplicates, at.simulator.stats.answered_twice) == (1, 0)


async def test_calls_are_recorded_when_asked_for() -> None:
    async with desk(clock=lambda: NOON, record=True) as at:
        answer = (await at.ask()).json
        await at.ask(model="nobody/nothing")
        calls = (await at.get("/_sim/calls", {})).json
    assert [(call["t"], call["model"], call["status"]) for call in calls] == [(NOON, MODEL, "200"), (NOON, "", "400")]
    assert calls[0]["billed_nano"] == at.simulator.stats.billed_nano
    assert calls[0]["generation_id"] == answer["id"]
    assert len(calls[0]["body"]) == 64


async def test_nothing_is_recorded_unasked() -> None:
    async with desk() as at:
        await at.ask()
        assert (await at.get("/_sim/calls", {})).json == []


async def test_faults_and_latency_change_while_it_runs() -> None:
    async with desk() as at:
        taken_down = await at.post("/_sim/faults", b'{"models":{"openai/*":{"rates":{"503":1}}}}')
        down = await at.ask()
        await at.post("/_sim/faults", b"{}")
        up = await at.ask()
        slowed = await at.post("/_sim/latency", b'{"latency":"3600000"}')
        waiting = asyncio.create_task(at.ask())
        await wait_until(lambda: at.simulator.stats.in_flight == 1)
        await at.post("/_sim/latency", b'{"latency":"0"}')
        quick = await at.ask()
        waiting.cancel()
    assert taken_down.json["models"] == {"openai/*": {"fail_rate": 0, "rates": {"503": 1}}}
    assert (down.status, up.status, slowed.status, quick.status) == (503, 200, 200, 200)


async def test_one_models_faults_change_beside_the_others() -> None:
    async with desk(faults=Faults(models={"openai/*": ModelFaults(rates={FaultKind.INTERNAL: 1.0})})) as at:
        answer = await at.post("/_sim/faults", json.dumps({"model": OTHER, "rates": {"503": 1}}).encode())
        failing = [(await at.ask(model=model)).status for model in (MODEL, OTHER, THIRD)]
        await at.post("/_sim/faults", json.dumps({"model": MODEL}).encode())
        recovered = [(await at.ask(model=model)).status for model in (MODEL, OTHER, THIRD)]
        at.simulator.set_model_faults(OTHER, ModelFaults())
        assert (await at.ask(model=OTHER)).status == 200
    assert list(answer.json["models"]) == [OTHER, "openai/*"]
    assert (failing, recovered) == ([500, 503, 200], [200, 503, 200])


async def test_one_models_latency_changes_beside_the_others() -> None:
    async with desk(latencies={"openai/*": "3600000"}) as at:
        waiting = asyncio.create_task(at.ask())
        await wait_until(lambda: at.simulator.stats.in_flight == 1)
        assert (await at.ask(model=OTHER)).status == 200
        change = await at.post("/_sim/latency", json.dumps({"model": MODEL, "latency": "0"}).encode())
        assert (await at.ask("quick")).status == 200
        at.simulator.set_model_latency(OTHER, "3600000")
        also_waiting = asyncio.create_task(at.ask(model=OTHER))
        await wait_until(lambda: at.simulator.stats.in_flight == 2)
        at.simulator.set_model_latency(OTHER, None)
        assert (await at.ask("quick", model=OTHER)).status == 200
        waiting.cancel()
        also_waiting.cancel()
    assert change.json == {"latency": "0", "model": MODEL}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/_sim/faults", b"{"),
        ("/_sim/faults", b'{"rates":{"418":1}}'),
        ("/_sim/faults", b'{"fail_rate":0.6,"rates":{"500":0.6}}'),
        ("/_sim/latency", b'{"latency":"soon"}'),
        ("/_sim/latency", b'{"ms":1}'),
        ("/_sim/latency", b'{"latency":null}'),
        ("/_sim/latency", b'{"latency":"soon","model":"openai/*"}'),
        ("/_sim/faults", b'{"model":"openai/*","rates":{"500":1},"fail_rate":1}'),
        ("/_sim/faults", b'{"model":"openai/*","models":{"x-ai/*":{}}}'),
    ],
)
async def test_a_change_that_can_not_be_read_changes_nothing(path: str, body: bytes) -> None:
    async with desk() as at:
        refused = await at.post(path, body)
        assert (refused.status, (await at.ask()).status) == (400, 200)
    assert refused.error["message"]


async def test_a_reset_forgets_everything_but_the_options() -> None:
    async with desk(clock=lambda: NOON, rpm={"*": 1}) as at:
        first = (await at.ask()).json
        await at.post("/_sim/faults", b'{"rates":{"503":1}}')
        await at.post("/_sim/reset", b"")
        stats = at.simulator.stats
        assert (stats.requests, stats.billed_nano, stats.by_status) == (0, 0, {})
        assert (await at.get(f"/generation?id={first['id']}")).status == 404
        again = await at.ask()
    assert again.json == first


async def test_a_reset_does_not_forget_calls_in_the_air() -> None:
    async with desk(latency="3600000") as at:
        waiting = asyncio.create_task(at.ask())
        await wait_until(lambda: at.simulator.stats.in_flight == 1)
        await at.post("/_sim/reset", b"")
        assert at.simulator.stats.in_flight == at.simulator.stats.max_in_flight == 1
        waiting.cancel()


async def test_admin_paths_answer_on_loopback_only() -> None:
    class Transport:
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return ("192.0.2.7", 1) if name == "peername" else default

        def is_closing(self) -> bool:
            return False

    request = make_mocked_request("GET", "/_sim/stats", transport=Transport())
    reply = await Admin(Upstream(SimulatorOptions()))(request)
    assert reply.status == 403


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("", False)],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
