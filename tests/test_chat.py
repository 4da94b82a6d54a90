"""Chat completions over a socket, answered by a real fleet: whole, streamed, refused, blocked, and given up."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Alias, Budget, Policy
from batchmill.config.settings import Settings
from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.openrouter.simulator.faults import FaultKind, Faults
from batchmill.producer import Batch
from batchmill.service.compat import chat, chat_waiting
from batchmill.service.compat.chat_answers import blocked
from batchmill.store import api_keys, batch_index, batches, chats, gauges, keys, policy
from batchmill.store.errors import StoreError
from batchmill.store.model import BatchState, BatchStatus, Priority

from .fleet_helpers import Scene, scene
from .service_helpers import serving
from .waiting import wait_until

MODEL = "openai/gpt-4o-mini"
URL = "/v1/chat/completions"


def asking(prompt: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": prompt}], **fields}


class Desk(msgspec.Struct, frozen=True):
    """A gateway, a fleet and a simulator."""

    scene: Scene
    client: httpx.AsyncClient

    @property
    def redis(self) -> Redis:
        return self.scene.store.redis

    async def ask(self, *prompt: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        return await self.client.post(URL, json=asking(*prompt, **fields), headers=headers)

    async def stream(self, **fields: Any) -> tuple[httpx.Response, list[str]]:
        """Return the answer and the data of its events."""
        async with self.client.stream("POST", URL, json=asking(stream=True, **fields)) as response:
            lines = [line async for line in response.aiter_lines()]
        return response, [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]

    async def only_batch(self) -> Batch:
        """Return the batch that is under way."""
        found: list[str] = []

        async def one() -> bool:
            found[:] = await batches.live(self.redis)
            return len(found) == 1

        await wait_until(one, "a batch")
        return await self.scene.producer.batch(found[0])


@asynccontextmanager
async def desk(tmp_path: Path, policy_: Policy | None = None, **options: Any) -> AsyncIterator[Desk]:
    async with scene(tmp_path / "data", SimulatorOptions(**options), processes=1, concurrency=10) as at:
        if policy_ is not None:
            await policy.apply(at.store.redis, at.settings.upstream_name, policy_, "test")
        async with serving(at.store.redis, at.settings) as client:
            yield Desk(at, client)


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    return dict(error)


async def test_an_answer_is_the_model_s_and_headers_say_what_it_took(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        response = await at.ask(user="somebody")
        assert response.status_code == 200
        body = response.json()
        assert (body["object"], body["model"]) == ("chat.completion", MODEL)
        assert body["choices"][0]["message"]["role"] == "assistant"
        told = response.headers
        assert Decimal(told["x-cost-usd"]) == Decimal(str(body["usage"]["cost"])) > 0
        assert (told["x-attempts"], told["x-cached"], told["x-model"]) == ("1", "false", MODEL)
        status = await batches.status(at.redis, told["x-batch-id"])
        assert (status.total, status.succeeded, status.priority, status.project) == (1, 1, Priority.HIGH, "default")
        assert status.expires_at is not None  # should the gateway die, nobody waits for it any more
        assert 600 <= status.expires_at - status.created_at <= 720
        assert 0 < await at.redis.ttl(keys.batch(status.id)) <= chats.KEEP  # nobody looks at it for long
        assert await at.redis.zcard(keys.batches()) == 0  # nor does it fill the lists
        assert (await batch_index.page(at.redis, None, None, 10)).ids == ()


async def test_who_asks_the_same_twice_is_answered_twice_unless_they_want_the_cache(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        both = await asyncio.gather(at.ask(), at.ask())
        assert len({response.headers["x-batch-id"] for response in both}) == 2
        assert {response.headers["x-cached"] for response in both} == {"false"}
        first = await at.ask("Cached?", cache=True)
        second = await at.ask("Cached?", cache=True)
        assert (first.headers["x-cached"], second.headers["x-cached"]) == ("false", "true")
        assert second.json()["choices"] == first.json()["choices"]
        assert Decimal(second.headers["x-cost-usd"]) == 0


async def test_a_stream_has_openai_s_chunks_and_says_what_it_used_only_when_asked(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        response, events = await at.stream()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-batch-id"].startswith("batch_")
        assert events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events[:-1]]
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks)
        assert chunks[-1]["choices"][0]["finish_reason"]
        _, events = await at.stream(stream_options={"include_usage": True})
        last = json.loads(events[-2])
        assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 20)


@pytest.mark.parametrize(
    ("kind", "status", "type_", "code"),
    [
        (FaultKind.CONTEXT, 400, "invalid_request_error", "context_length_exceeded"),
        (FaultKind.MODERATION, 403, "permission_error", "moderation"),
        (FaultKind.UNPROCESSABLE, 422, "invalid_request_error", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_upstream_s_refusals_keep_their_status_in_openai_s_shape(
    tmp_path: Path, kind: FaultKind, status: int, type_: str, code: str | None, stream: bool
) -> None:
    async with desk(tmp_path, faults=Faults(rates={kind: 1.0})) as at:
        response = await at.ask(stream=stream)
        error = error_of(response)
        assert (response.status_code, error["type"]) == (status, type_)
        assert error["message"]
        assert code in (None, error["code"])
        assert response.headers["x-should-retry"] == "false"
        assert response.headers["x-batch-id"].startswith("batch_")


async def test_a_stream_that_breaks_tells_so_in_band_or_is_told_whole(tmp_path: Path) -> None:
    async with desk(tmp_path, faults=Faults(rates={FaultKind.MID_STREAM: 1.0}), latency="50") as at:
        response, events = await at.stream()
        told = json.loads(events[-1] if events[-1] != "[DONE]" else events[-2])
        assert response.status_code == 200
        assert told["error"]["type"] == "server_error"


async def test_without_a_worker_it_says_so_and_sends_nothing(real_redis: Redis, settings: Settings) -> None:
    rehearsal = msgspec.structs.replace(settings, simulate=True)
    async with serving(real_redis, rehearsal) as client:
        for stream in (False, True):
            response = await client.post(URL, json=asking(stream=stream), headers={"x-wait": "0"})
            assert response.status_code == 503
            assert error_of(response)["code"] == "no_worker"
            blocked = response.headers["x-blocked-on"]
            assert blocked == "no worker for simulator; `batchmill worker --simulate` starts one"
            status = await batches.status(real_redis, response.headers["x-batch-id"])
            assert (status.state, status.cancelled) == (BatchState.CANCELLED, 1)


async def test_a_budget_without_room_is_a_402(tmp_path: Path) -> None:
    cap = Budget(name="cap", limit_usd=Decimal("0.00005"))
    async with desk(tmp_path, Policy(budgets=(cap,))) as at:
        for number in range(5):
            refused = await at.ask(f"Hello {number}", headers={"x-wait": "0"})
            if refused.status_code != 200:
                break
        assert refused.status_code == 402
        assert (error_of(refused)["code"], error_of(refused)["type"]) == ("budget_exceeded", "insufficient_quota")
        assert "budget cap has no room left" in refused.headers["x-blocked-on"]
        assert refused.headers["x-should-retry"] == "false"
        (gauge,) = await gauges.budgets(at.redis, at.scene.settings.upstream_name)
        assert gauge.spent + gauge.held + gauge.suspect <= cap.limit


async def test_an_alias_lets_a_program_keep_the_names_that_it_has(tmp_path: Path) -> None:
    rules = Policy(aliases=(Alias(name="gpt-4o-mini", models=(MODEL,)),))
    async with desk(tmp_path, rules) as at:
        response = await at.ask(model="gpt-4o-mini")
        assert (response.status_code, response.headers["x-model"]) == (200, MODEL)


async def test_a_chat_belongs_to_the_key_s_project_and_is_paid_from_its_budget(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        upstream = at.scene.settings.upstream_name
        keys_ = (
            api_keys.Wanted(name="mine", project="a", budget_usd=Decimal("0.001")),
            api_keys.Wanted(name="other", project="b"),
            api_keys.Wanted(name="mute", project="a", scopes=("read",)),
        )
        made = [await api_keys.create(at.redis, upstream, wanted, "test") for wanted in keys_]
        as_mine, as_other, as_mute = ({"authorization": f"Bearer {key.text}"} for key in made)
        assert (await at.ask()).status_code == 401
        assert (await at.ask(headers=as_mute)).status_code == 403
        response = await at.ask(headers=as_mine)
        batch_id = response.headers["x-batch-id"]
        assert (await batches.status(at.redis, batch_id)).project == "a"
        assert (await at.client.get(f"/v1/batches/{batch_id}", headers=as_mine)).json()["x_project"] == "a"
        assert (await at.client.get(f"/v1/batches/{batch_id}", headers=as_other)).status_code == 404
        (gauge,) = await gauges.budgets(at.redis, upstream)
        assert gauge.spent == Decimal(response.headers["x-cost-usd"]) * 1_000_000_000
        refused = await at.ask(headers=as_mine, max_tokens=16_000)
        assert (refused.status_code, error_of(refused)["code"]) == (400, "over_budget")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_cancels_what_it_asked_for(tmp_path: Path, stream: bool) -> None:
    async with desk(tmp_path, latency="3000") as at:  # a call that is not streamed lands
        request = asyncio.create_task(at.ask(stream=stream, max_tokens=2000))
        batch = await at.only_batch()

        async def in_the_air() -> bool:
            return (await batch.status()).running == 1

        await wait_until(in_the_air, "the call")
        request.cancel()

        async def cancelled() -> bool:
            return (await batch.status()).state is not BatchState.IN_PROGRESS

        await wait_until(cancelled, "the cancellation")


async def test_a_client_that_stops_reading_a_stream_cancels_it(tmp_path: Path) -> None:
    async with desk(tmp_path, latency="8000", mean_output_tokens=3000) as at:
        async with at.client.stream("POST", URL, json=asking(stream=True, max_tokens=4000)) as response:
            batch = await at.scene.producer.batch(response.headers["x-batch-id"])
            await anext(response.aiter_lines())

        async def cancelled() -> bool:
            return (await batch.status()).state is BatchState.CANCELLED

        await wait_until(cancelled, "the cancellation")
        assert (await batch.status()).succeeded == 0


async def test_a_silent_stream_shows_that_it_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_SILENCE", 0.01)
    async with desk(tmp_path, latency="1000") as at:
        async with at.client.stream("POST", URL, json=asking(stream=True)) as response:
            lines = [line async for line in response.aiter_lines()]
        assert ": waiting" in lines
        assert lines[-2] == "data: [DONE]"


async def test_an_outage_while_somebody_waits_is_outlived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    async def away(batch: Batch) -> BatchStatus:
        looks.append(batch.id)
        raise StoreError("Redis is away")

    monkeypatch.setattr(chat_waiting, "_LOOK", 0.05)
    monkeypatch.setattr(chat_waiting, "_LEAST", 0.0)
    monkeypatch.setattr(Batch, "status", away)
    async with desk(tmp_path, latency="1000") as at:
        response = await at.ask(headers={"x-wait": "0"})
        assert (response.status_code, len(looks) > 1) == (200, True)


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (b"{", 400, None, "invalid_json"),
        (b"[]", 400, None, None),
        (b"{}", 400, "model", "missing_required_parameter"),
        (b'{"model":"m"}', 400, "messages", "missing_required_parameter"),
        (b'{"model":7,"messages":[]}', 400, "model", "invalid_type"),
        (b'{"model":"openai/gpt-4o-mini","messages":[]}', 400, "messages", "invalid_request"),
        (
            b'{"model":"openai/gpt-4o-mini","messages":[{"content":"x"}]}',
            400,
            "messages[0].role",
            "missing_required_parameter",
        ),
        (b'{"model":"openai/gpt-4o-mini","messages":[],"stream":"yes"}', 400, "stream", "invalid_type"),
        (b'{"model":"openai/gpt-4o-mini","messages":[],"priority":"top"}', 400, "priority", "invalid_value"),
        (b'{"model":"openai/gpt-4o-mini","messages":[],"strategy":"luck"}', 400, "strategy", "invalid_value"),
        (b'{"model":"no/such-model","messages":[{"role":"user","content":"x"}]}', 404, "model", "model_not_found"),
        (
            b'{"model":"openai/gpt-4o-mini","messages":[{"role":"user","content":"x"}],"max_cost_usd":1e-9}',
            400,
            "max_tokens",
            "over_budget",
        ),
        (
            b'{"model":"openai/gpt-4o-mini","messages":[{"role":"user","content":"x"}],"fallback_models":["auto"]}',
            400,
            "fallback_models",
            "invalid_request",
        ),
    ],
)
async def test_what_can_t_be_meant_is_refused_at_once(
    real_redis: Redis, settings: Settings, body: bytes, status: int, param: str | None, code: str | None
) -> None:
    async with serving(real_redis, msgspec.structs.replace(settings, simulate=True)) as client:
        response = await client.post(URL, content=body)
    error = error_of(response)
    assert (response.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert code in (None, error["code"])
    assert "--" not in error["message"]  # no options of the command line
    assert response.headers["x-should-retry"] == "false"


async def test_x_wait_is_a_number_of_seconds(real_redis: Redis, settings: Settings) -> None:
    async with serving(real_redis, settings) as client:
        for word in ("soon", "-1", "nan"):
            response = await client.post(URL, json=asking(), headers={"x-wait": word})
            assert (response.status_code, error_of(response)["param"]) == (400, "x-wait")


@pytest.mark.parametrize(
    ("kinds", "status", "code"),
    [
        (("worker",), 503, "no_worker"),
        (("place",), 503, "not_begun"),
        (("breaker",), 503, "not_begun"),
        (("alarm",), 503, "not_begun"),
        (("limit",), 429, "rate_limit_exceeded"),
        (("pause", "share"), 429, "rate_limit_exceeded"),
        (("limit", "budget"), 402, "budget_exceeded"),
        ((), 504, "not_begun"),
    ],
)
def test_what_it_waited_for_decides_the_status(kinds: tuple[str, ...], status: int, code: str) -> None:
    waiting = BatchStatus(
        id="batch_1",
        state=BatchState.IN_PROGRESS,
        total=1,
        running=0,
        succeeded=0,
        failed=0,
        cancelled=0,
        expired=0,
        created_at=0,
        blocked_on="a reason with ✓\nin it" if kinds else None,
        blocked_by=kinds,
    )
    error = blocked(waiting, 3.0)
    assert (error.status, error.code) == (status, code)
    error.headers["x-blocked-on"].encode("latin-1")
    assert "\n" not in error.headers["x-blocked-on"]
