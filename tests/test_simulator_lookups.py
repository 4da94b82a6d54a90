"""The simulator beside completions: the catalogue, the account, generations, where it listens and what it is told."""

import asyncio
from typing import Any

import aiohttp
import msgspec
import pytest

from batchmill.config.errors import ConfigError
from batchmill.openrouter.simulator import Simulator, SimulatorOptions, serve

from .simulator_helpers import KEY, MODEL, desk
from .waiting import wait_until


async def test_the_catalogue_is_the_real_one() -> None:
    async with desk() as at:
        listing = (await at.get("/models?output_modalities=all", {})).json
        count = (await at.get("/models/count", {})).json["data"]["count"]
        entry = (await at.get(f"/model/{MODEL}", {})).json["data"]
        unknown = await at.get("/model/nobody/nothing", {})
        no_endpoints = await at.get("/models/nobody/nothing/endpoints", {})
    assert len(listing["data"]) == listing["total_count"] == count == 342
    assert listing["links"] == {"next": None}
    assert entry in listing["data"]
    assert entry["pricing"]["prompt"] == "0.00000015"
    assert (unknown.status, no_endpoints.status) == (404, 404)


async def test_endpoints_tell_price_and_provider() -> None:
    async with desk() as at:
        data = (await at.get(f"/models/{MODEL}/endpoints", {})).json["data"]
    (endpoint,) = data["endpoints"]
    assert (data["id"], endpoint["provider_name"], endpoint["tag"]) == (MODEL, "OpenAI", "openai")
    assert endpoint["pricing"]["completion"] == "0.0000006"
    assert endpoint["context_length"] == 128_000


async def test_the_key_and_the_credits_know_what_was_spent() -> None:
    async with desk(credits_usd=5) as at:
        spent = (await at.ask()).json["usage"]["cost"]
        key = (await at.get("/key")).json["data"]
        balance = (await at.get("/credits")).json["data"]
    assert key["usage"] == balance["total_usage"] == spent
    assert balance["total_credits"] == 5
    assert key["free_model_daily_requests"] == {"used": 0, "limit": 1000, "remaining": 1000}
    assert (key["limit"], key["budgets"], key["effective_budget"]) == (None, [], None)


async def test_a_spent_balance_refuses() -> None:
    async with desk(credits_usd=1) as at:
        while at.simulator.stats.billed_nano < 10**9:
            assert (await at.ask("x" * 400_000, model="openai/o1-pro")).status == 200
        refused = await at.ask()
    assert refused.status == 402
    assert refused.metadata["limit_source"] == "openrouter_credits"


async def test_a_generation_can_be_looked_up_after_a_while() -> None:
    now = [1_000.0]
    async with desk(clock=lambda: now[0], generation_delay=9.6) as at:
        answer = (await at.ask()).json
        now[0] = 1_009.5
        early = await at.get(f"/generation?id={answer['id']}")
        now[0] = 1_009.7
        late = (await at.get(f"/generation?id={answer['id']}")).json["data"]
        unknown = await at.get("/generation?id=gen-1-x")
    assert (early.status, unknown.status) == (404, 404)
    assert late["total_cost"] == late["usage"] == answer["usage"]["cost"]
    assert late["native_tokens_completion"] == answer["usage"]["completion_tokens"]
    assert (late["model"], late["provider_name"], late["cancelled"]) == (MODEL, "OpenAI", False)


async def test_unknown_paths_are_404() -> None:
    async with desk() as at:
        replies = [await at.get("/nothing"), await at.get("/_sim/nothing"), await at.post("/embeddings", b"{}")]
    assert [reply.status for reply in replies] == [404, 404, 404]


async def test_large_bodies_are_taken() -> None:
    async with desk() as at:
        reply = await at.ask("x" * 3_000_000, model="x-ai/grok-4-fast")
    assert reply.json["usage"]["prompt_tokens"] == 750_007


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_only_loopback_is_served(host: str) -> None:
    with pytest.raises(ConfigError, match="allow_remote"):
        Simulator(SimulatorOptions(), host)


async def test_remote_hosts_can_be_allowed() -> None:
    async with Simulator(SimulatorOptions(allow_remote=True), "0.0.0.0") as simulator:
        url = simulator.base_url.replace("0.0.0.0", "127.0.0.1")
        async with aiohttp.ClientSession() as session, session.get(f"{url}/models/count") as response:
            assert response.status == 200


async def test_serve_tells_its_url_and_runs_until_cancelled() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(serve(SimulatorOptions(), "127.0.0.1", 0, told.put_nowait))
    url = await told.get()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/key", headers=KEY) as response:
            assert response.status == 200
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{url}/key", headers=KEY)


@pytest.mark.parametrize("spec", ["", "fast", "-1", "uniform:3:1", "uniform:1", "lognormal:1", "lognormal:1:x", "nan"])
def test_a_latency_that_can_not_be_read_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="latency"):
        Simulator(SimulatorOptions(latency=spec))


def test_options_are_checked_when_they_come_from_outside() -> None:
    unknown: dict[str, Any] = {"seeds": 1}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(unknown, SimulatorOptions)


async def test_stopping_does_not_wait_for_calls_in_the_air() -> None:
    async with desk(latency="3600000") as at:
        asking = asyncio.create_task(at.ask())
        await wait_until(lambda: at.simulator.stats.in_flight == 1)
        await at.simulator.__aexit__()
        with pytest.raises(aiohttp.ClientError):
            await asking
