"""A whole worker whose key's budget is spent: nothing is sent, people see why, and it goes on by itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from batchmill.config.settings import AccountSettings, load
from batchmill.producer import Producer
from batchmill.store.connection import Store
from batchmill.store.gauges import pauses

from .fleet_helpers import gather, lines
from .test_worker_process import at_work, store
from .waiting import wait_until

__all__ = ["store"]

ANSWER = {
    "id": "gen-1",
    "model": "openai/gpt-4o-mini",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "cost": 0.000001},
}


class Account:
    """An upstream with one budget."""

    def __init__(self) -> None:
        self.remaining = 0
        self.completions = 0

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/v1/key":
            budget = {"scope": "workspace", "remaining_usd": self.remaining, "resets_at": "2099-01-01T00:00:00Z"}
            return web.json_response({"data": {"budgets": [budget]}})
        if request.path != "/v1/chat/completions":
            return web.json_response({"error": {"code": 404, "message": "no"}}, status=404)
        await request.read()
        self.completions += 1
        return web.json_response(ANSWER)


@asynccontextmanager
async def upstream(account: Account) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", account.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def test_a_spent_budget_parks_work_until_there_is_room_again(store: Store) -> None:
    account = Account()
    async with upstream(account) as url:
        settings = msgspec.structs.replace(
            load(environ={"BATCHMILL_BASE_URL": url, "OPENROUTER_API_KEY": "sk-or-v1-test"}),
            account=AccountSettings(interval=0.1),
        )

        async def parked() -> bool:
            return [pause.scope for pause in await pauses(store.redis, settings.upstream_name)] == ["refused"]

        async with at_work(store, settings):
            await wait_until(parked, "the pause")
            batch = await Producer(store.redis, settings).submit(lines(5))

            async def explained() -> bool:
                return "spent: workspace budget" in ((await batch.status()).blocked_on or "")

            await wait_until(explained, "the reason")
            assert account.completions == 0
            account.remaining = 5
            results = await gather(batch)
    assert len(results) == account.completions == 5
    assert all(len(result.attempts) == 1 for result in results.values())
    assert {result.state.value for result in results.values()} == {"succeeded"}
