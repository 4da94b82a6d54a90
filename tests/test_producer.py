"""What a program gets from `batchmill.producer`: lines in, batches, results out, without any worker."""

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.openrouter.outcomes import Usage
from batchmill.producer import Batch, InputError, Producer, buffers, intake
from batchmill.store import batch_index, batches, keys, lanes
from batchmill.store.connection import connect
from batchmill.store.errors import StoreError, UnknownBatchError
from batchmill.store.model import Attempt, BatchState, Line, LineState, Result
from batchmill.store.records import Recording, record
from batchmill.store.staging import Shard, shard_size

from .fleet_helpers import lines


async def left(redis: Redis) -> list[bytes]:
    """Return the keys that are there, but for what is noted of the upstream's catalogue, which can't be asked here."""
    return [name for name in await redis.execute_command("KEYS", "*") if b":catalogue" not in name]


@pytest.fixture
def producer(redis: Redis, settings: Settings) -> Producer:
    """A producer on an empty Redis."""
    return Producer(redis, settings)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of six good lines of two models."""
    return write(tmp_path / "prompts.jsonl", lines(6))


def write(path: Path, content: Any) -> Path:
    """Write lines as JSON."""
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in content))
    return path


async def shards_of(redis: Redis, batch: Batch) -> list[tuple[Shard, tuple[Line, ...]]]:
    """Return a batch's unfinished shards with their lines."""
    found = []
    for shard in sorted(await batches.open_shards(redis, batch.id), key=lambda shard: shard.reference):
        work = await batches.load(redis, shard.reference, shard.first, shard.last)
        assert work is not None
        found.append((shard, work.lines))
    return found


async def succeed(redis: Redis, batch: Batch, *indexes: int, fail: tuple[int, ...] = ()) -> None:
    """Record results as a worker would."""
    all_lines = {line.index: (shard, line) for shard, found in await shards_of(redis, batch) for line in found}
    results = []
    for index in (*indexes, *fail):
        shard, line = all_lines[index]
        good = index not in fail
        results.append(
            Result(
                index=index,
                custom_id=line.custom_id,
                model=shard.model,
                state=LineState.SUCCEEDED if good else LineState.FAILED,
                status_code=200 if good else 400,
                response=b'{"choices":[{"message":{"content":"yes"}}]}' if good else b'{"error":{"code":400}}',
                usage=Usage(1, 2),
                cost=10,
                request=None if good else line.body,
                attempts=(Attempt("ok", 200, 5),),
            )
        )
    await record(redis, [Recording(batch.id, tuple(results))], "worker-1", 3600)


async def test_lines_become_shards_of_one_model_each_and_travel_untouched(
    producer: Producer, redis: Redis, file: Path
) -> None:
    batch = await producer.submit(file)
    status = await batch.status()
    assert (status.state, status.total, status.pending) == (BatchState.IN_PROGRESS, 6, 6)
    assert status.models == {"openai/gpt-4o-mini": 3, "anthropic/claude-haiku-4.5": 3}
    assert status.source == str(file)
    found = await shards_of(redis, batch)
    sent = {line.custom_id: msgspec.json.decode(line.body) for _, of_shard in found for line in of_shard}
    assert sent == {line["custom_id"]: line["body"] for line in lines(6)}
    assert all(msgspec.json.decode(line.body)["model"] == shard.model for shard, of in found for line in of)


async def test_a_job_carries_a_reference_and_never_a_prompt(producer: Producer, redis: Redis, file: Path) -> None:
    await producer.submit(file)
    for name in await redis.keys("arq:job:*"):
        job = await redis.get(name)
        assert b"special" not in job
        assert msgspec.msgpack.decode(job)["f"] == "run_shard"


@pytest.mark.parametrize(("count", "size"), [(1, 1), (64, 1), (65, 2), (640, 10), (4096, 64), (1_000_000, 64)])
def test_small_batches_spread_and_large_ones_stay_cheap(count: int, size: int) -> None:
    assert shard_size(count) == size


async def test_a_shard_holds_a_megabyte_at_most(producer: Producer, redis: Redis) -> None:
    long = "x" * 300_000
    batch = await producer.submit(
        {"model": "a/b", "messages": [{"role": "user", "content": f"{number}{long}"}]} for number in range(200)
    )
    sizes = [sum(len(line.body) for line in of) for _, of in await shards_of(redis, batch)]
    assert max(sizes) < 1.4e6
    assert sum(len(of) for _, of in await shards_of(redis, batch)) == 200


async def test_many_models_with_large_lines_do_not_gather_in_memory(
    producer: Producer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffers, "_TOTAL_BYTES", 2000)
    names = [f"a/model-{number}" for number in range(50)]
    batch = await producer.submit(
        {"model": name, "messages": [{"role": "user", "content": "x" * 100}]} for _ in range(3) for name in names
    )
    indexes = sorted(line.index for _, of in await shards_of(redis, batch) for line in of)
    assert indexes == list(range(150))


async def test_the_same_content_is_found_again_and_not_enqueued_twice(
    producer: Producer, redis: Redis, file: Path
) -> None:
    first = await producer.submit(file)
    size = await redis.dbsize()
    second = await producer.submit(file)
    assert (second.id, second.reused, first.reused) == (first.id, True, False)
    assert await redis.dbsize() == size


@pytest.mark.parametrize("change", [{"model": "x/y"}, {"max_tokens": 7}, {"limit": 2}, {"anew": True}])
async def test_other_content_or_options_are_another_batch(
    producer: Producer, tmp_path: Path, change: dict[str, Any]
) -> None:
    bare = write(tmp_path / "bare.jsonl", ({"messages": m["body"]["messages"]} for m in lines(4)))
    first = await producer.submit(bare, model="a/b")
    second = await producer.submit(bare, **{"model": "a/b", **change})
    assert second.id != first.id


async def test_lines_for_the_simulator_are_never_those_for_the_real_upstream(
    redis: Redis, settings: Settings, file: Path
) -> None:
    real = await Producer(redis, settings).submit(file)
    rehearsal = await Producer(redis, msgspec.structs.replace(settings, simulate=True)).submit(file)
    assert rehearsal.id != real.id
    model = "openai/gpt-4o-mini"
    claimed = await lanes.claim(redis, "simulator", model, "run-1", lease=60, room=1000)
    assert {claim.batch_id for claim in claimed} == {rehearsal.id}
    for claim in claimed:
        await lanes.finish(redis, claim, lanes.Ending.GIVE_BACK)


async def test_a_bad_line_stops_everything_and_leaves_nothing(producer: Producer, redis: Redis, tmp_path: Path) -> None:
    path = write(
        tmp_path / "bad.jsonl", [*lines(3), {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions"}]
    )
    with pytest.raises(InputError, match=r"bad\.jsonl: 1 bad line, nothing was enqueued.*--skip-invalid") as caught:
        await producer.submit(path)
    assert "line 4, body" in str(caught.value)
    assert await left(redis) == []


async def test_the_list_of_bad_lines_is_capped_and_counted(producer: Producer, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("nonsense\n" * 50)
    with pytest.raises(InputError) as caught:
        await producer.submit(path)
    text = str(caught.value)
    assert "50 bad lines" in text
    assert text.count("\n") == 21
    assert text.endswith("... and 30 more")


async def test_skipped_lines_are_failed_lines_of_the_batch(producer: Producer, redis: Redis, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(b"nonsense\n" + msgspec.json.encode(next(lines(1))) + b"\n")
    batch = await producer.submit(path, skip_invalid=True)
    status = await batch.status()
    assert (status.total, status.failed, status.pending) == (2, 1, 1)
    (bad,) = [result async for result in batch.results()]
    assert (bad.custom_id, bad.error_code, bad.request) == ("line-1", "invalid_json_line", None)


async def test_a_file_without_any_good_line_is_refused_even_when_bad_ones_are_skipped(
    producer: Producer, tmp_path: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("nonsense\n")
    with pytest.raises(InputError):
        await producer.submit(path, skip_invalid=True)
    path.write_text("")
    with pytest.raises(InputError, match="empty"):
        await producer.submit(path, skip_invalid=True)


async def test_a_missing_file_is_said_in_one_line(producer: Producer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl can't be read: No such file"):
        await producer.submit(tmp_path / "none.jsonl")


async def test_a_file_that_changes_while_it_is_read_is_refused(
    producer: Producer, redis: Redis, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey = intake.survey

    async def meddled(*arguments: Any, **options: Any) -> intake.Survey:
        found = await survey(*arguments, **options)
        write(file, lines(9))
        return found

    monkeypatch.setattr(intake, "survey", meddled)
    with pytest.raises(InputError, match="changed while it was read"):
        await producer.submit(file)
    assert await left(redis) == []


async def test_lines_may_be_objects_bytes_or_text(producer: Producer) -> None:
    body = {"model": "a/b", "messages": [{"role": "user", "content": "hi"}]}
    batch = await producer.submit([body, msgspec.json.encode(body), msgspec.json.encode(body).decode()])
    assert (await batch.status()).total == 3


async def test_a_text_file_is_a_prompt_a_line(producer: Producer, redis: Redis, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\ntwo\n")
    batch = await producer.submit(path, model="a/b", max_tokens=5)
    bodies = [msgspec.json.decode(line.body) for _, of in await shards_of(redis, batch) for line in of]
    assert sorted(body["messages"][0]["content"] for body in bodies) == ["one", "two"]
    assert {(body["model"], body["max_tokens"]) for body in bodies} == {("a/b", 5)}


async def test_results_are_there_as_they_come_and_following_ends_with_the_batch(
    producer: Producer, redis: Redis, file: Path
) -> None:
    batch = await producer.submit(file)
    await succeed(redis, batch, 0, 3)
    assert [result.index async for result in batch.results()] == [0, 3]
    await succeed(redis, batch, 1, 2, 4, 5)
    found = [result async for result in batch.results(follow=True)]
    assert sorted(result.index for result in found) == list(range(6))
    assert found[0].content == "yes"
    assert str(found[0].cost_usd) == "1E-8"
    assert (await batch.status()).state is BatchState.COMPLETED


async def test_failed_lines_can_be_tried_again_as_a_batch_of_their_own(
    producer: Producer, redis: Redis, file: Path
) -> None:
    batch = await producer.submit(file)
    await succeed(redis, batch, 0, 1, 2, fail=(3, 4, 5))
    again = await batch.retry()
    status = await again.status()
    assert (status.total, status.retry_of) == (3, batch.id)
    sent = {line.custom_id for _, of in await shards_of(redis, again) for line in of}
    assert sent == {"line-3", "line-4", "line-5"}
    assert (await batch.retry()).id == again.id


async def test_there_must_be_something_to_try_again(producer: Producer, redis: Redis, file: Path) -> None:
    batch = await producer.submit(file)
    with pytest.raises(InputError, match="still in_progress"):
        await batch.retry()
    await succeed(redis, batch, *range(6))
    with pytest.raises(InputError, match="no failed line"):
        await batch.retry()


async def test_batches_are_listed_newest_first_and_found_by_id(producer: Producer) -> None:
    ids = [(await producer.submit(lines(1), anew=True)).id for _ in range(3)]
    assert {status.id for status in await producer.batches()} == set(ids)
    assert (await (await producer.batch(ids[0])).status()).id == ids[0]
    with pytest.raises(UnknownBatchError, match="no batch 'batch_x' here"):
        await producer.batch("batch_x")


async def test_a_submitter_that_is_stopped_leaves_only_what_expires(
    producer: Producer, redis: Redis, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stopped(*arguments: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("batchmill.store.staging.Staging.release", stopped)
    with pytest.raises(KeyboardInterrupt):
        await producer.submit(file)
    assert await left(redis) == []


async def test_connecting_uses_the_embedded_server_by_default(settings: Settings) -> None:
    async with Producer.connect(settings) as producer:
        batch = await producer.submit(lines(2))
        assert (await batch.status()).total == 2
    async with Producer.connect(settings) as producer:
        assert (await producer.batches())[0].id == batch.id


async def test_connecting_to_nothing_says_so(settings: Settings) -> None:
    nowhere = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0")
    with pytest.raises(StoreError, match="can't be reached"):
        async with Producer.connect(nowhere):
            pass


async def test_an_outage_is_told_as_what_it_is(settings: Settings, file: Path) -> None:
    away = Producer(connect("redis://127.0.0.1:1", retries=0), settings)
    for asked in (
        away.batches(),
        away.batch("batch_1"),
        away.submit(file),
        Batch(away._redis, "batch_1", settings).status(),
    ):
        with pytest.raises(StoreError, match="can't be reached any more"):
            await asked


SUBMIT = """
import asyncio, sys
from pathlib import Path
from batchmill.config.settings import load
from batchmill.producer import Producer

async def main():
    there = {"BATCHMILL_REDIS_URL": sys.argv[2], "BATCHMILL_BASE_URL": "http://127.0.0.1:1/v1"}
    settings = load(environ={"BATCHMILL_DATA_DIR": "unused", **there})
    async with Producer.connect(settings) as producer:
        await producer.submit(sys.argv[1])

asyncio.run(main())
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
@pytest.mark.parametrize(("count", "size"), [(50_000, 4000), (80, 2_600_000)])
async def test_two_hundred_megabytes_are_enqueued_in_less_memory_than_that(
    real_redis: Redis, server: Any, tmp_path: Path, count: int, size: int
) -> None:
    path = tmp_path / "large.jsonl"
    filler = "x" * size
    with path.open("wb") as target:
        for number in range(count):
            message = {"role": "user", "content": f"{number} {filler}"}
            target.write(msgspec.json.encode({"model": f"a/model-{number % 40}", "messages": [message]}) + b"\n")
    assert path.stat().st_size > 200_000_000
    command = [sys.executable, "-c", SUBMIT, str(path), server.url]
    done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, cwd=tmp_path)
    assert int(done.stdout) < 200 * 1024
    (status,) = await batch_index.newest(real_redis, 1)
    assert status.total == count
    assert Counter(status.models.values()) == {count // 40: 40}
    assert await real_redis.zcard(keys.lane(status.upstream, "a/model-0")) > 0
