"""Faults of the simulator: what each kind looks like on the wire, what it costs, and that chance repeats itself."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from typing import Any

import aiohttp
import msgspec
import pytest

from batchmill.config.errors import ConfigError
from batchmill.openrouter.prices import Billable
from batchmill.openrouter.simulator import FaultKind, Faults, ModelFaults, Simulator, SimulatorOptions
from batchmill.openrouter.simulator.answers import Plan
from batchmill.openrouter.simulator.catalogue import load_catalogue
from batchmill.openrouter.simulator.faults import TRANSIENT_MIX, choose_fault

from .simulator_helpers import KEY, MODEL, Desk, desk
from .waiting import wait_until

CLAUDE = "anthropic/claude-haiku-4.5"
GEMINI = "google/gemini-2.5-flash-lite"
LEISURELY = "800"  # long enough for a client on a busy machine to leave in time


def always(kind: FaultKind) -> Faults:
    return Faults(rates={kind: 1.0})


REFUSALS = [
    (FaultKind.BAD_REQUEST, 400, {"error_type": "invalid_request"}),
    (FaultKind.CONTEXT, 400, {"error_type": "context_length_exceeded"}),
    (FaultKind.UNAUTHORIZED, 401, {"error_type": "authentication"}),
    (FaultKind.OUT_OF_CREDITS, 402, {"limit_source": "openrouter_credits"}),
    (
        FaultKind.IN_FLIGHT_BUDGET,
        402,
        {"limit_source": "openrouter_in_flight_budget", "reason": "in_flight_budget_exhausted"},
    ),
    (FaultKind.MODERATION, 403, {"provider_name": "OpenAI", "model_slug": MODEL, "reasons": ["violence"]}),
    (FaultKind.BUDGET_SPENT, 403, {"limit_source": "openrouter_key_limit", "resets_at": "1970-01-02T00:00:00Z"}),
    (FaultKind.NO_ENDPOINT, 404, {"error_type": "not_found"}),
    (FaultKind.REQUEST_TIMEOUT, 408, {"error_type": "timeout"}),
    (FaultKind.TOO_LARGE, 413, {"error_type": "payload_too_large"}),
    (FaultKind.UNPROCESSABLE, 422, {"error_type": "unprocessable"}),
    (FaultKind.RATE_LIMIT, 429, {"limit_source": "upstream_provider_shared_pool", "retry_after_seconds": 1}),
    (FaultKind.INTERNAL, 500, {"error_type": "server"}),
    (FaultKind.BAD_GATEWAY, 502, {"error_type": "provider_unavailable", "provider_name": "OpenAI"}),
    (FaultKind.UNAVAILABLE, 503, {"error_type": "provider_unavailable"}),
    (FaultKind.GATEWAY_TIMEOUT, 504, {"error_type": "timeout"}),
    (FaultKind.EDGE_TIMEOUT, 524, {"error_type": "timeout"}),
    (FaultKind.OVERLOADED, 529, {"error_type": "provider_overloaded"}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("kind", "status", "metadata"), REFUSALS)
async def test_a_refusal_has_its_status_and_body(
    kind: FaultKind, status: int, metadata: dict[str, Any], stream: bool
) -> None:
    async with desk(clock=lambda: 5.0, faults=always(kind)) as at:
        reply = await at.ask(stream=stream)
    assert reply.status == reply.error["code"] == status
    assert reply.error["message"]
    assert metadata.items() <= reply.metadata.items()
    assert "X-Generation-Id" not in reply.headers
    assert at.simulator.stats.billed_nano == 0
    assert at.simulator.stats.by_status == {str(status): 1}


def test_every_kind_with_a_status_is_in_the_table() -> None:
    kinds = {kind for kind, _, _ in REFUSALS}
    assert set(FaultKind) - kinds == {FaultKind.IN_BAND, FaultKind.MID_STREAM, FaultKind.CUT, FaultKind.HANG}


@pytest.mark.parametrize("kind", [FaultKind.RATE_LIMIT, FaultKind.UNAVAILABLE, FaultKind.IN_FLIGHT_BUDGET])
async def test_what_passes_soon_says_when(kind: FaultKind) -> None:
    async with desk(faults=always(kind)) as at:
        reply = await at.ask()
    assert int(reply.headers["Retry-After"]) > 0
    assert reply.metadata["headers"]["Retry-After"] == reply.headers["Retry-After"]


@pytest.mark.parametrize("kind", [FaultKind.OUT_OF_CREDITS, FaultKind.BUDGET_SPENT, FaultKind.BAD_GATEWAY])
async def test_what_does_not_pass_by_itself_names_no_time(kind: FaultKind) -> None:
    async with desk(faults=always(kind)) as at:
        assert "Retry-After" not in (await at.ask()).headers


async def test_an_error_inside_a_200() -> None:
    async with desk(faults=always(FaultKind.IN_BAND)) as at:
        whole, streamed = await at.ask(), await at.ask(stream=True)
    assert (whole.status, streamed.status) == (200, 200)
    assert whole.error["code"] == 502
    assert "choices" not in whole.json
    (event,) = streamed.events
    assert event["error"] == whole.error
    assert event["choices"][0]["finish_reason"] == "error"
    assert b"[DONE]" not in streamed.body
    assert "X-Generation-Id" in whole.headers
    assert at.simulator.stats.billed_nano == 0


async def test_an_error_after_a_part_of_the_answer() -> None:
    async with desk(faults=always(FaultKind.MID_STREAM)) as at:
        whole, streamed = await at.ask(), await at.ask(stream=True)
    choice = whole.json["choices"][0]
    assert (whole.status, choice["finish_reason"], choice["error"]["code"]) == (200, "error", 502)
    assert choice["message"]["content"]
    assert whole.json["usage"]["cost"] == 0
    *content, last = streamed.events
    assert content
    assert (last["error"]["code"], last["choices"][0]["finish_reason"]) == (502, "error")
    assert not any("usage" in event for event in streamed.events)
    assert b"[DONE]" not in streamed.body
    assert at.simulator.stats.billed_nano == 0


async def test_a_whole_answer_that_is_cut_off_was_billed_and_is_known_later() -> None:
    async with desk(faults=always(FaultKind.CUT)) as at:
        headers = await cut(at, stream=False)
        data = (await at.get(f"/generation?id={headers['X-Generation-Id']}")).json["data"]
    stats = at.simulator.stats
    assert (stats.by_status, stats.completions) == ({"cut": 1}, 1)
    assert data["total_cost"] * 10**9 == stats.billed_nano > 0


async def test_a_stream_that_is_cut_off_is_billed_up_to_there() -> None:
    async with desk(faults=always(FaultKind.CUT), record=True) as at:
        headers = await cut(at, stream=True)
        data = (await at.get(f"/generation?id={headers['X-Generation-Id']}")).json["data"]
        at.simulator.set_faults(Faults())
        full = (await at.ask(stream=True)).events[-1]["usage"]
    assert 0 < data["native_tokens_completion"] < full["completion_tokens"]
    assert 0 < data["total_cost"] < full["cost"]
    assert data["cancelled"] is True
    assert [record.status for record in at.simulator.calls] == ["cut", "200"]


async def test_headers_come_at_once_when_they_are_to() -> None:
    async with desk(early_headers=True, latency="1200") as at:
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]})
        async with at.session.post(f"{at.simulator.base_url}/chat/completions", data=body, headers=KEY) as response:
            known = response.headers["X-Generation-Id"]
            assert at.simulator.stats.in_flight == 1
            answer = await response.read()
    assert answer.startswith(b"  ")
    assert json.loads(answer)["id"] == known


async def test_the_generation_of_a_call_that_never_ends_is_known() -> None:
    async with desk(early_headers=True, faults=always(FaultKind.HANG)) as at:
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]})
        async with at.session.post(f"{at.simulator.base_url}/chat/completions", data=body, headers=KEY) as response:
            known = response.headers["X-Generation-Id"]
        data = (await at.get(f"/generation?id={known}")).json["data"]
    assert data["total_cost"] * 10**9 == at.simulator.stats.billed_nano > 0


@pytest.mark.parametrize("kind", [FaultKind.IN_BAND, FaultKind.MID_STREAM])
async def test_an_error_behind_early_headers(kind: FaultKind) -> None:
    async with desk(early_headers=True, faults=always(kind)) as at:
        reply = await at.ask()
    assert (reply.status, reply.body[:1]) == (200, b" ")
    assert "X-Generation-Id" in reply.headers
    assert b'"code":502' in reply.body


async def test_an_answer_that_is_cut_off_behind_early_headers() -> None:
    async with desk(early_headers=True, faults=always(FaultKind.CUT)) as at:
        with pytest.raises(aiohttp.ClientPayloadError):
            await at.ask()
    assert at.simulator.stats.by_status == {"cut": 1}


async def test_a_whole_answer_that_nobody_waits_for_is_billed_behind_early_headers() -> None:
    async with desk(early_headers=True, latency="1100") as at:
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]})
        async with at.session.post(f"{at.simulator.base_url}/chat/completions", data=body, headers=KEY) as response:
            response.close()
        await wait_until(lambda: at.simulator.stats.in_flight == 0)
    assert at.simulator.stats.completions == 1
    assert at.simulator.stats.by_status == {"dropped": 1}


async def cut(at: Desk, *, stream: bool) -> dict[str, str]:
    body = json.dumps({"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "Hello"}]})
    async with at.session.post(f"{at.simulator.base_url}/chat/completions", data=body, headers=KEY) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
        return dict(response.headers)


@pytest.mark.parametrize(("stream", "billed"), [(False, True), (True, False)])
async def test_a_hang_ends_when_the_client_leaves(stream: bool, billed: bool) -> None:
    async with desk(faults=always(FaultKind.HANG)) as at:
        asking = asyncio.create_task(at.ask(stream=stream))
        await wait_until(lambda: at.simulator.stats.in_flight == 1)
        asking.cancel()
        await wait_until(lambda: at.simulator.stats.in_flight == 0)
    assert at.simulator.stats.by_status == {"hang": 1}
    assert (at.simulator.stats.billed_nano > 0) is billed


async def test_a_whole_call_that_the_client_drops_is_billed_in_full() -> None:
    async with desk(latency=LEISURELY) as at:
        await drop(at, stream=False)
    stats = at.simulator.stats
    assert (stats.completions, stats.by_status) == (1, {"dropped": 1})
    assert stats.billed_nano > 0


@pytest.mark.parametrize(("model", "completions"), [(CLAUDE, 0), (GEMINI, 1)])
async def test_a_stream_that_the_client_drops_stops_where_the_provider_can(model: str, completions: int) -> None:
    async with desk(latency=LEISURELY) as at:
        await drop(at, stream=True, model=model)
        billed = at.simulator.stats.billed_nano
        at.simulator.set_latency("0")
        await at.ask(stream=True, model=model)
    stats = at.simulator.stats
    assert (stats.completions, stats.by_status) == (completions + 1, {"dropped": 1, "200": 1})
    assert (billed == stats.billed_nano - billed) is (completions > 0)


def test_what_broke_off_before_the_first_word_is_not_billed() -> None:
    model = load_catalogue().models[MODEL]
    usage = Billable(prompt_tokens=100, completion_tokens=5, reasoning_tokens=2)
    plan = Plan(model, model.endpoints[0], ["a", "b", "c"], usage, "stop")
    assert plan.broken_off(0) == Billable()
    assert plan.broken_off(1) == Billable(prompt_tokens=100, completion_tokens=3, reasoning_tokens=2)


async def drop(at: Desk, **fields: Any) -> None:
    """Ask, leave before the first word, and wait until the simulator is done with it."""
    asking = asyncio.create_task(at.ask(**fields))
    await wait_until(lambda: at.simulator.stats.in_flight == 1)
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    await wait_until(lambda: at.simulator.stats.in_flight == 0)


async def test_a_model_can_be_taken_down_and_its_fallback_answers() -> None:
    down = Faults(models={"anthropic/*": ModelFaults(rates={FaultKind.UNAVAILABLE: 1.0})})
    async with desk(faults=down) as at:
        alone = await at.ask(model=CLAUDE)
        helped = await at.ask(model=CLAUDE, models=[MODEL])
        other = await at.ask()
    assert (alone.status, helped.status, other.status) == (503, 200, 200)
    assert helped.json["model"] == MODEL


def test_the_first_pattern_that_matches_replaces_the_rest() -> None:
    faults = Faults(fail_rate=1, models={"openai/*": ModelFaults(), "*": ModelFaults(fail_rate=0.5)})
    assert faults.of("openai/gpt-4o").fail_rate == 0
    assert faults.of("x/y").fail_rate == 0.5
    assert Faults(fail_rate=1).of("x/y").fail_rate == 1


async def test_faults_come_as_often_as_asked_for() -> None:
    faults = Faults(rates={FaultKind.RATE_LIMIT: 0.2, FaultKind.INTERNAL: 0.1})
    async with desk(faults=faults) as at:
        statuses = Counter([(await at.ask(str(number))).status for number in range(600)])
    assert 85 < statuses[429] < 155
    assert 35 < statuses[500] < 85
    assert statuses[200] == 600 - statuses[429] - statuses[500]


async def test_the_same_seed_gives_the_same_faults_in_any_order() -> None:
    faults = Faults(fail_rate=0.5, rates={FaultKind.MODERATION: 0.1})
    prompts = [str(number) for number in range(60)]

    async def outcomes(seed: int, order: list[str]) -> dict[str, list[str]]:
        async with desk(seed=seed, record=True, faults=faults) as at:
            for prompt in order:
                with suppress(aiohttp.ClientError):
                    await at.ask(prompt)
            by_body: dict[str, list[str]] = {}
            for record in at.simulator.calls:
                by_body.setdefault(record.body, []).append(record.status)
            return by_body

    first = await outcomes(1, prompts + prompts)
    assert first == await outcomes(1, prompts[::-1] + prompts[::-1])
    assert first != await outcomes(2, prompts + prompts)
    assert any(len(set(statuses)) > 1 for statuses in first.values()), "a retry draws anew"


def test_a_fail_rate_is_made_of_passing_faults() -> None:
    faults = ModelFaults(fail_rate=0.5, rates={FaultKind.HANG: 0.1})
    drawn = [choose_fault(faults, number / 1000) for number in range(1000)]
    assert drawn.count(None) == 400
    assert drawn.count(FaultKind.HANG) == 100
    assert set(drawn) == {None, FaultKind.HANG, *TRANSIENT_MIX}
    assert sum(TRANSIENT_MIX.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(fail_rate=0.6, rates={FaultKind.CUT: 0.5}),
        Faults(models={"a/*": ModelFaults(fail_rate=0.6, rates={FaultKind.CUT: 0.5})}),
    ],
)
def test_more_than_every_call_can_not_fail(faults: Faults) -> None:
    with pytest.raises(ConfigError, match="more than 1"):
        Simulator(SimulatorOptions(faults=faults))


@pytest.mark.parametrize("text", [b'{"rates":{"418":0.5}}', b'{"fail_rate":2}', b'{"rate":1}', b'{"fail_rate":-1}'])
def test_faults_are_checked_when_they_come_from_outside(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Faults)
