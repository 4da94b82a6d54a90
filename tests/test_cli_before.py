"""What came over HTTP and is no batch yet, or never came to be one: shown, cancelled and removed by the commands."""

import asyncio
import json

from batchmill.config.settings import load
from batchmill.store.connection import connect

from .batch_api_helpers import create, when
from .cli_helpers import Desk, desk, shared_simulator
from .service_helpers import in_process

__all__ = ["desk", "shared_simulator"]


def handed_over(desk: Desk, *, looked_at: bool) -> str:
    """Create a batch of a file that is not there; return its id."""

    async def make() -> str:
        redis = connect(desk.redis_url)
        async with in_process(redis, load(environ=desk.environ), tasks=looked_at) as client:
            batch = await create(client, "file-missing")
            if looked_at:
                await when(client, batch["id"], "failed")
        await redis.aclose()
        return str(batch["id"])

    return asyncio.run(make())


def test_a_batch_that_was_refused_is_shown_and_removed(desk: Desk) -> None:
    batch = handed_over(desk, looked_at=True)
    shown = desk.run("status", batch)
    assert shown.code == 0
    assert "failed" in shown.out
    assert "error" in shown.out
    told = json.loads(desk.run("status", batch, "--json").out)
    assert (told["status"], told["input_file_id"], bool(told["errors"]["data"])) == ("failed", "file-missing", True)
    assert desk.run("status", batch, "--watch").code == 0
    assert "was already failed" in desk.run("cancel", batch).err
    assert json.loads(desk.run("purge", "--batch", batch, "--yes", "--json").out)["batches"] == 1
    assert desk.run("status", batch).code != 0
    assert desk.run("purge", "--batch", batch, "--yes").code != 0


def test_a_batch_that_nobody_has_looked_at_is_cancelled_before_it_is_removed(desk: Desk) -> None:
    batch = handed_over(desk, looked_at=False)
    assert "validating" in desk.run("status", batch).out
    refused = desk.run("purge", "--project", "default", "--yes")
    assert refused.code != 0
    assert f"batchmill cancel {batch}" in refused.err
    assert "is cancelled; nothing of it was sent" in desk.run("cancel", batch).err
    assert json.loads(desk.run("purge", "--project", "default", "--yes", "--json").out)["batches"] == 1
    assert desk.run("cancel", batch).code != 0
