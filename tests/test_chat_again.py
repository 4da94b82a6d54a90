"""A chat completion asked for again: by a client's silent retry, or by its Idempotency-Key; it is paid for once."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.store.model import BatchState

from .service_helpers import serving
from .test_chat import URL, Desk, asking, desk
from .waiting import wait_until

RETRY = {"x-stainless-retry-count": "1"}


async def in_the_air(at: Desk) -> str:
    """Wait until the only batch is sent; return its id."""
    batch = await at.only_batch()

    async def sent() -> bool:
        return (await batch.status()).running == 1

    await wait_until(sent, "the call")
    return batch.id


async def test_a_retry_waits_for_the_first_one_and_gets_its_answer_afterwards(tmp_path: Path) -> None:
    async with desk(tmp_path, latency="1500") as at:
        first = asyncio.create_task(at.ask())
        batch_id = await in_the_air(at)
        cost = (await at.client.get(f"/v1/batches/{batch_id}")).json()["x_cost"]
        assert (cost["held_usd"] > 0, cost["spent_usd"]) == (True, 0)  # once, and without a cap of its own
        again = await at.ask(headers=RETRY)
        late = await at.ask(headers=RETRY)
        answers = [await first, again, late]
        cost = (await at.client.get(f"/v1/batches/{batch_id}")).json()["x_cost"]
        assert (cost["held_usd"], cost["spent_usd"] > 0) == (None, True)
        assert {answer.headers["x-batch-id"] for answer in answers} == {batch_id}
        assert len({answer.content for answer in answers}) == 1
        other = await at.ask("Another question", headers=RETRY)
        anew = await at.ask()  # no retry: somebody wants a second opinion
        assert len({batch_id, other.headers["x-batch-id"], anew.headers["x-batch-id"]}) == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_whose_connection_broke_goes_on_with_the_call_that_is_in_the_air(
    tmp_path: Path, stream: bool
) -> None:
    async with desk(tmp_path, latency="5000") as at:
        first = asyncio.create_task(at.ask(stream=stream))
        batch_id = await in_the_air(at)
        first.cancel()
        again = await at.ask(stream=stream, headers=RETRY)
        assert (again.status_code, again.headers["x-batch-id"]) == (200, batch_id)
        status = await (await at.scene.producer.batch(batch_id)).status()
        assert (status.state, status.succeeded) == (BatchState.COMPLETED, 1)


async def test_who_leaves_first_cancels_nothing_for_the_other(tmp_path: Path) -> None:
    key = {"idempotency-key": "k"}
    async with desk(tmp_path, latency="6000") as at:
        first = asyncio.create_task(at.ask(headers=key))
        second = asyncio.create_task(at.ask(headers=key))
        await in_the_air(at)
        second.cancel()
        answer = await first
        assert answer.status_code == 200


async def test_an_idempotency_key_stands_for_one_request(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        key: Mapping[str, str] = {"idempotency-key": "mine"}
        both = await asyncio.gather(at.ask(headers=dict(key)), at.ask(headers=dict(key)))
        assert len({answer.headers["x-batch-id"] for answer in both}) == 1
        assert len({answer.content for answer in both}) == 1
        refused = await at.ask("Something else", headers=dict(key))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "idempotency_key_reuse")
        other = await at.ask(headers={"idempotency-key": "yours"})
        assert other.headers["x-batch-id"] != both[0].headers["x-batch-id"]


async def test_two_that_read_one_stream_read_the_same(tmp_path: Path) -> None:
    key = {"idempotency-key": "s"}
    async with desk(tmp_path, latency="500") as at:
        both = await asyncio.gather(at.ask(stream=True, headers=key), at.ask(stream=True, headers=key))
        late = await at.ask(stream=True, headers=key)
        assert len({answer.headers["x-batch-id"] for answer in (*both, late)}) == 1
        assert all(answer.text.endswith("data: [DONE]\n\n") for answer in (*both, late))


async def test_what_came_to_nothing_is_tried_anew(real_redis: Redis, settings: Settings) -> None:
    async with serving(real_redis, msgspec.structs.replace(settings, simulate=True)) as client:
        tries = [
            await client.post(URL, json=asking(), headers={"x-wait": "0", **headers})
            for headers in ({}, RETRY, RETRY, {"idempotency-key": "k"}, {"idempotency-key": "k"})
        ]
    assert {answer.status_code for answer in tries} == {503}  # there is no worker
    assert len({answer.headers["x-batch-id"] for answer in tries}) == len(tries)


async def test_what_was_refused_is_refused_again_at_once(real_redis: Redis, settings: Settings) -> None:
    headers = {"idempotency-key": "k"}
    async with serving(real_redis, msgspec.structs.replace(settings, simulate=True)) as client:
        for _ in range(2):
            refused = await client.post(URL, json=asking(model="no/such-model"), headers=headers)
            assert refused.status_code == 404
            assert refused.elapsed.total_seconds() < 2
        meant = await client.post(URL, json=asking(), headers={"x-wait": "0", **headers})
        assert meant.status_code == 503  # no worker, and no reuse of a key that stood for nothing
