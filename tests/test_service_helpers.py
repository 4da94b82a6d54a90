"""The room that listens, at its smallest: it answers, and says what is not there."""

import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings

from .service_helpers import in_process, serving


async def test_a_gateway_answers_over_a_socket(redis: Redis, settings: Settings) -> None:
    async with serving(redis, settings) as client:
        answer = await client.get("/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"


async def test_a_gateway_answers_without_a_socket(redis: Redis, settings: Settings) -> None:
    async with in_process(redis, settings) as client:
        answer = await client.post("/v1/nothing")
    assert answer.status_code == 404
    assert "POST /v1/nothing" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/models", "a client's base URL ends in /v1"),  # a page of the dashboard has this name, too
        ("/files", "a client's base URL ends in /v1"),
        ("/v1/v1/files", "/v1 is there twice"),
        ("/v1/embeddings", "GET /openapi.json lists"),
    ],
)
async def test_who_has_the_wrong_base_url_is_told_so(redis: Redis, settings: Settings, path: str, said: str) -> None:
    async with in_process(redis, settings) as client:
        answer = await client.get(path, headers={"accept": "application/json"})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith(f"Invalid URL (GET {path}); ")
    assert said in answer.json()["error"]["message"]
