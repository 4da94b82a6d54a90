"""Batches over HTTP for tests: upload lines, create, wait, and play the worker where the fleet adds nothing."""

from collections.abc import Iterable, Mapping
from typing import Any

import httpx
import msgspec
from redis.asyncio import Redis

from batchmill.openrouter.outcomes import Usage
from batchmill.store import batches, lanes
from batchmill.store.lanes import Ending
from batchmill.store.model import LineState, Result
from batchmill.store.records import Recording, record

from .waiting import wait_until

MODEL = "maker/model"
ENDED = ("completed", "failed", "expired", "cancelled")
_RETENTION = 3 * 86_400

Headers = dict[str, str] | httpx.Headers


def line(number: int, **changes: Any) -> dict[str, Any]:
    """Return a good line; a change of None takes the field away."""
    whole = {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": MODEL, "messages": [{"role": "user", "content": f"Secret words {number}"}]},
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


def jsonl(lines: Iterable[Mapping[str, Any] | bytes]) -> bytes:
    """Return lines as a file."""
    return b"".join((one if isinstance(one, bytes) else msgspec.json.encode(one)) + b"\n" for one in lines)


async def upload(client: httpx.AsyncClient, content: bytes, name: str = "lines.jsonl") -> str:
    """Upload a file; return its id."""
    reply = await client.post("/v1/files", data={"purpose": "batch"}, files={"file": (name, content)})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["id"])


async def create(client: httpx.AsyncClient, file_id: str, **fields: Any) -> dict[str, Any]:
    """Create a batch; return the Batch object."""
    reply = await ask(client, input_file_id=file_id, **fields)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def ask(client: httpx.AsyncClient, headers: Headers | None = None, **fields: Any) -> httpx.Response:
    """Ask for a batch to be created; a field of ... is left out."""
    body = {"endpoint": "/v1/chat/completions", "completion_window": "24h"} | fields
    body = {name: value for name, value in body.items() if value is not ...}
    return await client.post("/v1/batches", json=body, headers=headers)


async def get(client: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    """Return the Batch object as it is now."""
    reply = await client.get(f"/v1/batches/{batch_id}")
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def when(client: httpx.AsyncClient, batch_id: str, *statuses: str) -> dict[str, Any]:
    """Wait until a batch has one of the statuses (by default: until it is over); return it."""
    wanted = statuses or ENDED
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.clear()
        found.update(await get(client, batch_id))
        return found["status"] in wanted

    await wait_until(there, f"{batch_id} {wanted}")
    return found


async def submit(
    client: httpx.AsyncClient, lines: Iterable[Mapping[str, Any] | bytes], **fields: Any
) -> dict[str, Any]:
    """Upload lines, create a batch of them, and wait until it was looked at."""
    batch = await create(client, await upload(client, jsonl(lines)), **fields)
    return await when(client, batch["id"], "in_progress", *ENDED)


async def finish(redis: Redis, batch_id: str, *, fail: tuple[int, ...] = ()) -> None:
    """Give every line that is queued its result, as a worker would; those in `fail` an error of the upstream."""
    upstream = (await batches.status(redis, batch_id)).upstream
    for shard in await batches.open_shards(redis, batch_id):
        claim = await lanes.take(redis, upstream, shard.model, shard.reference, "test", lease=10)
        assert claim is not None
        work = await batches.load(redis, shard.reference, shard.first, shard.last)
        assert work is not None
        results = tuple(_result(one.index, one.custom_id, one.body, failed=one.index in fail) for one in work.lines)
        await record(redis, [Recording(batch_id, results)], "test", _RETENTION)
        await lanes.finish(redis, claim, Ending.DONE)


def _result(index: int, custom_id: str, body: bytes, *, failed: bool) -> Result:
    if failed:
        error = b'{"error":{"message":"Too long.","type":"invalid_request_error","code":"context_length_exceeded"}}'
        return Result(index, custom_id, MODEL, LineState.FAILED, 400, error, request=body)
    answer = b'{"id":"gen-1","choices":[{"message":{"role":"assistant","content":"Yes."}}]}'
    usage = Usage(10, 4, 2, 1)
    return Result(index, custom_id, MODEL, LineState.SUCCEEDED, 200, answer, usage=usage, cost=1_500_000)
