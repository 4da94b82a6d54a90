"""A gateway is killed while it takes in a batch of 50,000 lines; another one begins anew, under the same id."""

from pathlib import Path

import httpx
from redis.asyncio import Redis

from batchmill.store import intakes
from batchmill.store.clock import now_ms
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.intakes import IntakeState

from .batch_api_helpers import create, finish, get, jsonl, line, upload, when
from .store_helpers import all_results
from .test_gateways_die import Gateway
from .waiting import wait_until

COUNT = 50_000
LEASE = 15
UPSTREAM = "http://127.0.0.1:1/v1"


async def test_no_line_is_lost_and_none_is_there_twice(
    server: EmbeddedServer, real_redis: Redis, tmp_path: Path
) -> None:
    first = Gateway(server.url, tmp_path / "data", BATCHMILL_BASE_URL=UPSTREAM)
    try:
        async with httpx.AsyncClient(base_url=first.url, timeout=30) as client:
            batch_id = (await create(client, await upload(client, jsonl(map(line, range(COUNT))))))["id"]

            async def staging() -> bool:
                found = await intakes.find(real_redis, batch_id)
                return found is not None and found.state is IntakeState.RELEASING

            await wait_until(staging, "its lines are about to be let go")
    finally:
        first.kill()
    (queue,) = await real_redis.keys("bm:intakes:*")
    left = await real_redis.zscore(queue, batch_id) - await now_ms(real_redis)
    assert LEASE * 1000 / 2 < left <= LEASE * 1000, "it was renewed, and keeps nobody waiting for long"
    await real_redis.zadd(queue, {batch_id: await now_ms(real_redis)})  # as if the rest of it had passed
    second = Gateway(server.url, tmp_path / "data", BATCHMILL_BASE_URL=UPSTREAM)
    try:
        async with httpx.AsyncClient(base_url=second.url, timeout=30) as client:
            assert (await get(client, batch_id))["status"] == "validating"

            async def taken() -> bool:
                return bool((await get(client, batch_id))["status"] == "in_progress")

            await wait_until(taken, "the other gateway takes it in", patience=LEASE)
            await finish(real_redis, batch_id)
            done = await when(client, batch_id, "completed")
            assert done["request_counts"] == {"total": COUNT, "completed": COUNT, "failed": 0}
    finally:
        second.stop()
    custom_ids = [result.custom_id for result in await all_results(real_redis, batch_id)]
    assert len(custom_ids) == len(set(custom_ids)) == COUNT
