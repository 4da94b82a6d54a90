"""Our own API while a fleet works: every view tells the same of the same lines, and of others' work nothing."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import pytest_asyncio

from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.openrouter.simulator.faults import FaultKind, Faults, ModelFaults
from batchmill.service.control import budgets, fleet, limits, lines, models, notices, overview, spend, switches
from batchmill.service.identity import EVERY_SCOPE, OPERATOR, Identity
from batchmill.service.problems import ApiError
from batchmill.store.model import BatchStatus

from . import fleet_helpers
from .fleet_helpers import MODELS, Scene, gather, scene
from .service_helpers import in_process, service_of
from .waiting import wait_until

EVALS = Identity(project="evals", scopes=EVERY_SCOPE)
OTHERS = Identity(project="others", scopes=EVERY_SCOPE)

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Ran(NamedTuple):
    """What ran: 24 lines of the project evals with a cap, six of others; of each, those for one model fail."""

    scene: Scene
    evals: BatchStatus
    others: BatchStatus


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ran(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ran]:
    faults = Faults(models={MODELS[1]: ModelFaults(rates={FaultKind.MODERATION: 1.0})})
    folder: Path = tmp_path_factory.mktemp("control")
    async with scene(folder, SimulatorOptions(seed=3, latency="20", faults=faults)) as stage:
        evals = await stage.producer.submit(list(fleet_helpers.lines(24)), project="evals", max_cost="2")
        others = await stage.producer.submit(list(fleet_helpers.lines(6)), project="others")
        await gather(evals)
        await gather(others)
        yield Ran(stage, await evals.status(), await others.status())


@pytest_asyncio.fixture(loop_scope="module")
async def client(ran: Ran) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(ran.scene.store.redis, ran.scene.settings, tasks=False) as client:
        yield client


async def get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    reply = await client.get(path, params=query)
    assert reply.status_code == 200, reply.text
    return msgspec.json.decode(reply.content)


async def test_the_cost_of_lines_is_that_of_batches_spend_and_today(ran: Ran) -> None:
    service = service_of(ran.scene.store.redis, ran.scene.settings)
    page = await lines.lines(service, EVALS, ran.evals.id, limit=500)
    of_lines = sum(row.cost_usd or Decimal(0) for row in page.data)
    report = await spend.spend(service, EVALS, by="batch")
    whole = await overview.overview(service, EVALS)
    assert of_lines > 0
    assert of_lines == report.total.cost_usd == report.rows[0].cost_usd == whole.cost.today_usd
    assert (report.rows[0].name, len(report.rows)) == (ran.evals.id, 1)
    everything = await overview.overview(service, OPERATOR)
    assert everything.cost.today_usd == of_lines + (await overview.overview(service, OTHERS)).cost.today_usd
    assert everything.cost.today_usd == (await spend.spend(service, OPERATOR, by="project")).total.cost_usd


async def test_lines_by_state_search_and_page(ran: Ran, client: httpx.AsyncClient) -> None:
    path = f"/v1/batches/{ran.evals.id}/lines"
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = await get(client, path, limit=7, **cursor)
        found += page["data"]
        assert page["has_more"] == (page["next"] is not None)
        if not page["has_more"]:
            break
        cursor = {"after": page["next"]}
    assert sorted(row["index"] for row in found) == list(range(24))
    failed = (await get(client, path, state="failed"))["data"]
    assert {row["custom_id"] for row in failed} == {f"line-{number}" for number in range(1, 24, 2)}
    assert all(row["error"]["status_code"] == 403 and row["error"]["message"] for row in failed)
    assert [row["custom_id"] for row in (await get(client, path, search="LINE-22"))["data"]] == ["line-22"]
    assert (await get(client, path, state="pending"))["data"] == []


async def test_one_line_has_its_request_its_answer_and_its_attempts(ran: Ran, client: httpx.AsyncClient) -> None:
    path = f"/v1/batches/{ran.evals.id}/lines"
    failed = await get(client, f"{path}/line-1")
    assert failed["request"]["messages"][0]["content"] == "What is special about the number 1?"
    assert failed["response"]["error"]
    assert failed["attempts"][-1]["status"] == 403
    rows = {row["custom_id"]: row for row in (await get(client, path))["data"]}
    good = await get(client, f"{path}/line-2", at=rows["line-2"]["at"])
    assert good["line"] == rows["line-2"]
    assert good["response"]["choices"][0]["message"]["content"] == good["content"]
    assert good["output_tokens"] == good["response"]["usage"]["completion_tokens"]
    assert (good["request"], "file" in good["request_gone"]) == (None, True)
    assert await get(client, f"{path}/line-2", at="1-1") == good  # a wrong hint only takes longer


async def test_the_request_of_a_line_that_came_over_http_is_in_its_file_while_that_is_there(
    ran: Ran, tmp_path: Path
) -> None:
    text = b"\n".join(msgspec.json.encode(line) for line in fleet_helpers.lines(3, models=MODELS[:1]))
    settings = msgspec.structs.replace(ran.scene.settings, data_dir=tmp_path)
    async with in_process(ran.scene.store.redis, settings) as client:
        uploaded = await client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", text)})
        file_id = uploaded.json()["id"]
        wanted = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch_id = (await client.post("/v1/batches", json=wanted)).json()["id"]

        async def done() -> bool:
            return bool((await client.get(f"/v1/batches/{batch_id}")).json()["status"] == "completed")

        await wait_until(done, "the batch ends")
        path = f"/v1/batches/{batch_id}/lines/line-2"
        told = await get(client, path)
        assert told["request_gone"] is None
        assert told["request"]["messages"][0]["content"] == "What is special about the number 2?"
        assert told["request_gone"] is None
        await client.delete(f"/v1/files/{file_id}")
        told = await get(client, path)
        assert (told["request"], file_id in told["request_gone"]) == (None, True)


async def test_of_another_project_nothing_exists(ran: Ran) -> None:
    service = service_of(ran.scene.store.redis, ran.scene.settings)
    with pytest.raises(ApiError) as of_others:
        await lines.lines(service, OTHERS, ran.evals.id)
    with pytest.raises(ApiError) as of_nobody:
        await lines.lines(service, OTHERS, "batch_none")
    assert of_others.value.status == of_nobody.value.status == 404
    assert of_others.value.message.replace(ran.evals.id, "batch_none") == of_nobody.value.message
    with pytest.raises(ApiError) as of_a_line:
        await lines.line(service, OTHERS, ran.evals.id, "line-1")
    assert of_a_line.value.status == 404
    assert (await spend.spend(service, OTHERS, project="evals")).total.requests == 0
    assert {row.name for row in (await spend.spend(service, OTHERS, by="project")).rows} == {"others"}
    assert (await spend.forecast(service, OTHERS, project="evals")).periods[0].spent_usd == 0
    views = [
        await overview.overview(service, OTHERS),
        await fleet.fleet(service, OTHERS),
        await models.model_states(service, OTHERS),
        await budgets.budgets(service, OTHERS),
        await notices.alerts(service, OTHERS, everything=True),
        await spend.forecast(service, OTHERS),
    ]
    for view in views:
        assert b"evals" not in msgspec.json.encode(view), type(view)
        assert ran.evals.id.encode() not in msgspec.json.encode(view), type(view)


async def test_a_project_is_not_told_what_the_workers_have_in_the_air(ran: Ran) -> None:
    seen = await fleet.fleet(service_of(ran.scene.store.redis, ran.scene.settings), OTHERS)
    assert seen.alive == 2
    assert seen.in_air is None
    assert {(worker.in_air, worker.held_usd, worker.models) for worker in seen.workers} == {(None, None, None)}


async def test_a_project_is_not_told_how_much_the_fleet_calls_a_model(ran: Ran, client: httpx.AsyncClient) -> None:
    await wait_until(lambda: counted(client), "the calls are counted")
    service = service_of(ran.scene.store.redis, ran.scene.settings)
    states = {one.model: one for one in (await models.model_states(service, OTHERS)).data}
    one = states[MODELS[0]]
    assert one.health == "ok"
    assert one.latency_ms is not None
    assert (one.calls, one.failures, one.limited, one.breaker.in_air, one.lines_waiting) == (None, None, None, None, 0)
    used = [*one.limits, *(await limits.limits(service, OTHERS)).data]
    told = {(use.requests_now, use.tokens_now, use.requests_today, use.in_air) for use in used}
    assert told <= {(None, None, None, None)}
    assert {breaker.in_air for breaker in (await switches.breakers(service, OTHERS)).data} == {None}


async def counted(client: httpx.AsyncClient) -> bool:
    """Whether the workers have told what they counted, which they do each second."""
    whole = await get(client, "/v1/overview")
    return bool(sum(part["calls"] for part in whole["throughput"]["hour"]) >= 15)


async def test_models_tell_how_they_do(ran: Ran, client: httpx.AsyncClient) -> None:
    await wait_until(lambda: counted(client), "the calls are counted")
    found = {one["model"]: one for one in (await get(client, "/v1/model_states"))["data"]}
    good = found[MODELS[0]]
    assert (good["health"], good["failures"]) == ("ok", 0)
    assert good["calls"] >= 15
    assert 10 < good["latency_ms"]["p50"] <= good["latency_ms"]["p95"] <= good["latency_ms"]["p99"]
    assert good["price"]["input"] > 0
    assert good["breaker"]["state"] == "closed"
    assert good["lines_waiting"] == 0


async def test_the_fleet_and_what_it_did(ran: Ran, client: httpx.AsyncClient) -> None:
    told = await get(client, "/v1/fleet")
    assert (told["alive"], told["in_air"], len(told["workers"])) == (2, 0, 2)
    assert told["room"] == 2 * told["concurrency"]
    assert all(worker["alive"] and worker["silent_seconds"] < 10 for worker in told["workers"])
    await wait_until(lambda: counted(client), "the calls are counted")
    whole = await get(client, "/v1/overview")
    assert (whole["workers"], whole["batches"], whole["lanes"], whole["blocked"]) == (2, {}, [], [])
    assert [part["seconds"] for part in whole["throughput"]["minute"]] == [10] * 6
    assert whole["throughput"]["per_second"] > 0


async def test_a_model_that_is_tripped_shows_everywhere_and_blocks_with_a_reason(
    ran: Ran, client: httpx.AsyncClient
) -> None:
    model = MODELS[0]
    escaped = model.replace("/", "%2F")
    tripped = await client.post(f"/v1/breakers/{escaped}/trip")
    assert (tripped.status_code, tripped.json()["state"], tripped.json()["tripped_by"]) == (200, "open", "operator")
    batch = await ran.scene.producer.submit([*fleet_helpers.lines(5, models=(model,))], project="evals", name="again")

    async def blocked() -> bool:
        whole = await get(client, "/v1/overview")
        return any(one["batch_id"] == batch.id and "breaker" in one["kinds"] for one in whole["blocked"])

    await wait_until(blocked, "the overview names the breaker")
    whole = await get(client, "/v1/overview")
    assert (whole["lines_pending"], whole["lanes"]) == (5, [{"lane": model, "lines": 5, "batches": 1}])
    rows = (await get(client, f"/v1/batches/{batch.id}/lines", state="pending", limit=3))["data"]
    assert [row["state"] for row in rows] == ["pending"] * 3
    waiting = await get(client, f"/v1/batches/{batch.id}/lines/{rows[0]['custom_id']}")
    assert waiting["request"]["model"] == model
    assert (waiting["response"], waiting["attempts"]) == (None, [])
    found = {one["model"]: one for one in (await get(client, "/v1/model_states"))["data"]}
    assert (found[model]["health"], found[model]["lines_waiting"]) == ("held", 5)
    assert (await client.post(f"/v1/breakers/{model}/reset")).json()["state"] == "closed"
    assert len(await gather(batch)) == 5


async def test_savings_and_forecast_are_told(ran: Ran, client: httpx.AsyncClient) -> None:
    told = await get(client, "/v1/spend/forecast")
    assert [period["period"] for period in told["periods"]] == ["day", "week", "month"]
    assert told["periods"][0]["spent_usd"] > 0
    assert told["method"]
    reply = await client.get("/v1/spend/recommendations", params={"needs": "nothing"})
    assert reply.status_code in (200, 503)
    if reply.status_code == 200:
        assert MODELS[0] in {one["model"] for one in reply.json()["models"]}
