"""What the client asks beside completions: paths, and what is no such thing."""

from typing import Any

import pytest
from aiohttp import web

from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError

from .test_client_account import answering, upstream
from .test_endpoints import ENDPOINT

MODEL = {"id": "a/b", "pricing": {"prompt": "0.1", "completion": "0.2"}}


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("a/b", "a/b"),
        ("a/b:free", "a/b:free"),
        ("~a/b-latest", "~a/b-latest"),
        ("a/b c?d#e%2F", "a/b%20c%3Fd%23e%252F"),
        ("a/ü", "a/%C3%BC"),
        ("llama", "llama"),
    ],
)
async def test_an_id_is_a_path(model: str, path: str) -> None:
    asked = []

    def handler(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.json_response({"data": MODEL | {"endpoints": [ENDPOINT]}})

    async with upstream(handler) as client:
        endpoints = await client.endpoints(model)
        facts = await client.model(model)
    assert asked == [f"/v1/models/{path}/endpoints", f"/v1/model/{path}"]
    assert endpoints is not None
    assert [endpoint.tag for endpoint in endpoints] == ["deepinfra/turbo"]
    assert facts is not None
    assert facts.id == "a/b"


@pytest.mark.parametrize("model", ["", "a/", "../key", "a/../../key", "a//b", "."])
async def test_what_is_no_id_is_not_asked_for(model: str) -> None:
    async with upstream(answering(500, {})) as client:
        assert await client.endpoints(model) is None
        assert await client.model(model) is None


async def test_an_unknown_model_has_no_endpoints() -> None:
    async with upstream(answering(404, {"error": {"code": 404, "message": "Not found"}})) as client:
        assert await client.endpoints("a/b") is None
        assert await client.model("a/b") is None


@pytest.mark.parametrize(("status", "error"), [(401, UpstreamRefusedError), (502, UpstreamUnavailableError)])
async def test_trouble_is_raised(status: int, error: type[Exception]) -> None:
    async with upstream(answering(status, {"error": {"code": status, "message": "no"}})) as client:
        with pytest.raises(error):
            await client.endpoints("a/b")
        with pytest.raises(error):
            await client.models(usable=True)


@pytest.mark.parametrize(
    ("usable", "status", "paths"),
    [
        (False, 200, ["/v1/models"]),
        (True, 200, ["/v1/models/user"]),
        (True, 404, ["/v1/models/user", "/v1/models"]),
    ],
)
async def test_the_models_that_the_account_may_use(usable: bool, status: int, paths: list[str]) -> None:
    asked = []

    def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        there: dict[str, Any] = {"data": [MODEL]}
        return web.json_response(there, status=status if request.path.endswith("/user") else 200)

    async with upstream(handler) as client:
        assert list(await client.models(usable=usable)) == ["a/b"]
    assert asked == paths
