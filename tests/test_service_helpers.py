"""The room that listens, at its smallest: it answers, and says what is not there."""

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
