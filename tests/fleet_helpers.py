"""A fleet of real processes against a simulator, for tests that kill."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from batchmill.config.settings import LogSettings, Settings, WorkerSettings, load
from batchmill.openrouter.simulator import Simulator, SimulatorOptions
from batchmill.producer import Batch, Producer
from batchmill.store.connection import Store, open_store
from batchmill.store.model import Result
from batchmill.workers.fleet import Fleet

OPTIONS_OF_WORKERS = {"processes": 2, "concurrency": 10}
"""A small fleet."""

MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4.5")


class Call(msgspec.Struct, frozen=True):
    """One call as the simulator saw it: `t` is when it ended (unix seconds), `body` a digest."""

    t: float
    body: str
    status: str


class Scene(msgspec.Struct, frozen=True):
    """Everything a fleet test holds in its hands."""

    simulator: Simulator
    settings: Settings
    store: Store
    fleet: Fleet
    producer: Producer

    async def calls(self) -> dict[str, list[Call]]:
        """Return the simulator's calls by body, in order."""
        async with httpx.AsyncClient() as client:
            reply = await client.get(self.simulator.base_url.removesuffix("/api/v1") + "/_sim/calls")
        by_body: dict[str, list[Call]] = {}
        for call in msgspec.json.decode(reply.content, type=list[Call]):
            by_body.setdefault(call.body, []).append(call)
        return by_body


@asynccontextmanager
async def scene(
    data_dir: Path, options: SimulatorOptions, *, processes: int = 2, concurrency: int = 50, **worker: Any
) -> AsyncIterator[Scene]:
    """Start a simulator, an embedded server and a fleet; stop them all at the end."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(options))
        environ = {
            "BATCHMILL_BASE_URL": simulator.base_url,
            "BATCHMILL_DATA_DIR": str(data_dir),
            "OPENROUTER_API_KEY": "sk-or-v1-test",
        }
        settings = msgspec.structs.replace(
            load(environ=environ),
            worker=WorkerSettings(processes=processes, concurrency=concurrency, **worker),
            log=LogSettings(level="warning"),
        )
        store = await stack.enter_async_context(open_store(settings))
        fleet = await stack.enter_async_context(Fleet(settings, store.url, server=store.server))
        yield Scene(simulator, settings, store, fleet, Producer(store.redis, settings))


def lines(count: int, *, models: tuple[str, ...] = MODELS, max_tokens: int = 20) -> Iterator[dict[str, Any]]:
    """Yield lines that are all different."""
    for number in range(count):
        yield {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": models[number % len(models)],
                "max_tokens": max_tokens,
                "messages": [{"role": "user", "content": f"What is special about the number {number}?"}],
            },
        }


async def gather(batch: Batch) -> dict[str, Result]:
    """Follow a batch to its end; fail when a line has two results."""
    results: dict[str, Result] = {}
    async for result in batch.results(follow=True):
        assert result.custom_id not in results, f"two results for {result.custom_id}"
        results[result.custom_id] = result
    return results


async def when_done(batch: Batch, count: int) -> list[Result]:
    """Follow a batch until so many lines have a result; return these."""
    results: list[Result] = []
    async for result in batch.results(follow=True):
        results.append(result)
        if len(results) >= count:
            break
    return results
