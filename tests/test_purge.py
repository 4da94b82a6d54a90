"""What is removed of a project or a batch, and what stays."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from batchmill.config.settings import load
from batchmill.spend.ledger import UsageRecord
from batchmill.store import batch_index, batches, intakes, keys, ledger, purge, usage_log
from batchmill.store.connection import connect
from batchmill.store.errors import StoreError
from batchmill.store.handed import Handed
from batchmill.store.intakes import Asked, Fault, Holder
from batchmill.store.model import BatchState
from batchmill.store.staging import new_batch_id
from batchmill.store.usage_log import Whose

from .cli_helpers import Desk, desk, shared_simulator
from .service_helpers import in_process
from .store_helpers import DAYS, UPSTREAM, claim, complete, named_batch, put, result
from .usage_helpers import put_chunk, used

__all__ = ["desk", "shared_simulator"]


async def left(redis: Redis) -> list[UsageRecord]:
    return [record async for record in ledger.records(redis, UPSTREAM)]


async def test_records_of_others_stay_with_their_place_in_the_stream(redis: Redis) -> None:
    names = [await put_chunk(redis, UPSTREAM, used(n), used(n, project="q")) for n in range(250)]
    alone = await put_chunk(redis, UPSTREAM, used(250, project="q"))
    assert await usage_log.forget(redis, UPSTREAM, Whose(project="p")) == 250
    assert [chunk.id async for chunk in usage_log.chunks(redis, UPSTREAM)] == [*names, alone]
    assert [(record.index, record.project) for record in await left(redis)] == [(n, "q") for n in range(251)]
    assert await redis.execute_command("TTL", keys.usage(UPSTREAM)) == -1
    assert await redis.execute_command("HGET", keys.books(UPSTREAM), "records") == b"251"  # what trims go by


async def test_a_cursor_at_the_end_stays_good_when_all_goes(redis: Redis) -> None:
    for index in range(3):
        last = await put_chunk(redis, UPSTREAM, used(index))
    assert await usage_log.forget(redis, UPSTREAM, Whose(batch="batch_1")) == 3
    assert await left(redis) == []
    assert [chunk.id async for chunk in usage_log.chunks(redis, UPSTREAM)] == [last]
    assert await usage_log.forget(redis, UPSTREAM, Whose(batch="batch_1")) == 0
    await put_chunk(redis, UPSTREAM, used(9))
    assert [chunk.records[0].index async for chunk in usage_log.chunks(redis, UPSTREAM, last)] == [9]


async def test_what_comes_meanwhile_is_not_lost(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    await put_chunk(redis, UPSTREAM, used(0))
    copied, coming = usage_log._copy, [used(1, project="q"), used(2)]

    async def slowly(*arguments: object) -> tuple[int, int]:
        done = await copied(*arguments)  # type: ignore[arg-type]
        if coming:
            await put_chunk(redis, UPSTREAM, coming.pop(0))
        return done

    monkeypatch.setattr(usage_log, "_copy", slowly)
    assert await usage_log.forget(redis, UPSTREAM, Whose(project="p")) == 2
    assert [record.index for record in await left(redis)] == [1]


async def test_one_rewrites_at_a_time_and_a_late_one_changes_nothing(redis: Redis) -> None:
    await put_chunk(redis, UPSTREAM, used(0))
    await redis.set(keys.usage_turn(UPSTREAM), "other", px=60_000)
    with pytest.raises(StoreError, match="try again"):
        await usage_log.forget(redis, UPSTREAM, Whose(project="p"))
    names = [keys.usage(UPSTREAM), keys.usage_copy(UPSTREAM, "late")]
    names += [keys.usage_turn(UPSTREAM), keys.books(UPSTREAM)]
    (chunk,) = [chunk async for chunk in usage_log.chunks(redis, UPSTREAM)]
    assert await usage_log._swap_usage(redis, names, [chunk.id, "late", 0]) == 0
    assert len(await left(redis)) == 1


def test_nobody_is_not_everybody() -> None:
    with pytest.raises(ValueError, match="project or a batch"):
        Whose()


async def test_an_ended_batch_goes_whole_and_its_budget_stays(redis: Redis) -> None:
    batch_id = await named_batch(redis, 2, name="one", project="p")
    other = await named_batch(redis, 1, name="two", project="q")
    await complete(redis, [held for held in await claim(redis) if held.batch_id == batch_id])
    budget = keys.batch_budget(UPSTREAM, batch_id)
    await redis.execute_command("HSET", budget, "spent", 5)
    await redis.expire(budget, 60)
    await redis.execute_command("HSET", keys.live_lines(batch_id), "line-1", 1)
    await redis.execute_command("XADD", keys.live_tokens(batch_id, 1), "*", "s", "text")
    (found,) = await purge.find(redis, Whose(project="p"))
    assert (found.id, found.upstream, found.ended) == (batch_id, UPSTREAM, True)
    assert await purge.remove(redis, batch_id)
    assert [key for key in await redis.keys("*") if batch_id.encode() in key] == [budget.encode()]
    assert await redis.execute_command("HGET", budget, "spent") == b"5"
    assert [batch.id for batch in await batch_index.newest(redis, 9)] == [other]
    assert await batches.by_content(redis, "one") is None
    assert await purge.find(redis, Whose(project="p")) == []
    assert not await purge.remove(redis, batch_id)


async def test_a_batch_that_is_not_over_stays_whole(redis: Redis) -> None:
    batch_id = await named_batch(redis, 2, name="one", project="p")
    await put(redis, batch_id, result(0))
    before = sorted(await redis.keys("*"))
    assert not await purge.remove(redis, batch_id)
    assert sorted(await redis.keys("*")) == before
    assert await batches.mark_stopping(redis, batch_id, BatchState.CANCELLING) is BatchState.CANCELLING
    assert not await purge.remove(redis, batch_id)
    assert [batch.ended for batch in await purge.find(redis, Whose(batch=batch_id))] == [False]


async def test_batches_over_http_that_never_ran_go_too(redis: Redis) -> None:
    waiting, failed, other = [
        await intake_of(redis, project, metadata={"who": "a person"}) for project in ("p", "p", "q")
    ]
    assert await intakes.hold(redis, UPSTREAM, failed, "run")
    found = await intakes.find(redis, failed)
    assert found is not None
    await Holder(redis, UPSTREAM, found, "run", retention_days=DAYS).fail((Fault("empty_file", "It is empty."),))
    assert await purge.remove_intakes(redis, UPSTREAM, Whose(project="p"), DAYS) == 2
    assert (await batch_index.page(redis, None, None, 9)).ids == (other,)
    left = [key.decode() for key in await redis.keys("*")]
    assert not [key for key in left if waiting in key or failed in key]
    assert await intakes.take(redis, UPSTREAM, "run") == other
    assert await purge.remove_intakes(redis, UPSTREAM, Whose(batch=other), DAYS) == 1
    assert await purge.remove_intakes(redis, UPSTREAM, Whose(batch=other), DAYS) == 0


async def intake_of(redis: Redis, project: str, **fields: Any) -> str:
    batch_id = new_batch_id()
    handed = Handed(input_file_id="file-1", created_at=1_800_000_000, **fields)
    asked = Asked(handed=handed, expires_at=1_900_000_000, project=project)
    await intakes.create(redis, UPSTREAM, batch_id, asked, retention_days=DAYS)
    return batch_id


async def test_content_that_is_another_batch_s_by_now_is_found_on(redis: Redis) -> None:
    batch_id = await named_batch(redis, 1, name="one", project="p")
    await complete(redis, await claim(redis))
    await redis.set(keys.content("one"), "batch_other", ex=60)
    assert await purge.remove(redis, batch_id)
    assert await redis.get(keys.content("one")) == b"batch_other"


def submitted(desk: Desk, *options: str) -> str:
    desk.write("prompts.jsonl", 3)
    done = desk.run("submit", "prompts.jsonl", *options)
    assert done.code == 0, done.err
    return done.out.strip()


def test_the_command_refuses_what_runs_and_asks_nobody_without_a_terminal(desk: Desk) -> None:
    batch_id = submitted(desk, "--project", "evals")
    for options in (("--project", "evals", "--yes"), ("--batch", batch_id, "--yes")):
        refused = desk.run("purge", *options)
        assert refused.code == 2
        assert f"batchmill cancel {batch_id}" in refused.err
    assert "say whose" in desk.run("purge").err
    assert "say whose" in desk.run("purge", "--project", "a", "--batch", "b").err
    assert "--yes" in desk.run("purge", "--project", "nobody").err
    assert "no batch 'batch_none'" in desk.run("purge", "--batch", "batch_none", "--yes").err


def test_the_command_removes_a_batch_and_says_so(desk: Desk) -> None:
    config = '[archive]\nkind = "database"\n'
    (desk.folder / "batchmill.toml").write_text(config)
    desk.environ["BATCHMILL_CONFIG"] = "batchmill.toml"
    desk.write("prompts.jsonl", 3)
    done = desk.run("run", "prompts.jsonl", "--cache", "--json")
    assert done.code == 0, done.err
    batch_id = json.loads(done.out)["batch_id"]
    assert desk.run("archive", "write").code == 0
    told = json.loads(desk.run("archive", "status", "--json").out)
    assert (told["records"], told["waiting_since"]) == (3, None)
    assert Path(told["path"]).is_file()
    removed = json.loads(desk.run("purge", "--batch", batch_id, "--yes", "--json").out)
    assert removed["batches"] == 1
    assert removed["records"] == removed["archived"] == removed["answers"] == told["records"]
    assert f"no batch '{batch_id}'" in desk.run("results", batch_id).err
    (entry,) = [one for one in json.loads(desk.run("audit", "--json").out) if one["what"] == "purge"]
    assert entry["detail"]["batch"] == batch_id


def test_without_an_archive_the_command_says_how_to_have_one(desk: Desk) -> None:
    for command in ("status", "write"):
        refused = desk.run("archive", command)
        assert refused.code == 2
        assert 'kind = "database"' in refused.err


def test_the_command_takes_files_along_with_their_bytes(desk: Desk) -> None:
    async def upload() -> None:
        redis = connect(desk.redis_url)
        async with in_process(redis, load(environ=desk.environ), tasks=False) as client:
            for name in ("a.jsonl", "b.jsonl"):
                form = {"file": (name, b'{"custom_id":"a"}\n')}
                answer = await client.post("/v1/files", files=form, data={"purpose": "batch"})
                assert answer.status_code == 200
        await redis.aclose()

    asyncio.run(upload())
    folder = desk.folder / "data" / "files" / "files"
    assert len(list(folder.iterdir())) == 2
    other = desk.run("purge", "--project", "other", "--yes", "--json")
    assert json.loads(other.out)["files"] == 0
    done = desk.run("purge", "--project", "default", "--yes")
    assert done.code == 0
    assert "2 files" in done.err
    assert list(folder.iterdir()) == []
