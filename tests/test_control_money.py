"""Budgets, limits, suspects, alerts and the audit over HTTP: what is changed there holds at the gate at once."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.alerting import AlertKind
from batchmill.config.policy import Alias, Limit, Policy
from batchmill.config.settings import load
from batchmill.config.windows import WindowKind
from batchmill.service.context import Service
from batchmill.service.control import budgets as control
from batchmill.service.control import notices
from batchmill.service.identity import EVERY_SCOPE, Identity
from batchmill.service.problems import ApiError
from batchmill.spend.alerts import Alert, Due
from batchmill.store import alerts, api_keys, keys, policy
from batchmill.store.model import Terms
from batchmill.store.staging import BatchFacts, Staging

from .gate_helpers import budget, policy_of
from .service_helpers import in_process, service_of
from .store_helpers import DAYS, MODEL, UPSTREAM, line

EVALS = Identity(project="evals", scopes=EVERY_SCOPE, key_id="k1", key_name="mine")
DOLLAR = 10**9
POLICY = policy_of(
    budget("all", 10 * DOLLAR, window=WindowKind.DAY),
    budget("evals-cap", 4 * DOLLAR, project="evals"),
    budget("others-cap", 3 * DOLLAR, project="others"),
    Limit(match="maker/*", name="maker", requests_per_minute=60, max_concurrency=5),
)


@pytest.fixture
async def service(redis: Redis, tmp_path: Any) -> Service:
    settings = load(environ={"BATCHMILL_BASE_URL": UPSTREAM, "BATCHMILL_DATA_DIR": str(tmp_path)})
    await policy.apply(redis, UPSTREAM, POLICY, "test.toml")
    return service_of(redis, settings)


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(service.redis, service.settings, tasks=False) as client:
        yield client


async def capped_batch(redis: Redis, project: str) -> str:
    staging = Staging(redis, UPSTREAM, retention_days=DAYS)
    await staging.add(MODEL, [line(0)], Terms(project=project, capped=True))
    facts = BatchFacts(total=1, models={MODEL: 1}, content=project, project=project, max_cost=DOLLAR)
    return await staging.release(facts)


def exact(reply: httpx.Response) -> Any:
    """Return JSON with numbers as they were written."""
    return msgspec.json.decode(reply.content)


async def test_a_budget_is_raised_and_lowered_and_everybody_sees_who_did_it(client: httpx.AsyncClient) -> None:
    assert exact(await client.get("/v1/budgets"))["data"][0]["limit_usd"] == 10
    raised = await client.patch("/v1/budgets/all", json={"limit_usd": 12.5})
    assert raised.status_code == 200
    told = exact(raised)
    assert (told["before_usd"], told["after_usd"], told["budget"]["limit_usd"]) == (10, 12.5, 12.5)
    assert told["budget"]["declared_usd"] == 10
    assert exact(await client.patch("/v1/budgets/all", content=b'{"limit_usd": "0.000000001"}'))["after_usd"] == 1e-9
    entries = exact(await client.get("/v1/audit"))["data"]
    assert [entry["what"] for entry in entries] == ["budget.lowered", "budget.raised", "policy.applied"]
    assert entries[0]["who"] == "somebody on this machine"
    names = {one["name"]: one["limit_usd"] for one in exact(await client.get("/v1/budgets"))["data"]}
    assert names == {"all": 1e-9, "evals-cap": 4, "others-cap": 3}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b'{"limit_usd": -1}', 400, "limit_usd"),
        (b'{"limit_usd": 9000001}', 400, "limit_usd"),
        (b'{"limit_usd": 0.0000000001}', 400, "limit_usd"),
        (b'{"limit_usd": "much"}', 400, "limit_usd"),
        (b'{"limit_usd": null}', 400, "limit_usd"),
        (b'{"limit_usd": "NaN"}', 400, "limit_usd"),
        (b'{"limit_usd": "1e999999999"}', 400, "limit_usd"),
        (b'{"limit": 1}', 400, "limit"),
        (b"{}", 400, "limit_usd"),
        (b"", 400, None),
    ],
)
async def test_no_budget_has_such_a_limit(
    client: httpx.AsyncClient, body: bytes, status: int, param: str | None
) -> None:
    reply = await client.patch("/v1/budgets/all", content=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text


async def test_a_project_sees_its_own_and_how_much_is_free_of_what_it_shares(service: Service) -> None:
    own, foreign = await capped_batch(service.redis, "evals"), await capped_batch(service.redis, "others")
    found = await control.budgets(service, EVALS)
    assert {one.name for one in found.data} == {"evals-cap", own}
    assert [(one.name, one.free_percent) for one in found.shared] == [("all", 100)]
    assert foreign.encode() not in msgspec.json.encode(found)


async def test_a_project_s_admin_may_change_the_caps_of_its_own_batches_only(service: Service) -> None:
    own, foreign = await capped_batch(service.redis, "evals"), await capped_batch(service.redis, "others")
    raised = await control.change_limit(service, EVALS, own, Decimal(2))
    assert raised.budget is not None
    assert (raised.after_usd, raised.budget.limit_usd) == (Decimal(2), Decimal(2))
    for name, status in (("evals-cap", 403), ("all", 403), (foreign, 404), ("others-cap", 404), ("none", 404)):
        with pytest.raises(ApiError) as refused:
            await control.change_limit(service, EVALS, name, Decimal(5))
        assert refused.value.status == status, name
    limits = {one.name: one.limit_usd for one in (await control.budgets(service_of(service.redis, service.settings),
              Identity(project=None, scopes=EVERY_SCOPE))).data}  # fmt: skip
    assert limits == {"all": 10, "evals-cap": 4, "others-cap": 3, own: 2, foreign: 1}
    [entry, *_] = (await notices.audit(service, EVALS, 1)).data
    assert entry.who == "key:mine"


async def test_a_key_does_not_raise_the_budget_that_it_is_under(service: Service, client: httpx.AsyncClient) -> None:
    """Whatever it may do otherwise: it makes no keys, either."""
    wanted = api_keys.Wanted(name="one", project=None, scopes=("read", "admin"), budget_usd=Decimal(1))
    one = await api_keys.create(service.redis, UPSTREAM, wanted, "me")
    two = await api_keys.create(service.redis, UPSTREAM, msgspec.structs.replace(wanted, name="two"), "me")
    for made, status in ((one, 403), (two, 200)):
        headers = {"authorization": f"Bearer {made.text}"}
        reply = await client.patch("/v1/budgets/key:one", json={"limit_usd": 9}, headers=headers)
        assert reply.status_code == status, reply.text


async def test_a_limit_is_tuned_until_the_file_says_otherwise(redis: Redis, client: httpx.AsyncClient) -> None:
    before = (await policy.live(redis, UPSTREAM)).version
    reply = await client.patch("/v1/limits/maker", json={"requests_per_minute": 600, "max_concurrency": None})
    assert reply.status_code == 200
    [told] = reply.json()["data"]
    assert (told["requests_per_minute"], told["max_concurrency"], told["tuned"]) == (600, None, True)
    found = await policy.live(redis, UPSTREAM)
    [limit] = found.policy.limits_for(MODEL)
    assert (limit.requests_per_minute, limit.max_concurrency, found.version) == (600, None, before + 1)
    await policy.apply(redis, UPSTREAM, POLICY, "test.toml")  # the same file again, as at a restart
    assert (await policy.live(redis, UPSTREAM)).version == before + 1
    assert (await policy.live(redis, UPSTREAM)).policy.limits_for(MODEL) == (limit,)
    other = Limit(match="maker/*", name="maker", requests_per_minute=30)
    await policy.apply(redis, UPSTREAM, policy_of(other), "test.toml")
    assert (await policy.live(redis, UPSTREAM)).policy.limits_for(MODEL) == (other,)


async def test_a_limit_that_is_tuned_back_is_the_file_s_again(redis: Redis, client: httpx.AsyncClient) -> None:
    await client.patch("/v1/limits/maker", json={"requests_per_minute": 600})
    [told] = (await client.patch("/v1/limits/maker", json={"requests_per_minute": 60})).json()["data"]
    assert not told["tuned"]
    assert (await policy.live(redis, UPSTREAM)).tuned == {}
    version = (await policy.live(redis, UPSTREAM)).version
    await client.patch("/v1/limits/maker", json={})
    assert (await policy.live(redis, UPSTREAM)).version == version


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("none", {"requests_per_minute": 1}, 404),
        ("maker", {"requests_per_minute": 0}, 400),
        ("maker", {"requests_per_minute": "fast"}, 400),
        ("maker", {"requests_per_minute": None, "max_concurrency": None}, 400),
        ("maker", {"requests_per_hour": 1}, 400),
    ],
)
async def test_a_limit_that_can_t_be_is_refused_and_nothing_changes(
    redis: Redis, client: httpx.AsyncClient, name: str, body: dict[str, Any], status: int
) -> None:
    before = await policy.live(redis, UPSTREAM)
    assert (await client.patch(f"/v1/limits/{name}", json=body)).status_code == status
    assert await policy.live(redis, UPSTREAM) == before


async def test_a_model_is_paused_and_resumed(client: httpx.AsyncClient) -> None:
    paused = await client.post("/v1/pauses", json={"model": "maker/odd", "reason": "odd answers"})
    [told] = paused.json()["data"]
    assert (told["model"], told["by_operator"], told["until_at"]) == ("maker/odd", True, None)
    assert told["reason"] == "paused by somebody on this machine: odd answers"
    assert [one["model"] for one in (await client.get("/v1/breakers")).json()["data"]] == ["maker/odd"]
    assert (await client.delete("/v1/pauses/maker%2Fodd")).json()["data"] == []
    assert (await client.delete("/v1/pauses/maker%2Fodd")).status_code == 404
    assert (await client.post("/v1/pauses", json={"model": ""})).status_code == 400


async def test_a_pause_that_would_hold_nothing_back_is_refused_unless_it_is_forced(
    redis: Redis, service: Service
) -> None:
    alias = Alias(name="fast", models=("openai/gpt-4o-mini", "mistralai/mistral-nemo"))
    await policy.apply(redis, "simulator", Policy(aliases=(alias,)), "test.toml")
    await redis.execute_command("SADD", keys.lanes("simulator"), MODEL)
    rehearsed = msgspec.structs.replace(service.settings, simulate=True)
    async with in_process(redis, rehearsed, tasks=False) as client:
        wrong = await client.post("/v1/pauses", json={"model": "openai/gpt-4o-mni"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (404, "model")
        assert "did you mean openai/gpt-4o-mini" in wrong.json()["error"]["message"]
        several = await client.post("/v1/pauses", json={"model": "fast"})
        assert several.status_code == 404
        assert "pause those: openai/gpt-4o-mini, mistralai/mistral-nemo" in several.json()["error"]["message"]
        assert (await client.get("/v1/pauses")).json()["data"] == []
        for body in ({"model": "openai/gpt-4o-mni", "force": True}, {"model": MODEL}, {"model": "openai/gpt-4o-mini"}):
            assert (await client.post("/v1/pauses", json=body)).status_code == 200


async def test_a_breaker_of_a_model_without_a_lane_can_t_be_tripped(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/breakers/maker/none/trip")
    assert (reply.status_code, reply.json()["error"]["message"]) == (404, "No lane found for model 'maker/none'.")
    assert (await client.post("/v1/breakers/maker/none/reset")).json()["state"] == "closed"


async def raise_alert(redis: Redis, subject: str) -> str:
    alert = Alert(kind=AlertKind.BUDGET_WARNING, subject=subject, period="p", text="nearly", amount=1, limit=2)
    found = await alerts.raise_once(redis, UPSTREAM, Due(alert, None))
    assert found
    return found


async def test_an_alert_is_seen_and_leaves_the_list(redis: Redis, client: httpx.AsyncClient) -> None:
    alert_id = await raise_alert(redis, "all")
    [told] = exact(await client.get("/v1/alerts", params={"all": "true"}))["data"]
    assert (told["id"], told["level"], told["amount_usd"], told["acknowledged"]) == (alert_id, "warning", 1e-9, None)
    for _ in range(2):
        seen = await client.post(f"/v1/alerts/{alert_id}/ack")
        assert (seen.status_code, seen.json()["acknowledged"]["who"]) == (200, "somebody on this machine")
    assert (await client.get("/v1/alerts")).json()["data"] == []
    assert (await client.post("/v1/alerts/1-1/ack")).status_code == 404


async def test_a_project_hears_of_its_own_budgets_alone(service: Service) -> None:
    for subject in ("all", "evals-cap", "others-cap"):
        await raise_alert(service.redis, subject)
    assert [one.subject for one in (await notices.alerts(service, EVALS)).data] == ["evals-cap"]


async def test_suspects_are_listed_and_freed(redis: Redis, client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/suspects")).json() == {"data": [], "total_usd": 0}
    assert (await client.post("/v1/suspects/release", json={"all": True})).json() == {"holds": [], "total_usd": 0}
    assert (await client.post("/v1/suspects/release", json={"holds": ["x"]})).status_code == 404
    assert (await client.post("/v1/suspects/release", json={})).status_code == 400
    assert (await client.post("/v1/suspects/release", json={"holds": ["x"], "all": True})).status_code == 400
    assert (await client.post("/v1/books/accept")).json() == {"accepted": False}
    assert await redis.execute_command("EXISTS", keys.suspects(UPSTREAM)) == 0


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/v1/spend", {"since": "yesterday"}),
        ("/v1/spend", {"since": "2026-01-02", "until": "2026-01-01"}),
        ("/v1/spend", {"by": "colour"}),
        ("/v1/spend/recommendations", {"needs": "wings"}),
        ("/v1/spend/recommendations", {"limit": "0"}),
        ("/v1/audit", {"limit": "many"}),
        ("/v1/batches/batch_none/lines", {"state": "odd"}),
    ],
)
async def test_what_can_t_be_meant_is_refused(client: httpx.AsyncClient, path: str, query: dict[str, str]) -> None:
    reply = await client.get(path, params=query)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error"), reply.text
