"""What the dashboard tells somebody who sees it for the first time, over the real API."""

import msgspec
from redis.asyncio import Redis

from batchmill.config.settings import Settings

from .service_helpers import serving
from .waiting import wait_until


async def test_a_batch_that_was_refused_says_each_reason_once_and_what_to_do(redis: Redis, settings: Settings) -> None:
    settings = msgspec.structs.replace(settings, simulate=True)
    line = {
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]},
    }
    lines = b"\n".join(msgspec.json.encode({"custom_id": str(n), **line}) for n in range(3))
    async with serving(redis, settings) as client:
        empty = (await client.get("/batches")).text
        assert f"{client.base_url}/v1" in empty.replace("&#x2F;", "/")
        assert "batchmill submit requests.jsonl --simulate" in empty
        sent = await client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", lines)})
        asked = {
            "input_file_id": sent.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        batch = (await client.post("/v1/batches", json=asked)).json()["id"]

        async def failed() -> bool:
            return bool((await client.get(f"/v1/batches/{batch}")).json()["status"] == "failed")

        await wait_until(failed)
        shown = (await client.get(f"/batches/{batch}")).text
    assert "Lines 1, 2, 3: " in shown
    assert shown.count("Did you mean openai/gpt-4o-mini") == 1
    assert "the input was refused" in shown
