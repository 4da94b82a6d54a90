"""What the client knows of the account: the key's report, the key that shows nowhere, the way through a proxy."""

import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from batchmill.config.errors import ConfigError
from batchmill.config.settings import Secret, UpstreamSettings
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError
from batchmill.openrouter.outcomes import Answer, Failure, Usage
from batchmill.openrouter.wire import GenerationInfo

KEY = "sk-or-v1-0123456789abcdef"
BODY = b'{"model":"a/b","messages":[]}'
Handler = Callable[[web.Request], web.Response]


@asynccontextmanager
async def upstream(handler: Handler, key: str = KEY) -> AsyncIterator[Upstream]:
    async with serving(handler) as url, Upstream(settings(url), Secret(key), max_connections=4) as client:
        yield client


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    async def handle(request: web.BaseRequest) -> web.Response:
        assert isinstance(request, web.Request)
        return handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/v1"))


def settings(url: str) -> UpstreamSettings:
    return UpstreamSettings(base_url=url)


def answering(status: int, body: Any, **options: Any) -> Handler:
    return lambda _: web.json_response(body, status=status, **options)


async def test_what_the_key_may_spend() -> None:
    told = {
        "label": "sk-or-v1-au7...890",
        "limit": 10,
        "limit_remaining": 7.25,
        "limit_reset": "monthly",
        "usage": 2.75,
        "is_free_tier": False,
        "rate_limit": {"requests": -1},
        "usage_daily": "?",
        "free_model_daily_requests": {"used": 3, "limit": 50, "remaining": 47},
        "budgets": [{"scope": "key_limit", "limit_usd": 10, "resets_at": "2026-12-01T00:00:00Z"}],
    }

    def handler(request: web.Request) -> web.Response:
        assert (request.method, request.path) == ("GET", "/v1/key")
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return web.json_response({"data": told})

    async with upstream(handler) as client:
        info = await client.key()
    assert info is not None
    assert (info.label, info.limit, info.limit_remaining) == ("sk-or-v1-au7...890", Decimal(10), Decimal("7.25"))
    assert info.usage_daily is None  # of a strange type, and lost alone
    assert info.free_model_daily_requests is not None
    assert info.free_model_daily_requests.remaining == 47
    assert info.budgets is not None
    assert info.budgets[0].resets_at == "2026-12-01T00:00:00Z"


@pytest.mark.parametrize(
    ("status", "body"), [(404, {"detail": "Not Found"}), (405, ""), (200, {"error": "no"}), (200, "<html>"), (200, [])]
)
async def test_most_endpoints_tell_nothing_about_a_key(status: int, body: Any) -> None:
    async with upstream(answering(status, body)) as client:
        assert await client.key() is None


@pytest.mark.parametrize(("status", "code"), [(401, "authentication"), (402, "insufficient_credits")])
async def test_a_refused_key(status: int, code: str) -> None:
    async with upstream(answering(status, {"error": {"code": status, "message": "User not found."}})) as client:
        with pytest.raises(UpstreamRefusedError, match=f"{code}.*User not found") as refused:
            await client.key()
    assert refused.value.failure.status == status


@pytest.mark.parametrize("status", [429, 500, 502])
async def test_an_upstream_that_can_not_answer_now(status: int) -> None:
    async with upstream(answering(status, {"error": {"code": status, "message": "later"}})) as client:
        with pytest.raises(UpstreamUnavailableError, match="later"):
            await client.key()


async def test_an_upstream_that_is_not_there() -> None:
    async with Upstream(settings("http://127.0.0.1:1/v1"), Secret(KEY), max_connections=1) as client:
        with pytest.raises(UpstreamUnavailableError, match="connect_failed"):
            await client.key()


async def test_without_a_key_no_authorization_is_sent() -> None:
    def handler(request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers
        return web.json_response({"choices": [{}]})

    async with serving(handler) as url, Upstream(settings(url), None, max_connections=1) as client:
        assert isinstance(await client.complete(BODY), Answer)


async def test_the_key_shows_nowhere(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    def echo(request: web.Request) -> web.Response:
        quoted = f"Incorrect API key provided: {request.headers['Authorization']}"
        return web.json_response({"error": {"code": 401, "message": quoted, "metadata": {"raw": quoted}}}, status=401)

    caplog.set_level(logging.DEBUG)
    async with upstream(echo) as client:
        seen: list[object] = [client, vars(client)["_key"], str(client)]
        for outcome in (await client.complete(BODY), await client.stream(BODY)):
            assert isinstance(outcome, Failure)
            assert "***" in outcome.message
            seen.append(outcome)
        with pytest.raises(UpstreamRefusedError) as refused:
            await client.key()
    error = refused.value
    assert error.__cause__ is None
    assert error.__context__ is None  # aiohttp's exceptions hold the request's headers
    seen += [error, error.args, error.failure, "".join(traceback.format_exception(error))]
    assert not [each for each in seen if KEY in repr(each) or KEY in str(each)]
    assert KEY not in caplog.text
    assert KEY not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("key", "title"), [("sk-or\nv1", "t"), (KEY, "a\r\nb")])
def test_a_header_that_can_not_be_sent_is_refused_at_once(key: str, title: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Upstream(UpstreamSettings(title=title), Secret(key), max_connections=1)
    assert key not in str(refused.value)


async def test_the_systems_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def proxy(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.json_response({"choices": [{}]})

    async with serving(proxy) as url:
        monkeypatch.setenv("http_proxy", url.removesuffix("/v1"))
        async with Upstream(settings("http://far.invalid/v1"), None, max_connections=1) as client:
            assert isinstance(await client.complete(BODY), Answer)
    assert asked == ["http://far.invalid/v1/chat/completions"]


@pytest.mark.parametrize("way", ["loopback", "no_proxy"])
async def test_a_proxy_is_passed_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "0.0.0.0" if way == "no_proxy" else "")
    async with serving(answering(200, {"choices": [{}]})) as url:
        here = url.replace("127.0.0.1", "0.0.0.0") if way == "no_proxy" else url
        async with Upstream(settings(here), None, max_connections=1) as client:
            assert isinstance(await client.complete(BODY), Answer)


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(ConfigError, match="NO_PROXY"):
        Upstream(settings("http://far.invalid/v1"), None, max_connections=1)


async def test_a_client_that_was_never_used_closes() -> None:
    async with Upstream(settings("http://127.0.0.1:1/v1"), None, max_connections=1) as client:
        assert repr(client) == "Upstream('http://127.0.0.1:1/v1')"


async def test_what_a_call_became() -> None:
    told = {
        "id": "gen-1-x",
        "total_cost": 0.000132,
        "native_tokens_prompt": 15,
        "native_tokens_completion": 51,
        "native_tokens_reasoning": 7,
        "native_tokens_cached": None,
        "tokens_prompt": 14,
        "model": "a/b",
        "provider_name": "P",
        "finish_reason": "stop",
        "cancelled": "?",
    }

    def handler(request: web.Request) -> web.Response:
        assert (request.method, request.path, dict(request.query)) == ("GET", "/v1/generation", {"id": "gen-1-x"})
        return web.json_response({"data": told})

    async with upstream(handler) as client:
        found = await client.generation("gen-1-x")
    assert found == GenerationInfo("gen-1-x", Decimal("0.000132"), Usage(15, 51, 0, 7), "a/b", "P", "stop")
    assert found.cost == 132_000


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"error": {"code": 404, "message": "Generation gen-1 not found"}}),
        (405, ""),
        (200, {"data": {"id": "gen-1"}}),
        (200, {"data": {"id": "gen-1", "total_cost": -1}}),
        (200, {"data": {"id": "gen-1", "total_cost": "much"}}),
        (200, "<html>"),
    ],
)
async def test_a_call_that_is_not_known_yet(status: int, body: Any) -> None:
    async with upstream(answering(status, body)) as client:
        assert await client.generation("gen-1") is None


async def test_a_call_that_can_not_be_looked_up() -> None:
    async with upstream(answering(500, {"error": {"code": 500, "message": "later"}})) as client:
        with pytest.raises(UpstreamUnavailableError, match="later"):
            await client.generation("gen-1")
    async with upstream(answering(401, {"error": {"code": 401, "message": "User not found."}})) as client:
        with pytest.raises(UpstreamRefusedError, match="User not found"):
            await client.generation("gen-1")


async def test_the_models_and_their_prices() -> None:
    pricing = {"prompt": "0.000001", "completion": "0.000002"}
    listing = {"data": [{"id": "a/b", "pricing": pricing, "context_length": 8192}, {"id": "c/d", "object": "model"}]}

    def handler(request: web.Request) -> web.Response:
        assert (request.method, request.path) == ("GET", "/v1/models")
        return web.json_response(listing)

    async with upstream(handler) as client:
        models = await client.models()
    assert [(each.id, each.context_length, each.names_price) for each in models.values()] == [
        ("a/b", 8192, True),
        ("c/d", None, False),
    ]


async def test_an_endpoint_that_lists_no_models() -> None:
    async with upstream(answering(404, {"detail": "Not Found"})) as client:
        assert await client.models() == {}
    async with upstream(answering(502, "")) as client:
        with pytest.raises(UpstreamUnavailableError):
            await client.models()
