"""Pages over a made-up API: what they show, what their forms do, and what they refuse. No browser, no script."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.service import app as application
from batchmill.service import problems
from batchmill.service.compat.batch_objects import BatchErrors, BatchList
from batchmill.service.control import line_shapes, money, shapes
from batchmill.service.dashboard import forms
from batchmill.store import api_keys
from batchmill.store.intakes import Fault

from .dashboard_helpers import Asked, Told, answers, operations
from .dashboard_samples import HOSTILE, MODELS, batch, overview
from .service_helpers import in_process

ONE = batch(1).id
PAGES = ("/", "/batches", f"/batches/{ONE}", f"/batches/{ONE}/lines/question-1", "/models", "/spend", "/fleet")


@asynccontextmanager
async def dashboard(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, **changed: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Asked]]:
    asked = Asked()
    monkeypatch.setattr(application, "OPERATIONS", operations(answers() | changed.get("told", {}), asked))
    async with in_process(redis, settings, headers=changed.get("headers"), tasks=False) as client:
        yield client, asked


@pytest.fixture
async def pages(
    real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[httpx.AsyncClient, Asked]]:
    async with dashboard(real_redis, settings, monkeypatch) as made:
        yield made


def token_in(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page.text)
    assert found
    return found[1]


@pytest.mark.parametrize("path", [*PAGES, "/login"])
async def test_pages_need_nothing_from_elsewhere_and_no_markup_gets_in(
    pages: tuple[httpx.AsyncClient, Asked], path: str
) -> None:
    client, _ = pages
    shown = await client.get(path)
    assert shown.status_code == 200, shown.text
    assert shown.headers["cache-control"] == "no-store"
    assert shown.headers["referrer-policy"] == "same-origin"
    assert "default-src 'self'" in shown.headers["content-security-policy"]
    assert HOSTILE not in shown.text
    assert not re.search(r"<script(?![^>]* src=\"/static/)|\son\w+=\"|\sstyle=\"|<style", shown.text)
    assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", shown.text)
    for address in re.findall(r"\"(/static/[^\"]+)\"", shown.text):
        assert (await client.get(address)).status_code == 200


async def test_the_script_gets_the_middle_of_a_page_alone(pages: tuple[httpx.AsyncClient, Asked]) -> None:
    client, _ = pages
    middle = await client.get("/", headers={"x-live": "1"})
    assert middle.text.lstrip().startswith('<main id="main"')
    assert "<html" not in middle.text


async def test_an_overview_says_what_is_blocked_and_why(pages: tuple[httpx.AsyncClient, Asked]) -> None:
    client, _ = pages
    shown = (await client.get("/")).text
    for said in ("budget daily until 2026-11-30 00:00 UTC", "18.4", "$13.40", "11,396", "Budget daily is 95 % spent."):
        assert said in shown
    assert "80 % spent" not in shown  # somebody has seen that


async def test_lines_are_filtered_by_the_api(pages: tuple[httpx.AsyncClient, Asked]) -> None:
    client, asked = pages
    shown = await client.get(f"/batches/{ONE}?state=failed&search=a%2Fb&after=c9")
    query = next(query for _, path, query in asked.calls if path.endswith("/lines"))
    assert (query.state, query.search, query.after) == ("failed", "a/b", "c9")
    assert "after=c1" in shown.text  # the next page, with the same filter
    assert "search=a%2Fb" in shown.text


async def test_a_line_with_any_id_has_a_page(pages: tuple[httpx.AsyncClient, Asked]) -> None:
    client, asked = pages
    shown = (await client.get(f"/batches/{ONE}")).text
    assert f"/batches/{ONE}/lines/a/b%3Fc%23d" in shown
    assert (await client.get(f"/batches/{ONE}/lines/{quote('a/b?c#d')}")).status_code == 200
    assert asked.calls[-1][1] == f"/v1/batches/{ONE}/lines/a/b?c#d"


FORMS = [
    (f"/batches/{ONE}/cancel", {}, ("POST", f"/v1/batches/{ONE}/cancel")),
    (f"/batches/{ONE}/retry", {}, ("POST", f"/v1/batches/{ONE}/retry")),
    ("/budgets/daily/limit", {"limit_usd": "$1,200.50"}, ("PATCH", "/v1/budgets/daily")),
    ("/alerts/daily:95/ack", {}, ("POST", "/v1/alerts/daily:95/ack")),
    (f"/breakers/{MODELS[0]}/trip", {}, ("POST", f"/v1/breakers/{MODELS[0]}/trip")),
    (f"/breakers/{MODELS[0]}/reset", {}, ("POST", f"/v1/breakers/{MODELS[0]}/reset")),
    (f"/pauses/{MODELS[0]}", {}, ("POST", "/v1/pauses")),
    (f"/pauses/{MODELS[0]}/end", {}, ("DELETE", f"/v1/pauses/{MODELS[0]}")),
    ("/limits/account", {"requests_per_minute": "1,200", "max_concurrency": ""}, ("PATCH", "/v1/limits/account")),
    ("/suspects/release", {"holds": "7:31 7:32"}, ("POST", "/v1/suspects/release")),
    ("/books/accept", {}, ("POST", "/v1/books/accept")),
]


@pytest.mark.parametrize(("path", "fields", "call"), FORMS)
async def test_forms_do_one_thing_of_the_api(
    pages: tuple[httpx.AsyncClient, Asked], path: str, fields: dict[str, str], call: tuple[str, str]
) -> None:
    client, asked = pages
    token = token_in(await client.get("/"))
    asked.calls.clear()
    answer = await client.post(path, data={"csrf": token, "back": "/spend?by=batch", **fields})
    assert answer.status_code == 303, answer.text
    assert asked.calls[0][:2] == call
    wanted = f"/batches/{batch(9).id}" if path.endswith("/retry") else "/spend?by=batch"
    assert answer.headers["location"] == wanted
    sent = asked.calls[0][2]
    if "limit_usd" in fields:
        assert sent.limit_usd == Decimal("1200.50")
    if "holds" in fields:
        assert sent.holds == ("7:31", "7:32")
    if "max_concurrency" in fields:
        assert (sent.requests_per_minute, sent.max_concurrency) == (1200, None)


@pytest.mark.parametrize(("path", "fields", "call"), FORMS)
async def test_forms_of_others_do_nothing(
    pages: tuple[httpx.AsyncClient, Asked], path: str, fields: dict[str, str], call: tuple[str, str]
) -> None:
    client, asked = pages
    token = token_in(await client.get("/"))
    asked.calls.clear()
    tried = [
        await client.post(path, data=fields),
        await client.post(path, data={"csrf": "0" * 64, **fields}),
        await client.post(path, data={"csrf": "é", **fields}),
        await client.post(path, data={"csrf": token, **fields}, headers={"sec-fetch-site": "cross-site"}),
        await client.post(path, data={"csrf": token, **fields}, headers={"origin": "https://evil.example"}),
        await client.post(path, data={"csrf": token, **fields}, headers={"origin": "null"}),
    ]
    assert [answer.status_code for answer in tried] == [403] * 6
    assert asked.calls == []


@pytest.mark.parametrize("amount", ["", "ten", "-1", "nan", "Infinity", "1e9999999"])
async def test_a_limit_that_is_none_is_refused(pages: tuple[httpx.AsyncClient, Asked], amount: str) -> None:
    client, asked = pages
    token = token_in(await client.get("/"))
    asked.calls.clear()
    answer = await client.post("/budgets/daily/limit", data={"csrf": token, "limit_usd": amount})
    assert answer.status_code == 400
    assert asked.calls == []


@pytest.mark.parametrize("number", ["-1", "1.5", "many", "1" * 12])
async def test_a_rate_that_is_none_is_refused(pages: tuple[httpx.AsyncClient, Asked], number: str) -> None:
    client, asked = pages
    token = token_in(await client.get("/"))
    asked.calls.clear()
    answer = await client.post("/limits/account", data={"csrf": token, "requests_per_minute": number})
    assert answer.status_code == 400
    assert asked.calls == []


@pytest.mark.parametrize(
    "address", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nb", ""]
)
def test_nobody_is_led_elsewhere(address: str) -> None:
    assert forms.local(address) == "/"


async def test_what_is_empty_says_what_to_do(
    real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: Told = {
        ("GET", "/v1/overview"): overview(workers=0, lanes=(), blocked=(), breakers_open=0),
        ("GET", "/v1/batches"): BatchList((), False),
        ("GET", "/v1/budgets"): money.Budgets(data=()),
        ("GET", "/v1/alerts"): money.Alerts(data=()),
        ("GET", "/v1/model_states"): shapes.ModelStates(at=0, data=()),
        ("GET", "/v1/batches/{batch_id}/lines"): line_shapes.Lines(data=(), has_more=False, next=None),
    }
    async with dashboard(real_redis, settings, monkeypatch, told=told) as (client, _):
        first = (await client.get("/")).text
        assert "No worker is alive" in first
        assert "batchmill submit" in first
        assert "Nothing is blocked." in first
        assert "[[budgets]]" in (await client.get("/spend")).text
        assert "batchmill models" in (await client.get("/models")).text
        assert "No line like that" in (await client.get(f"/batches/{ONE}?search=x")).text


async def test_a_refused_input_is_told_line_by_line(
    real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(code="duplicate_custom_id", message="The custom_id 'a' is used twice.", param="custom_id", line=7)
    one = batch(1, "failed", errors=BatchErrors((fault,)), failed_at=1)
    async with dashboard(real_redis, settings, monkeypatch, told={("GET", "/v1/batches/{batch_id}"): one}) as (
        client,
        _,
    ):
        shown = (await client.get(f"/batches/{ONE}")).text
        assert "Line 7: The custom_id &#39;a&#39; is used twice." in shown


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (problems.not_found("No batch found."), "No batch found."),
        (problems.unavailable("Redis is away."), "Redis is away."),
        (problems.forbidden("This API key lacks the scope 'read'."), "lacks the scope"),
    ],
)
async def test_what_fails_is_a_page_too(
    real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, error: problems.ApiError, said: str
) -> None:
    told: Told = {("GET", "/v1/batches/{batch_id}"): error}
    async with dashboard(real_redis, settings, monkeypatch, told=told) as (client, _):
        shown = await client.get(f"/batches/{ONE}")
        assert shown.status_code == error.status
        assert said in shown.text.replace("&#39;", "'")
        assert "<nav" in shown.text


async def test_the_theme_is_remembered_without_a_script(pages: tuple[httpx.AsyncClient, Asked]) -> None:
    client, _ = pages
    answer = await client.post("/theme", data={"theme": "dark", "back": "/fleet"})
    assert answer.headers["location"] == "/fleet"
    assert '<html lang="en" data-theme="dark">' in (await client.get("/fleet")).text
    await client.post("/theme", data={"theme": '"><script>'})
    assert '<html lang="en">' in (await client.get("/fleet")).text


async def test_a_batch_is_found_by_its_id(pages: tuple[httpx.AsyncClient, Asked]) -> None:
    client, _ = pages
    assert (await client.get("/batches?id=%20batch_x/y%20")).headers["location"] == "/batches/batch_x%2Fy"


async def test_who_has_a_key_logs_in_with_it_and_sees_what_the_key_lets_them(
    real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = api_keys.Wanted(name="reader", project="search", scopes=("read",))
    made = await api_keys.create(real_redis, settings.upstream_name, wanted, "test")
    async with dashboard(real_redis, settings, monkeypatch) as (client, asked):
        led = await client.get(f"/batches/{ONE}")
        assert (led.status_code, led.headers["location"]) == (303, f"/login?next=/batches/{ONE}")
        assert asked.calls == []
        wrong = await client.post("/login", data={"key": "bm-wrong-key", "next": "/spend"})
        assert wrong.status_code == 401
        assert "bm-wrong-key" not in wrong.text
        right = await client.post("/login", data={"key": made.text, "next": f"/batches/{ONE}"})
        assert right.headers["location"] == f"/batches/{ONE}"
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert made.text not in cookie
        shown = await client.get(f"/batches/{ONE}")
        assert ">search<" in shown.text
        assert "Cancel batch" not in shown.text
        assert "Raise or lower the cap" not in shown.text
        token = token_in(shown)
        refused = await client.post(f"/batches/{ONE}/cancel", data={"csrf": token})
        assert refused.status_code == 403
        assert "&#39;submit&#39;" in refused.text
        assert (await client.post("/logout", data={"csrf": "0" * 64})).status_code == 403
        out = await client.post("/logout", data={"csrf": token})
        assert out.headers["location"] == "/login"
        assert (await client.get("/")).status_code == 303
        client.cookies.set("batchmill_session", right.cookies.get("batchmill_session") or "")
        assert (await client.get("/")).status_code == 303  # a cookie that somebody kept is worth nothing


async def test_a_form_of_another_session_is_refused(
    real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = api_keys.Wanted(name="boss", project=None, scopes=("submit", "read", "admin"))
    made = await api_keys.create(real_redis, settings.upstream_name, wanted, "test")
    async with dashboard(real_redis, settings, monkeypatch) as (client, asked):
        await client.post("/login", data={"key": made.text})
        other = token_in(await client.get("/"))
        client.cookies.clear()
        await client.post("/login", data={"key": made.text})
        asked.calls.clear()
        assert (await client.post("/alerts/a/ack", data={"csrf": other})).status_code == 403
        assert asked.calls == []
        own = token_in(await client.get("/"))
        assert (await client.post("/alerts/a/ack", data={"csrf": own})).status_code == 303
