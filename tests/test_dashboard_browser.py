"""The dashboard in a real browser: accessible in both themes, on a desk and a phone, by keyboard, without a script."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, expect
from redis.asyncio import Redis
from starlette.responses import StreamingResponse

from batchmill.config.settings import Settings
from batchmill.service import app as application
from batchmill.service.compat.batch_objects import BatchList
from batchmill.service.control import line_shapes, money, shapes

from .browser_helpers import DESK, PHONE, Scheme, browser, chromium, looking, violations
from .dashboard_helpers import Asked, Told, answers, operations
from .dashboard_samples import MODELS, batch, overview
from .service_helpers import serving

ONE = batch(1).id
PAGES = (
    "/",
    "/batches",
    f"/batches/{ONE}",
    f"/batches/{ONE}/lines/question-1",
    "/models",
    "/spend",
    "/fleet",
    "/login",
)
EMPTY: Told = {
    ("GET", "/v1/overview"): overview(workers=0, lanes=(), blocked=(), alarm="The books are older than the calls."),
    ("GET", "/v1/batches"): BatchList((), False),
    ("GET", "/v1/batches/{batch_id}/lines"): line_shapes.Lines(data=(), has_more=False, next=None),
    ("GET", "/v1/budgets"): money.Budgets(data=()),
    ("GET", "/v1/model_states"): shapes.ModelStates(at=0, data=()),
}
"""What a new installation shows."""


@asynccontextmanager
async def dashboard(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, told: Told, **how: Any
) -> AsyncIterator[tuple[Page, Asked]]:
    """Yield a browser's page of a gateway whose API is made up."""
    chromium()
    asked = Asked()
    quiet = StreamingResponse(iter([b"event: overview\ndata: {}\n\n"]), media_type="text/event-stream")
    told.setdefault(("GET", "/v1/events"), quiet)
    monkeypatch.setattr(application, "OPERATIONS", operations(told, asked))
    monkeypatch.setattr(application, "TASKS", ())
    async with (
        serving(redis, settings) as client,
        browser() as started,
        looking(started, str(client.base_url), **how) as page,
    ):
        yield page, asked


@pytest.mark.parametrize("filled", [True, False], ids=["busy", "new"])
@pytest.mark.parametrize("width", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_is_accessible_and_fits(
    real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, scheme: Scheme, width: int, filled: bool
) -> None:
    told = answers() | ({} if filled else EMPTY)
    async with dashboard(real_redis, settings, monkeypatch, told, scheme=scheme, width=width, scripts=True) as (
        page,
        _,
    ):
        wrong = []
        for path in PAGES:
            await page.goto(path)
            await page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
            wrong += await violations(page)
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path} is {wide} wide"
    assert wrong == []


async def test_the_narrowest_phone_has_no_sideways_scrolling(
    real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dashboard(real_redis, settings, monkeypatch, answers(), width=360) as (page, _):
        for path in PAGES:
            await page.goto(path)
            assert await page.evaluate("document.documentElement.scrollWidth") <= 360, path


async def test_a_keyboard_is_enough(real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with dashboard(real_redis, settings, monkeypatch, answers()) as (page, _):
        await page.goto("/batches")
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("Skip to content")).to_be_focused()
        await page.keyboard.press("/")
        await expect(page.get_by_label("Open a batch by its id")).to_be_focused()
        await page.keyboard.type("jk")
        await expect(page.get_by_label("Open a batch by its id")).to_have_value("jk")
        await page.keyboard.press("Escape")
        for key in "jjk":
            await page.keyboard.press(key)
        await expect(page.locator("tr.at")).to_have_attribute("id", f"row-{ONE}")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile(f"/batches/{ONE}$"))


async def test_models_are_filtered_while_one_types(
    real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dashboard(real_redis, settings, monkeypatch, answers()) as (page, _):
        await page.goto("/models")
        await page.get_by_label("Filter models").fill("HAIKU")
        await expect(page.locator("tr[data-row]:visible")).to_have_count(1)
        await expect(page.locator("tr[data-row]:visible")).to_contain_text(MODELS[1])


async def test_a_page_follows_events_and_leaves_alone_what_somebody_does(
    real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = answers()
    async with dashboard(real_redis, settings, monkeypatch, told) as (page, _):
        await page.goto(f"/batches/{ONE}")
        await page.get_by_text("Raise or lower the cap").click()
        cap = page.get_by_label("New limit in USD")
        await cap.fill("25")
        told["GET", "/v1/batches/{batch_id}"] = batch(1, "completed", completed_at=1_790_000_000, x_eta=None)
        await expect(page.locator("#connection")).to_have_text("live")
        told["GET", "/v1/batches/{batch_id}"] = batch(1, x_blocked_on="no worker for openrouter.ai")
        await expect(page.get_by_text("no worker for openrouter.ai")).to_be_visible()
        await expect(cap).to_have_value("25")
        await expect(cap).to_be_focused()


async def test_without_a_script_forms_and_filters_work(
    real_redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dashboard(real_redis, settings, monkeypatch, answers(), scripts=False) as (page, asked):
        await page.goto(f"/batches/{ONE}")
        await page.get_by_label("State").select_option("failed")
        await page.get_by_role("button", name="Filter").click()
        await expect(page).to_have_url(re.compile("state=failed"))
        await page.get_by_role("button", name="Cancel batch").click()
        await expect(page.get_by_role("heading", name=ONE)).to_be_visible()
        await page.get_by_title("Change to dark").click()
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert ("POST", f"/v1/batches/{ONE}/cancel") in [call[:2] for call in asked.calls]
