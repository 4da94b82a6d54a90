"""What a file would cost, over HTTP."""

import asyncio
import json
from decimal import Decimal

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Budget, Policy
from batchmill.config.settings import Settings
from batchmill.config.windows import WindowKind
from batchmill.producer import Producer
from batchmill.producer.errors import PricesUnknownError

from .file_helpers import error_of, uploaded
from .service_helpers import in_process


def simulated(settings: Settings, *budgets: Budget) -> Settings:
    return msgspec.structs.replace(settings, simulate=True, policy=Policy(budgets=budgets))


def asking(model: str, count: int) -> bytes:
    lines = [
        {
            "custom_id": f"{model}-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]},
        }
        for number in range(count)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def test_an_estimate_tells_what_a_file_would_cost(real_redis: Redis, settings: Settings) -> None:
    content = asking("openai/gpt-4o-mini", 20) + asking("nobody/nothing", 2) + b"{\n"
    budget = Budget(name="daily", limit_usd=Decimal("0.0001"), window=WindowKind.DAY)
    async with in_process(real_redis, simulated(settings, budget), tasks=False) as client:
        made = await uploaded(client, content)
        path = f"/v1/files/{made['id']}/estimate"
        found = (await client.get(path)).json()
        assert (found["object"], found["file_id"]) == ("file.estimate", made["id"])
        assert (found["lines"], found["bad_lines"]) == (20, 3)
        (model,) = found["models"]
        assert (model["model"], model["lines"]) == ("openai/gpt-4o-mini", 20)
        assert 0 < found["likely_cost_usd"] <= found["max_cost_usd"]
        assert found["unpriced_models"] == {"nobody/nothing": 2}
        assert any("line 23" in each for each in found["errors"])
        (stops,) = found["budgets"]
        assert (stops["name"], stops["limit_usd"], stops["lines"]) == ("daily", 0.0001, 20)
        assert stops["lines_stopped"] == 20 - found["lines_that_fit"] > 0
        capped = (await client.get(path, params={"max_cost_usd": "0.0002"})).json()
        assert {each["name"] for each in capped["budgets"]} == {"daily", "max_cost"}
        for wrong in ({"max_cost_usd": "-1"}, {"max_cost_usd": "much"}, {"strategy": "luck"}):
            assert (await client.get(path, params=wrong)).status_code == 400
        assert (await client.get("/v1/files/file-none/estimate")).status_code == 404


async def test_an_estimate_waits_for_prices(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> None:
        raise PricesUnknownError("what models cost can't be read")

    monkeypatch.setattr(Producer, "estimate", unknown)
    async with in_process(redis, settings, tasks=False) as client:
        made = await uploaded(client)
        answer = await client.get(f"/v1/files/{made['id']}/estimate")
    assert error_of(answer)[0] == 503
    assert "what models cost can't be read" in error_of(answer)[3]
    assert answer.headers["retry-after"] == "1"


async def test_few_files_are_copied_at_once(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = 0, 0

    async def slow(*_: object, **__: object) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        raise PricesUnknownError("what models cost can't be read")

    monkeypatch.setattr(Producer, "estimate", slow)
    async with in_process(redis, settings, tasks=False) as client:
        made = await uploaded(client)
        await asyncio.gather(*(client.get(f"/v1/files/{made['id']}/estimate") for _ in range(20)))
    assert 1 <= most <= 4
