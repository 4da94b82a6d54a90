"""A real browser that looks at the dashboard: Debian's Chromium, which fails a test on any error that it reports."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

PHONE, DESK = 390, 1280
PATIENCE_MS = 15_000  # only a test that fails waits so long

expect.set_options(timeout=PATIENCE_MS)

Scheme = Literal["light", "dark"]


def chromium() -> str:
    """Return where the browser is; without it tests are skipped at home and fail in CI."""
    found = shutil.which("chromium")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is missing: apt-get install chromium")
        pytest.skip("chromium is not installed")
    return found


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Start a browser."""
    path = chromium()
    async with async_playwright() as playwright:
        # without a sandbox: in a container it can't have one, and it sees nothing but our own pages
        started = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield started
        finally:
            await started.close()


@asynccontextmanager
async def looking(
    started: Browser, base: str, *, scheme: Scheme = "light", width: int = DESK, scripts: bool = True
) -> AsyncIterator[Page]:
    """Yield a page of a browser without a past. Whatever its console calls an error fails the test."""
    context = await started.new_context(
        base_url=base,
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        java_script_enabled=scripts,
        accept_downloads=True,
    )
    context.set_default_timeout(PATIENCE_MS)
    page = await context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    try:
        yield page
    finally:
        await context.close()
    assert errors == []


async def violations(page: Page) -> list[str]:
    """Return what axe finds wrong with a page: rule and place of each."""
    found = await Axe().run(page)
    return [
        f"{rule['id']} at {page.url}: {node['html'][:200]} {node['failureSummary']}"
        for rule in found.response["violations"]
        for node in rule["nodes"]
    ]
