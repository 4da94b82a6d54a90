"""What an operator lives through, in a real browser over a real fleet: a batch from submit to download, a breaker that
trips and recovers, a budget that is raised so that its batch goes on.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from playwright.async_api import Page, expect

from batchmill.config.policy import Breaker, Budget, Policy
from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.store import policy

from .browser_helpers import browser, chromium, looking
from .fleet_helpers import Scene, lines, scene
from .service_helpers import serving

pytestmark = pytest.mark.drill

MODEL = "openai/gpt-4o-mini"
LONG = 60_000  # milliseconds in which a whole batch ends, on a busy machine, too


@asynccontextmanager
async def watched(data: Path, options: SimulatorOptions, rules: Policy) -> AsyncIterator[tuple[Scene, Page, Any]]:
    """Yield a fleet, a page of its dashboard, and a client of its API."""
    chromium()
    async with scene(data, options, processes=1, concurrency=8) as at:
        await policy.apply(at.store.redis, at.settings.upstream_name, rules, "test")
        async with (
            serving(at.store.redis, at.settings) as client,
            browser() as started,
            looking(started, str(client.base_url)) as page,
        ):
            yield at, page, client


async def submit(client: httpx.AsyncClient, count: int, **fields: Any) -> str:
    """Hand over lines as OpenAI's clients do; return the batch's id."""
    data = b"\n".join(msgspec.json.encode(line) for line in lines(count, models=(MODEL,)))
    sent = await client.post("/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"})
    assert sent.status_code == 200, sent.text
    body = {
        "input_file_id": sent.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h", **fields
    }  # fmt: skip
    made = await client.post("/v1/batches", json=body)
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


async def set_faults(at: Scene, faults: Mapping[str, object]) -> None:
    async with httpx.AsyncClient() as client:
        reply = await client.post(at.simulator.base_url.removesuffix("/api/v1") + "/_sim/faults", json=faults)
    assert reply.status_code == 200


@pytest.mark.timeout(180)
async def test_a_batch_is_followed_from_submit_to_download(tmp_path: Path) -> None:
    options = SimulatorOptions(latency="150", mean_output_tokens=10)
    async with watched(tmp_path, options, Policy()) as (_, page, _client):
        await page.goto("/")
        await expect(page.get_by_text("No batches yet.")).to_be_visible()
        await page.get_by_role("link", name="Upload a file").click()
        data = b"\n".join(msgspec.json.encode(line) for line in lines(120, models=(MODEL,)))
        await page.get_by_label("File").set_input_files(
            {"name": "questions.jsonl", "mimeType": "application/jsonl", "buffer": data}
        )
        await page.get_by_label("Max cost in USD").fill("2.50")
        await page.get_by_role("button", name="Upload and run").click()
        await expect(page).to_have_url(re.compile(r"/batches/batch_\w+$"))
        batch_id = page.url.rpartition("/")[2]
        await expect(page.get_by_text("$2.50").first).to_be_visible()
        await page.goto("/batches")
        await page.locator(f"#row-{batch_id}").get_by_role("link").click()
        await expect(page.locator("#connection")).to_have_text("live")
        await expect(page.locator("h1 + .chip")).to_have_text("completed", timeout=LONG)
        await expect(page.get_by_text("120 succeeded")).to_be_visible()
        await page.get_by_label("Search custom_id").fill("line-77")
        await page.get_by_role("button", name="Filter").click()
        await page.get_by_role("link", name="line-77", exact=True).click()
        await expect(page.get_by_text("What is special about the number 77?").first).to_be_visible()
        await expect(page.locator(".attempts .chip")).to_have_text(["ok"])
        await page.get_by_role("link", name=batch_id).click()
        async with page.expect_download() as coming:
            await page.get_by_role("link", name="Download output").click()
        got = await asyncio.to_thread((await (await coming.value).path()).read_bytes)
    assert {msgspec.json.decode(line)["custom_id"] for line in got.splitlines()} == {f"line-{n}" for n in range(120)}


@pytest.mark.timeout(180)
async def test_a_breaker_trips_and_recovers_on_screen(tmp_path: Path) -> None:
    options = SimulatorOptions(latency="50", mean_output_tokens=10)
    rules = Policy(breaker=Breaker(min_calls=10, open_seconds=2.0, max_open_seconds=3.0, probes=2))
    async with watched(tmp_path, options, rules) as (at, page, client):
        await set_faults(at, {"models": {MODEL: {"rates": {"503": 1.0}}}})
        batch_id = await submit(client, 60)
        await page.goto("/models")
        breaker = page.locator(f'[id="model-{MODEL}"] [data-label="Breaker"] .chip')
        await expect(breaker).to_have_text("open", timeout=LONG)
        await page.goto("/")
        await expect(page.get_by_text("breaker").first).to_be_visible()
        await page.goto("/models")
        await set_faults(at, {})
        await expect(breaker).to_have_text("closed", timeout=LONG)
        await page.goto(f"/batches/{batch_id}")
        await expect(page.locator("h1 + .chip")).to_have_text("completed", timeout=LONG)


@pytest.mark.timeout(180)
async def test_a_budget_is_raised_and_the_batch_goes_on(tmp_path: Path) -> None:
    options = SimulatorOptions(latency="50", mean_output_tokens=20)
    rules = Policy(budgets=(Budget(name="cap", limit_usd=Decimal("0.0002")),))
    async with watched(tmp_path, options, rules) as (_, page, client):
        batch_id = await submit(client, 100)
        await page.goto(f"/batches/{batch_id}")
        await expect(page.locator(".banner")).to_contain_text("budget cap", timeout=LONG)
        await page.goto("/spend")
        own = page.locator("#budget-cap")
        await own.get_by_text("Change limit").click()
        await own.get_by_label("New limit in USD").fill("5")
        await own.get_by_role("button", name="Set limit").click()
        await expect(own).to_contain_text("$5.00 limit")
        await page.goto(f"/batches/{batch_id}")
        await expect(page.locator("h1 + .chip")).to_have_text("completed", timeout=LONG)
        await expect(page.locator(".banner")).to_have_count(0)
